"""What a model says of itself, so that the loop, the measures, the sliders and the report need not ask which family it is."""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from torch import nn

from helpers.models import settings
from helpers.models.layers import at_once, check_labels, prior_noise


class Player(NamedTuple):
    """One side of a training: a network and what it descends. Most models are one player, a game has several."""

    name: str
    network: nn.Module
    loss: Callable  # of (images, labels): named terms, what it descends under "loss"
    rate: float = 1.0  # its learning rate, as a multiple of the run's
    betas: tuple[float, float] = (0.9, 0.999)  # of Adam


class Model(nn.Module):
    """The base of every family: images (N, C, H, W), uint8 or floats in [0, 1], in; images in [0, 1] out.

    A family gives `Config`, a frozen dataclass with `image_shape` (and `classes` and `parts` where it takes labels), and
    loss(images, labels=None) -> dict of named terms with their total under "loss". Where it has them: decode(z, labels=None)
    -> images, which brings `sample`; encode(images) -> z; log_prob(images). The rest below are answers that hold for most.
    """

    Config: ClassVar[type]
    of: ClassVar[dict[type, type]] = {}  # configuration -> the model that it is of
    measures: ClassVar[tuple[str, ...]] = ("samples",)  # what tells its worth, of helpers.measures.MEASURES
    likelihood: ClassVar[str | None] = None  # the unit of log_prob as it is reported, "bits/dim" or "nats"; None: there is none
    exact: ClassVar[bool] = False  # log_prob is the probability itself, and no bound on it
    draws: ClassVar[bool] = True  # it makes images
    drawn_at: ClassVar[float] = 1.0  # the temperature at which its pictures are shown and its obedience to labels is measured
    free: ClassVar[bool] = False  # of labels: where it takes them, they may be left out
    passes: ClassVar[int] = 1  # of its networks, to draw an image
    watched: ClassVar[tuple[str, ...]] = ("loss",)  # the terms that people watch, of training and of validation
    halves: ClassVar[bool] = False  # it learns as well where its networks run in float16 with scaled gradients: tests/test_devices.py
    uneven: ClassVar[bool] = False  # a step of its training costs more at one time than at another
    step: int = 0  # of the training: the loop sets it, for what a loss schedules
    asked: frozenset[str] = frozenset()  # settings that somebody asked for, which no length of training changes

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "Config" in vars(cls):
            Model.of[cls.Config] = cls

    def __init__(self, config):
        super().__init__()
        settings.check(config)
        self.config = config

    @classmethod
    def settings_for(cls, image_shape, images: int, steps: int) -> dict:
        """What of its configuration follows from the training set and from how many steps it will be trained."""
        return {}

    @classmethod
    def settings_from(cls, kind: type, config) -> dict:
        """What of its configuration follows from the trained model, of that class and configuration, that it starts from."""
        return {}

    def start_part(self) -> nn.Module:
        """The part that takes the weights of what it starts from."""
        return self

    @property
    def latent_dim(self) -> int:
        return self.config.latent

    @property
    def labelled(self) -> bool:
        """Whether it is told the class of an image, and unless `free` must be."""
        return getattr(self.config, "classes", 0) > 0

    def _label(self, labels, n):
        """The labels of n images on its device, 0 for all where it is told none."""
        return torch.zeros(n, dtype=torch.long, device=self.device) if labels is None or not self.labelled else labels.to(self.device)

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    @property
    def device(self):
        return next(self.parameters()).device

    # ---- in training

    def players(self) -> list[Player]:
        """Who moves in one step of training, in this order."""
        return [Player("", self, self.loss)]

    def regions(self) -> list[nn.Module]:
        """The parts worth compiling."""
        return []

    def averaged_part(self) -> nn.Module:
        """The part whose weights are averaged over the training."""
        return self

    def initialize(self, images, labels=None) -> None:
        """Set the first weights that depend on data."""

    def prepare(self) -> None:
        """Do what every process of a training does before its steps; its seconds are the training's."""

    def finish(self, images) -> None:
        """Do what is left when the last weights stand."""

    def alarm(self, means: dict[str, float]) -> str | None:
        """A sentence while the training looks lost; means: of each term over the last few steps."""

    # ---- drawing

    def prior(self, n: int, temperature: float = 1.0) -> torch.Tensor:
        """n latents (n, latent_dim), with the prior's standard deviation multiplied by `temperature`."""
        return prior_noise(self, n, temperature)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None, **how) -> torch.Tensor:
        """n images in [0, 1] from the prior with its standard deviation multiplied by `temperature`; `how`: what `decode` takes beside labels."""
        z = self.prior(n, temperature)
        check_labels(self, labels, n)
        size = at_once(z.device)
        parts = [None] * n if labels is None else labels.to(z.device).split(size)
        return torch.cat([self.decode(part, label, **how) for part, label in zip(z.split(size), parts, strict=False)])
