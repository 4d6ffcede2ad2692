"""Training: devices.py, the loop in loop.py, what is looked at meanwhile in reports.py, checkpoints.py, several processes in team.py, an optimizer
in muon.py.
"""

from helpers.training.checkpoints import Checkpoint, aside, claimed, write_atomically, write_json
from helpers.training.devices import compiled, count_parameters, device_name, pick_device, pick_precision
from helpers.training.loop import TrainConfig, TrainState, fit, schedule, train_epoch, train_step
from helpers.training.reports import NonFiniteLoss
from helpers.training.team import Team

__all__ = [
    "Checkpoint", "NonFiniteLoss", "Team", "TrainConfig", "TrainState", "aside", "claimed", "compiled", "count_parameters", "device_name", "fit",
    "pick_device", "pick_precision", "schedule", "train_epoch", "train_step", "write_atomically", "write_json",
]  # fmt: skip
