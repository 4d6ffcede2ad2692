"""Training, whatever the model: a step, an epoch, and what they need. What is looked at meanwhile is in reports.py."""

import copy
import math
import platform
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import torch
from torch.optim.swa_utils import AveragedModel

from helpers import UserError, data
from helpers.models.layers import check_labels
from helpers.training.checkpoints import TURN, Checkpoint, aside, claimed, rng_state, set_rng_state
from helpers.training.devices import compiled, count_parameters, device_name, eager, enough_memory, pick_precision
from helpers.training.muon import Muon
from helpers.training.reports import Reporter
from helpers.training.team import Team


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the model: the learning rate falls along a cosine to 0, and rises in a line over the first steps."""

    epochs: int = 1
    minutes: float | None = None  # end after so many instead, on whatever machine: a few steps are measured, and the schedule is made to fit
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "cosine"  # or constant
    clip_norm: float = 1.0
    average: float = 0.0  # decay of a running average of the weights, which is what is looked at and kept in the end; 0: none
    optimizer: str = "adamw"  # or muon, which is AdamW but for matrices
    seed: int = 0
    precision: str = "auto"  # float32, bfloat16, float16, or auto: what of these the device is fast at and the model stands
    compile: bool = True
    train_images: int | None = None  # the first so many of the training set; None: all
    validation_images: int | None = 2_000  # the first so many, looked at in each report
    reports_per_epoch: int = 1  # a report: a row of the record, and a call of on_report


def schedule(step: int, warmup: int, total: int, kind: str = "cosine") -> float:
    """Factor on the learning rate: up in a line over `warmup` steps, and down along a cosine to 0 unless it is constant."""
    decay = {"cosine": 0.5 * (1 + math.cos(math.pi * step / total)), "constant": 1.0}[kind]
    return min(1.0, (step + 1) / max(1, warmup)) * decay


OPTIMIZERS = {"adamw": lambda network, **settings: torch.optim.AdamW(network.parameters(), **settings), "muon": Muon}


# ------------------------------------------------------------------------------------------------------------ state


@dataclass
class TrainState:
    """All that changes in a training: a run that was killed goes on from `state_dict()` as if nothing had happened."""

    model: torch.nn.Module
    optimizers: list
    scaler: torch.amp.GradScaler  # of gradients in float16; elsewhere it does nothing
    average: AveragedModel | None = None  # of the model's averaged_part()
    step: int = 0
    total_steps: int = 0  # of the whole training
    reported: int = 0  # the step of the last report
    seconds: float = 0.0  # of training, before this process took over
    looks: int = 0  # how often in a row the training looked lost
    sums: dict = field(default_factory=dict)  # of each term of the loss since the last report
    lowest: dict = field(default_factory=dict)  # value of each term since then
    epochs: list = field(default_factory=list)  # a row for each report
    alarms: list = field(default_factory=list)

    PLAIN = ("step", "total_steps", "reported", "seconds", "looks", "sums", "lowest", "epochs", "alarms")

    def state_dict(self) -> dict:
        average = self.average.state_dict() if self.average else None
        found = {"model": self.model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in self.optimizers], "average": average}
        found |= {"scaler": self.scaler.state_dict()}
        return found | {name: getattr(self, name) for name in self.PLAIN} | {"rng": rng_state()}

    def load_state_dict(self, found: dict) -> None:
        self.model.load_state_dict(found["model"])
        for optimizer, state in zip(self.optimizers, found["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(found["scaler"])
        if self.average:
            self.average.load_state_dict(found["average"])
        for name in self.PLAIN:
            setattr(self, name, found[name])
        set_rng_state(found["rng"])

    def swap(self) -> None:
        """Put the averaged weights into the model and the model's into the average; once more, and all is as it was."""
        if self.average:
            part = self.model.averaged_part()
            now = {name: tensor.clone() for name, tensor in part.state_dict().items()}
            part.load_state_dict(self.average.module.state_dict())
            self.average.module.load_state_dict(now)


def averaged(model, decay: float, state) -> AveragedModel | None:
    """A running average of the model's weights, None where decay is 0: average <- d * average + (1 - d) * weights.

    At first it follows fast, d = (1 + step) / (10 + step), so that the random start is forgotten. Buffers such as running
    means are averaged too; whole numbers are copied.
    """
    if not 0 <= decay < 1:
        raise UserError(f"A running average of decay {decay} was asked for: take a number from 0 (none) to below 1.")
    if decay == 0:
        return None

    def move(slow, fast, _):
        if slow[0].is_floating_point():
            torch._foreach_lerp_(slow, fast, 1 - min(decay, (1 + state.step) / (10 + state.step)))
        else:
            torch._foreach_copy_(slow, fast)

    average = AveragedModel(model.averaged_part(), multi_avg_fn=move, use_buffers=True)
    average.requires_grad_(False)
    average.n_averaged.fill_(1)  # it starts as the first weights
    return average


class Training:
    """What stays the same during a training, and its `state`. UserError where the data don't fit the model or the team."""

    def __init__(self, model, dataset, config: TrainConfig, team: Team, start: dict | None = None):
        self.begun_from = start
        self.model, self.dataset, self.config, self.team = model, dataset, config, team
        self.images, self.labels = (part[: config.train_images] for part in dataset.part("train"))
        self.batch_size = min(config.batch_size, len(self.images))
        self.mine = team.share(self.batch_size)
        self.steps_per_epoch = len(self.images) // self.batch_size
        self.precision = pick_precision(model.device, model.halves) if config.precision == "auto" else config.precision
        normed = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules())
        if config.minutes is not None and not 0 < config.minutes < math.inf:
            raise UserError(f"A training of {config.minutes} minutes was asked for: ask for more than 0.")
        if not 0 <= config.learning_rate < math.inf:
            raise UserError(f"A learning rate of {config.learning_rate} was asked for: take a number from 0 up.")
        if normed and self.mine.stop - self.mine.start < 2:
            raise UserError("A batch of 1 image was given to batch norm, which needs the spread of several: give each process at least 2.")
        if model.labelled:
            check_labels(model, self.labels, len(self.images))
        self.players = model.players()

    @cached_property
    def named(self) -> dict:
        """What was asked for."""
        model, config = self.model, self.config
        return {"model": type(model).__name__, "model_config": asdict(model.config), "train_config": asdict(config), "dataset": self.dataset.name}

    @cached_property
    def identity(self) -> dict:
        """What a checkpoint must agree with: what was asked for, the data themselves, the weights at the start, and how numbers are rounded."""
        asked = {name: part for name, part in self.named.items() if name != "dataset"}  # whose name is how somebody spelt it
        asked["train_config"] = asked["train_config"] | {"precision": self.precision}
        return asked | {"data": self.dataset.identity(self.model.labelled), "start": self.begun_from, "device": self.model.device.type}

    def start(self, checkpoint: Checkpoint | None) -> None:
        """Begin: at random, from the configuration's seed, or where `checkpoint` left off."""
        torch.manual_seed(self.config.seed)
        self.model.train().to(memory_format=torch.channels_last)
        found = checkpoint.load() if checkpoint else None
        if found is None:
            self.model.initialize(self.images[:1_000], self.labels[:1_000])
        settings = {"lr": self.config.learning_rate, "weight_decay": self.config.weight_decay, "fused": self.model.device.type in ("cuda", "cpu")}
        optimizers = [OPTIMIZERS[self.config.optimizer](player.network, betas=player.betas, **settings) for player in self.players]
        scaler = torch.amp.GradScaler(self.model.device.type, enabled=self.precision == "float16")
        self.state = TrainState(self.model, optimizers, scaler, total_steps=self.config.epochs * self.steps_per_epoch)
        self.state.average = averaged(self.model, self.config.average, self.state)
        if found is not None:
            self.state.load_state_dict(found)
            self.end_at(self.state.total_steps)
        if self.team.average(torch.tensor(float(self.state.step), device=self.model.device)).item() != self.state.step:
            raise UserError("Not every process sees the same checkpoint: resume in a folder that all hosts share.")

    @property
    def total_steps(self) -> int:
        return self.state.total_steps

    def end_at(self, steps: int) -> None:
        """Plan for so many steps in all, of which what the model itself schedules takes its share."""
        self.state.total_steps = steps
        if self.config.minutes:
            settings = self.model.settings_for(tuple(self.images.shape[1:]), len(self.images), steps)
            self.model.config = replace(self.model.config, **{k: v for k, v in settings.items() if k not in self.model.asked})

    def losses(self, player, images, labels) -> dict[str, torch.Tensor]:
        with torch.autocast(images.device.type, getattr(torch, self.precision), enabled=self.precision != "float32"):
            return player.loss(images, labels)

    def rehearse(self) -> bool:
        """The first call of compiled code is the one that compiles: a step that leaves no trace, in random numbers or in running means.

        False where the compiler breaks on this model, which then goes on eagerly: of torch 2.11 on an H200 it did on a VAE's way back.
        """
        rng, before = rng_state(), {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        try:
            for player in self.players:
                self.losses(player, self.images[: self.batch_size][self.mine], self.labels[: self.batch_size][self.mine])["loss"].backward()
        except torch._dynamo.exc.TorchDynamoException as error:
            eager(self.model)
            warnings.warn(f"torch.compile breaks on this model ({type(error).__name__}): it goes on eagerly, slower.", stacklevel=3)
            return False
        finally:
            for optimizer in self.state.optimizers:
                optimizer.zero_grad()
            for name, buffer in self.model.named_buffers():
                buffer.copy_(before[name])
            set_rng_state(rng)
        return True

    def pace(self) -> float:
        """Mean seconds of a step: a few are taken, of a model whose steps change all along its schedule, and undone."""
        before, seconds = copy.deepcopy(self.state.state_dict()), []
        batch = self.images[: self.batch_size][self.mine], self.labels[: self.batch_size][self.mine]
        for share in (0.1, 0.3, 0.5, 0.7, 0.9) if self.model.uneven else (0.0,):
            self.state.step = int(share * self.total_steps)
            for timed in (False, True, True, True):
                begun = time.perf_counter()
                sum(term.sum() for term in train_step(self, *batch).values()).item()  # which waits for the device
                seconds += [time.perf_counter() - begun] * timed
        for optimizer in self.state.optimizers:
            optimizer.zero_grad()
        self.state.load_state_dict(before)
        return sum(seconds) / len(seconds)


# ------------------------------------------------------------------------------------------------------------- loop


def train_step(run: Training, images, labels) -> dict[str, torch.Tensor]:
    """Every player sees the batch and moves once. Returns the terms of their losses, which stay on the device."""
    state, config, terms = run.state, run.config, {}
    run.model.step = state.step  # for what a loss schedules
    rate = config.learning_rate * schedule(state.step, config.warmup_steps, run.total_steps, config.schedule)
    for player, optimizer in zip(run.players, state.optimizers, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = player.rate * rate
        found = run.losses(player, images, labels)
        optimizer.zero_grad()
        state.scaler.scale(found["loss"]).backward()  # of float16 alone: small gradients would become 0
        run.team.average_gradients(player.network)
        state.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(player.network.parameters(), config.clip_norm)
        found["gradient_norm"] = norm.nan_to_num(0, 0) if state.scaler.is_enabled() else norm  # what overflows is not stepped, and scaled less
        with torch.autocast(images.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):  # Muon's products, as Jordan 2024 has them
            state.scaler.step(optimizer)
        terms |= {f"{player.name}_{name}".lstrip("_"): term.detach() for name, term in found.items()}
    state.scaler.update()
    run.team.average_buffers(run.model)
    if state.average:
        state.average.update_parameters(run.model.averaged_part())
    state.step += 1
    return terms


def train_epoch(run: Training, reporter: Reporter) -> None:
    """All training images once, in an order that seed and epoch fix; an epoch that was cut off goes on where it was."""
    epoch, first = divmod(run.state.step, run.steps_per_epoch)
    order = data.epoch_order(len(run.images), run.config.seed, epoch).to(run.images.device)
    for i in range(first, min(run.steps_per_epoch, first + run.total_steps - run.state.step)):
        index = order[i * run.batch_size : (i + 1) * run.batch_size][run.mine]
        with TURN:
            terms = train_step(run, run.images[index], run.labels[index])
        reporter.after_step(terms)


def fit(model, dataset, config: TrainConfig, folder=None, resume=False, on_report=None, progress=True, start=None, alone=False) -> dict:
    """Train `model` in place on `dataset` and return its record: configuration, device, seconds, losses by epoch.

    The loop alone: what belongs to a run, its folder, its weights and its record, is helpers.runs.Run's.

    model: a helpers.models.model.Model. Of several networks that play against each other a term of player "generator" is
    recorded as "generator_...", and of the terms in `watched` the lowest value too.
    folder: where the checkpoint is kept; None keeps none. resume: go on from the checkpoint there.
    on_report(model, epoch): called with each report, and at the start with epoch 0; what it draws at random does not
    change the training. With several reports an epoch, `epoch` is a fraction. Where weights are averaged, it sees, as the
    validation does, the averaged ones, and they are what `model` has in the end.
    start: which weights `model` has been given, of which a checkpoint must be too. alone: whatever other processes there are.
    Raises NonFiniteLoss where a term of the loss stops being finite, UserError where a checkpoint does not fit, the memory
    does not suffice, or another run is writing to the folder.
    """
    team = Team(alone)
    with claimed(folder if team.first else None), enough_memory(config.batch_size):
        run = Training(model, dataset, config, team, start)
        checkpoint = Checkpoint(folder, run.identity) if folder else None
        with TURN:
            run.start(checkpoint if resume and checkpoint and checkpoint.exists() else None)
        with compiled(model, config.compile) as is_compiled:
            begun = time.perf_counter()
            with TURN, torch.autocast(model.device.type, getattr(torch, run.precision), enabled=run.precision != "float32"):
                model.prepare()
            run.state.seconds += time.perf_counter() - begun
            begun = time.perf_counter()
            with TURN:
                is_compiled = is_compiled and run.rehearse()
            compile_seconds = time.perf_counter() - begun if config.compile else 0.0
            team.own_noise(config.seed, run.state.step)
            with Reporter(run, checkpoint, on_report, progress) as reporter:
                reporter.plan()
                while run.state.step < run.total_steps:
                    train_epoch(run, reporter)
        run.state.swap()
        with aside(config.seed, model):
            model.finish(run.images)
    record = run.named | {
        "model_config": asdict(model.config),
        "seed": config.seed,
        "parameters": count_parameters(model),
        "train_images": len(run.images),
        "device": device_name(model.device),
    }
    record |= {"processes": team.size} if team.size > 1 else {}
    record |= {
        "precision": run.precision,
        "compiled": is_compiled,
        "seconds": round(reporter.seconds(), 1),
        "compile_seconds": round(compile_seconds, 1),
    }
    record |= {"versions": {"python": platform.python_version(), "torch": torch.__version__}, "epochs": run.state.epochs}
    return record | ({"alarms": run.state.alarms} if run.state.alarms else {})
