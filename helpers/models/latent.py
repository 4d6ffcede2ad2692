"""Latent flow matching: the velocity of codes instead of pixels, the trick behind Stable Diffusion.

An autoencoder is trained first and stays as it is. A velocity then learns where its codes lie, and what it draws is decoded
(Vahdat et al. 2021; Rombach et al. 2022). Codes are few numbers, so a small network and a small machine are enough.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import nn

from helpers import UserError
from helpers.models.autoencoders import VAE, Autoencoder
from helpers.models.layers import pixels
from helpers.models.matching import Matching, PathConfig
from helpers.models.model import Player
from helpers.models.settings import Count, Only, Share, Size
from helpers.models.velocities import waves


@dataclass(frozen=True)
class LatentConfig(PathConfig):
    """A velocity of codes, and the autoencoder that they are of."""

    coder: Literal["vae", "autoencoder"] = "vae"  # or autoencoder
    latent: Size = 32  # this and the four that follow are the autoencoder's own settings
    network: Literal["conv", "mlp"] = "conv"
    coder_width: Size = 32
    coder_blocks: Count = 2
    likelihood: Annotated[Literal["bernoulli", "grey", "logistic"], Only("coder", ("vae",))] = "bernoulli"  # of a VAE
    width: Size = 256  # units of the velocity's layers
    blocks: Count = 3
    draws: Size = 16  # paths to each code in a step of training: a code costs more than they do
    hidden_labels: Annotated[Share, Only("classes")] = 0.5  # half, so that codes are learned told nothing as well


class CodeVelocity(nn.Module):
    """v(x, t, label) of codes: a residual MLP that starts as 0.

    x (N, D), t (N,), label (N,) whole numbers up to `labels`, the last of which stands for none.
    """

    def __init__(self, config: LatentConfig):
        super().__init__()
        self.labels = config.classes**config.parts if config.classes else 0
        self.register_buffer("frequencies", waves(5, 16), persistent=False)
        self.first = nn.Linear(config.latent, config.width)
        self.time = nn.Linear(32, config.width)
        self.label = nn.Embedding(self.labels + 1, config.width)
        self.blocks = nn.ModuleList(self.block(config.width) for _ in range(config.blocks))
        self.last = nn.Sequential(nn.LayerNorm(config.width), nn.SiLU(), nn.Linear(config.width, config.latent))
        nn.init.zeros_(self.last[-1].weight)
        nn.init.zeros_(self.last[-1].bias)

    @staticmethod
    def block(width: int) -> nn.Sequential:
        return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x, t, label):
        angles = t[:, None] * self.frequencies
        told = self.time(torch.cat([angles.cos(), angles.sin()], dim=1)) + self.label(label)
        h = self.first(x) + told
        for block in self.blocks:
            h = h + block(h + told)
        return self.last(h).to(x.dtype)


class LatentMatching(Matching):
    """Flow matching of the codes of an autoencoder, which are brought to mean 0 and standard deviation 1 each.

    Its own latents (N, D) are the noise that codes come from. A VAE's code is a draw from q(z|x), anew in each step.
    A training starts from a trained autoencoder (`weights.start_from`), which stays as it is.
    """

    Config = LatentConfig
    coders: ClassVar = {"vae": VAE, "autoencoder": Autoencoder}

    def __init__(self, config: LatentConfig):
        super().__init__(config)
        settings = {"image_shape": config.image_shape, "latent": config.latent, "network": config.network}
        settings |= {"width": config.coder_width, "blocks": config.coder_blocks}
        settings |= {"likelihood": config.likelihood} if config.coder == "vae" else {}
        kind = self.coders[config.coder]
        self.coder = kind(kind.Config(**settings)).requires_grad_(False)
        self.velocity = CodeVelocity(config)
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("std", torch.ones(config.latent))

    @classmethod
    def settings_from(cls, kind: type, config) -> dict:
        name = next((name for name, coder in cls.coders.items() if coder is kind), None)
        if name is None:
            raise UserError(f"A velocity of codes starts from a VAE or an autoencoder, and these weights are of a {kind.__name__}.")
        found = {"coder": name, "latent": config.latent, "network": config.network}
        found |= {"coder_width": config.width, "coder_blocks": config.blocks}
        return found | ({"likelihood": config.likelihood} if name == "vae" else {})

    def start_part(self) -> nn.Module:
        return self.coder

    def players(self) -> list[Player]:
        return [Player("", self.velocity, self.loss)]

    def averaged_part(self) -> nn.Module:
        return self.velocity

    @property
    def point_shape(self) -> tuple[int, ...]:
        return (self.config.latent,)

    # ---- codes as points

    @torch.no_grad()
    def codes(self, images):
        """Mean and standard deviation of the code of each image, (N, D) each; an autoencoder's has none of the latter."""
        if self.config.coder == "autoencoder":
            mean = self.coder.encode(images)
            return mean, torch.zeros_like(mean)
        mean, log_std, _ = self.coder.posterior(pixels(self, images))
        return mean, log_std.exp()

    @torch.no_grad()
    def initialize(self, images, labels=None) -> None:
        mean, std = self.codes(images)
        drawn = mean + std * torch.randn_like(mean)
        self.mean.copy_(drawn.mean(0))
        self.std.copy_(drawn.std(0).clamp(min=1e-3))  # a latent that tells nothing has no width

    def points(self, images, noise: float | None = None, draws: int = 1):
        """Codes (draws * N, D), drawn from q(z|x); noise: how many standard deviations from its mean instead."""
        mean, std = self.codes(images)
        chance = torch.randn(draws, *mean.shape, dtype=mean.dtype, device=mean.device) if noise is None else torch.full_like(mean[None], noise)
        return ((mean + std * chance - self.mean) / self.std).flatten(0, 1)

    def images(self, points):
        return self.coder.decode(points * self.std + self.mean)

    @torch.no_grad()
    def encode(self, images, labels=None, steps: int | None = None) -> torch.Tensor:
        """The noise (N, D) that the mean of each image's code comes from."""
        return self.noise_of(self.points(images, noise=0.0), labels, steps)

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean squared error of the velocity a dimension, at a random time of `draws` random paths to a code of each image."""
        draws = self.config.draws
        return self.loss_of(self.points(images, draws=draws), None if labels is None else labels.repeat(draws))
