"""A run: one training in a folder of its own, from what was asked to what is shipped.

It owns its folder, whose name tells data, size and settings apart; its identity, which a checkpoint must agree with; and its
states, each written the moment that it is reached: **trained** (weights and their record), **measured** (the record with its
metrics) and **shipped** (a copy under weights/ and results/). Command line, notebooks, experiments, speedrun and judges all train so.
"""

import hashlib
import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from helpers import UserError, data, training, weights
from helpers.recipes import settings_of
from helpers.training import checkpoints

WEIGHTS, RECORD, CHECKPOINT = "model.safetensors", "result.json", "checkpoint.pt"


@dataclass
class Run:
    """One training of `model` on `dataset`, as `config` says.

    name: what it is in RECIPES; None: the first of its class there. profile: whose settings it has, for the record.
    start: what `weights.start_from` has given it. command: how to do it again.
    folder: where all of it is kept. under: a folder in which it gets one of its own, by `folder_name`. Neither: nothing is kept.
    """

    model: object
    dataset: data.Dataset
    config: training.TrainConfig
    name: str | None = None
    profile: str | None = None
    start: dict | None = None
    folder: Path | str | None = None
    under: Path | str | None = None
    command: str | None = None
    record: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.name is None and (self.folder or self.under) is not None:
            self.name = weights.name_of(self.model)
        if self.folder is None and self.under is not None:
            self.folder = Path(self.under) / self.folder_name()
        self.folder = None if self.folder is None else Path(self.folder)

    def folder_name(self) -> str:
        """Model, data set, profile, seed, and eight digits that tell it from a run of other pictures, another size or other settings."""
        asked = {"model": self.name, "config": asdict(self.model.config), "train": asdict(self.config)}
        asked["start"] = self.start and self.start["start_sha256"]
        asked["data"] = self.dataset.identity(self.model.labelled)
        short = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
        place = Path(self.dataset.name).resolve().name.removesuffix(".npz")  # however it was spelt
        return "-".join(filter(None, (self.name, place, self.profile, str(self.config.seed), short)))

    # ---- trained

    def train(self, resume: bool = False, on_report=None, progress: bool = True, alone: bool = False) -> dict:
        """Train, or go on where the checkpoint stands; the record. The arguments are those of `training.fit`.

        When it returns the weights and their record are in the folder; what an earlier run has left there is gone or kept aside.
        """
        how = {"on_report": on_report, "progress": progress, "alone": alone}
        if resume and self.start is None and self.folder is not None and (self.folder / CHECKPOINT).exists():
            self.start = checkpoints.read(self.folder / CHECKPOINT)["identity"].get("start")  # whoever goes on goes on from the same start
        if not training.Team(alone).first:  # the first of several processes keeps the folder
            training.fit(self.model, self.dataset, self.config, self.folder, resume, start=self.start, **how)
            return {}
        with training.claimed(self.folder):
            resume = self.folder is not None and self.look_back(resume, progress)
            self.record = training.fit(self.model, self.dataset, self.config, self.folder, resume, start=self.start, **how)
            self.model.eval()
            start = {"start": None, "seconds_before": 0.0} if self.start is None else self.start
            told = {"profile": self.profile, "model": self.name, "command": self.command, "data_sha256": self.dataset.fingerprint()}
            self.record |= {key: value for key, value in told.items() if value is not None} | start
            self.keep_weights()
        return self.record

    def look_back(self, resume: bool, progress: bool) -> bool:
        """Whether there is a checkpoint to go on from; one that is not wanted is kept aside."""
        path = self.folder / CHECKPOINT
        if resume and not path.exists():
            print(f"There is no checkpoint in {self.folder}: the training starts anew.")
        if path.exists() and not resume:
            aside = path.with_suffix(".old.pt")
            if progress:
                print(f"{path} of an earlier run is kept as {aside.name}; --resume, or RESUME in a notebook, would go on with it.")
            path.replace(aside)
        return resume and path.exists()

    def left(self) -> str:
        """What a training or a measuring that was stopped has left, and how to go on."""
        if self.record:
            return f"the weights and their record are in {self.folder}; `python -m helpers evaluate {self.folder} --record` measures them"
        checkpoint = self.folder / CHECKPOINT
        kept = f"{checkpoint} is kept; the same command with --resume goes on from there"
        return kept if checkpoint.exists() else "no checkpoint was due yet"

    def keep_weights(self) -> None:
        """Weights and record into the folder: at no moment does a record stand beside weights that it is not of."""
        if self.folder is None:
            return
        info = {key: self.record[key] for key in ("dataset", "seed", "seconds", "seconds_before", "device")}
        info |= {} if self.dataset.name in data.CLASSES else {"classes": self.dataset.classes}  # nobody else knows those of one's own
        (self.folder / RECORD).unlink(missing_ok=True)
        weights.save_model(self.model, self.folder / WEIGHTS, info, self.name)
        self.record["weights_sha256"] = sha256(self.folder / WEIGHTS)
        training.write_json(self.folder / RECORD, self.record)

    # ---- measured

    def measured(self, metrics: dict) -> None:
        """Keep what was measured of it, as helpers.measures.measure does."""
        self.record["metrics"] = metrics
        if self.folder is not None:
            training.write_json(self.folder / RECORD, self.record)


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def finished(folder) -> dict:
    """The record of the run that has left weights in a folder. UserError where there is none, or it is of other weights."""
    folder = Path(folder)
    try:
        record, found = json.loads((folder / RECORD).read_bytes()), sha256(folder / WEIGHTS)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "its record is damaged"
        raise UserError(f"{folder} holds no finished run ({reason}): give the folder of one that `train` has left.") from None
    if record.get("weights_sha256") != found:
        raise UserError(f"The record in {folder} is of other weights than those beside it: train again.")
    return record


def keep_metrics(folder, metrics: dict) -> None:
    """What was measured of a finished run, into its record."""
    training.write_json(Path(folder) / RECORD, finished(folder) | {"metrics": metrics})


def command_line() -> str:
    """The command of this process, so that a shell reads it as it was."""
    return shlex.join(["python", "-m", "helpers", *sys.argv[1:]])


# ---- shipped


def ship(folder, name: str, settings: list[str] | None = None) -> None:
    """Put a measured run into weights/ and results/ under `name`, in half precision, and enter it in the index.

    Its seconds there include those of the weights that it started from. settings: "guidance=1.0", of what is not in the
    weights but decides how they are used; what was measured before is then to be measured again (`evaluate --record`).
    """
    record = finished(folder)
    left = record.get("metrics", {}).get("not_measured", {})
    if left or not record.get("metrics"):
        what = "; ".join(f"{measure}: {why}" for measure, why in left.items()) or "nothing yet"
        raise UserError(f"The run in {folder} is not measured ({what}): `python -m helpers evaluate {folder} --record` does it.")
    weights.store(name, (Path(folder) / WEIGHTS).read_bytes(), record, settings_of(record["model"], settings or []))
