"""What is looked at while a model is trained: the bar, sums of losses, validation, alarms, checkpoints."""

import math
import os
import time
from dataclasses import replace

import torch

from helpers import UserError
from helpers.progress import bar, write
from helpers.training.checkpoints import aside
from helpers.training.devices import device_name

CHECKPOINT_SECONDS = float(os.environ.get("CHECKPOINT_SECONDS", 30))  # what a killed run can lose at most
CHECK_STEPS = 10  # between looks at the losses: each look makes the processor wait for the device
MOST_REPORTS = 60  # of a run: of a longer one they are spread over all of it
BAR = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # with two losses within 80 columns
LOOKS = 20  # in a row at which a training looks lost before anybody is told


class NonFiniteLoss(UserError):
    """A loss became infinite or NaN."""


class Reporter:
    """Stands beside the loop: `after_step` takes the terms of each step and does what is due. Closed, its clock has stopped."""

    def __init__(self, run, checkpoint=None, on_report=None, progress: bool = True):
        self.run, self.on_report = run, on_report
        self.checkpoint = checkpoint if run.team.first else None
        self.progress, self.planned = progress and run.team.first, progress or run.config.minutes is not None
        self.pending = []  # terms that are still on the device
        self.started = self.saved = time.perf_counter()
        self.stopped, self.looking = None, 0.0  # seconds that on_report takes
        self.bar = bar(total=run.total_steps, initial=run.state.step, disable=not self.progress, mininterval=0.5, bar_format=BAR)

    def __enter__(self):
        if self.on_report and self.run.state.step == 0 and self.run.team.first:
            with aside(self.run.config.seed, self.run.model):
                begun = time.perf_counter()
                self.on_report(self.run.model, 0)
                self.looking = time.perf_counter() - begun
        return self

    def plan(self) -> None:
        """Measure a few steps; make the schedule fit the minutes asked for, if it has not begun; say how long it will take."""
        if not self.planned:  # the same for every process: they step together
            return
        run, minutes, begun = self.run, self.run.config.minutes, time.perf_counter()
        step, report, often = run.pace(), self.seconds_of_a_report(), run.config.reports_per_epoch / run.steps_per_epoch
        if minutes and not run.state.step:
            steps = 60 * minutes / (step + report * often)  # a step and its share of the reports
            if steps * often > MOST_REPORTS:
                steps = (60 * minutes - MOST_REPORTS * report) / step
            run.end_at(max(1, round(run.team.average(torch.tensor(steps, device=run.model.device)).item())))
        self.bar.initial = 0
        self.bar.reset(run.total_steps)
        self.bar.n = self.bar.initial = self.bar.last_print_n = run.state.step  # by `update` they would count as steps of this moment
        if self.progress:
            left = run.total_steps - run.state.step
            seconds = left * step + sum(self.due(i) for i in range(run.state.step + 1, run.total_steps + 1)) * report
            write(f"{left:,} steps of {step:.3g} s, reports of {report:.2g} s: about {duration(seconds)} on {device_name(run.model.device)}")
        self.started += time.perf_counter() - begun

    def seconds_of_a_report(self) -> float:
        """Of what `report` looks at, by a part of the validation images."""
        run = self.run
        few = min(500, len(run.dataset.part("validation")[0]), run.config.validation_images or 500)
        begun = time.perf_counter()
        with aside(run.config.seed, run.model):
            validate(run.model, run.dataset, replace(run.config, validation_images=few))
        whole = len(run.dataset.part("validation")[0][: run.config.validation_images])
        return (time.perf_counter() - begun) * whole / few + self.looking

    def __exit__(self, *_):
        self.bar.close()
        self.stopped = time.perf_counter()

    def seconds(self) -> float:
        """Of training, those of an earlier process included."""
        return self.run.state.seconds + (self.stopped or time.perf_counter()) - self.started

    def after_step(self, terms: dict) -> None:
        self.pending.append(terms)
        step, due = self.run.state.step, self.due(self.run.state.step)
        if not due and len(self.pending) < CHECK_STEPS:
            return
        means = self.collect()
        self.tell(means)
        if due:
            self.report()
        if self.checkpoint and (step == self.run.total_steps or time.perf_counter() - self.saved > CHECKPOINT_SECONDS):
            self.checkpoint.save(self.run.state.state_dict() | {"seconds": self.seconds()})
            self.saved = time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether a report follows this step."""
        reports, steps, total = self.run.config.reports_per_epoch, self.run.steps_per_epoch, self.run.total_steps
        if reports * total > MOST_REPORTS * steps:
            reports, steps = MOST_REPORTS, total
        return step * reports // steps > (step - 1) * reports // steps or step == total

    def collect(self) -> dict[str, float]:
        """Fetch the terms of the last steps, add them to the state's sums, or raise if one is not finite; return their means."""
        run, state, names = self.run, self.run.state, list(self.pending[0])
        table = torch.stack([torch.stack([terms[name].float() for name in names]) for terms in self.pending])
        table, self.pending = run.team.average(table).cpu().double(), []
        if not table.isfinite().all():
            row = int((~table.isfinite()).any(dim=1).nonzero()[0])
            broken = [name for name, value in zip(names, table[row].tolist(), strict=True) if not math.isfinite(value)]
            kept = (
                f"the last good checkpoint is {self.checkpoint.path}"
                if self.checkpoint and self.checkpoint.exists()
                else "there is no checkpoint yet"
            )
            raise NonFiniteLoss(
                f"At step {state.step - len(table) + row + 1} the loss stopped being finite ({', '.join(broken)}); {kept}: "
                "lower the learning rate or the clipping norm, or use precision float32."
            )
        for name, total, least in zip(names, table.sum(dim=0).tolist(), table.amin(dim=0).tolist(), strict=True):
            state.sums[name] = state.sums.get(name, 0.0) + total
            state.lowest[name] = min(least, state.lowest.get(name, math.inf))
        self.bar.update(len(table))
        return dict(zip(names, table.mean(dim=0).tolist(), strict=True))

    def tell(self, means: dict[str, float]) -> None:
        """The bar's numbers, and an alarm once the training has looked lost for LOOKS looks in a row."""
        run, state = self.run, self.run.state
        numbers = ", ".join(f"{name.removesuffix('_loss').replace('_', ' ')} {means[name]:.3f}" for name in run.model.watched)
        epoch, epochs = (math.ceil(steps / run.steps_per_epoch) for steps in (state.step, run.total_steps))
        self.bar.set_postfix_str(f"{numbers}, epoch {epoch}/{epochs}", refresh=False)
        message = run.model.alarm(means)
        state.looks = state.looks + 1 if message else 0
        if state.looks == LOOKS:
            state.alarms.append({"step": state.step, "what": message})
            if run.team.first:
                write(f"step {state.step}: {message}")

    def report(self) -> None:
        """A row of the record: means of the training's terms since the last report, and the validation's."""
        run, state, watched = self.run, self.run.state, self.run.model.watched
        row = {"epoch": round(state.step / run.steps_per_epoch, 2), "step": state.step}
        row |= {f"train_{name}": total / (state.step - state.reported) for name, total in state.sums.items()}
        if len(run.players) > 1:
            row |= {f"lowest_{name}": state.lowest[name] for name in watched}
        state.sums, state.lowest, state.reported = {}, {}, state.step
        if not run.team.first:
            return
        state.swap()
        with aside(run.config.seed, run.model):
            row |= {f"validation_{name}": value for name, value in validate(run.model, run.dataset, run.config).items()}
            row["seconds"] = round(self.seconds(), 1)
            state.epochs.append(row)
            if self.on_report:
                self.on_report(run.model, row["epoch"])
        state.swap()
        short, last = run.total_steps <= run.steps_per_epoch, state.step == run.total_steps
        if self.progress and (short or last or row["epoch"] % 1 == 0):  # of a long run one line an epoch
            numbers = [f"{n.replace('_', ' ')}: train {row['train_' + n]:.4f}, validation {row['validation_' + n]:.4f}" for n in watched]
            write(f"epoch {row['epoch']:g}: {'; '.join(numbers).removeprefix('loss: ')}, {row['seconds']:.0f} s")


def duration(seconds: float) -> str:
    """ "40 s", "12 minutes", "3.5 hours"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 100 * 60 else f"{seconds / 3_600:.1f} hours"


def validate(model, dataset, config) -> dict[str, float]:
    """Mean of each term of the loss over the validation images, in float32."""
    images, labels = (part[: config.validation_images] for part in dataset.part("validation"))
    totals = {}
    parts = math.ceil(len(images) / 250)  # of equal size: minibatch statistics need more than one image
    for batch, batch_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        for name, value in model.loss(batch, batch_labels).items():
            totals[name] = totals.get(name, 0.0) + value.item() * len(batch)
    return {name: total / len(images) for name, total in totals.items()}
