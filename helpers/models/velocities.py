"""Networks of a velocity of images, v(x, t, label): what they are made of is a matching.MatchingConfig."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers.models.layers import Attention


class Modulated(nn.Module):
    """Residual block whose channels are scaled and shifted by what it is told (FiLM, Perez et al. 2018): (N, C, H, W) to the same."""

    def __init__(self, channels, told):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_told, self.conv_told = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.film = nn.Linear(told, 2 * channels)
        nn.init.zeros_(self.conv_told.weight)
        nn.init.zeros_(self.conv_told.bias)

    def forward(self, x, told):
        scale, shift = self.film(told)[:, :, None, None].chunk(2, dim=1)
        h = self.conv(F.silu(self.norm(x)))
        return x + self.conv_told(F.silu(self.norm_told(h) * (1 + scale) + shift))


def waves(last: float, n: int) -> torch.Tensor:
    """n frequencies from 1 to exp(last), in even ratios; by way of float64, so that every processor rounds them alike."""
    return torch.linspace(0, last, n, dtype=torch.float64).exp().float()


class Velocity(nn.Module):
    """v(x, t, label) of images: what a network is told of time and label; `network(x, told)` is a family's own.

    x (N, C, H, W), t (N,), label (N,) whole numbers up to `labels`, the last of which stands for none.
    """

    def __init__(self, config):
        super().__init__()
        fine, told = config.width[0], 2 * config.width[1]
        self.labels = config.classes**config.parts if config.classes else 0
        self.register_buffer("frequencies", waves(math.log(1_000), fine), persistent=False)
        self.time = nn.Sequential(nn.Linear(2 * fine, told), nn.SiLU(), nn.Linear(told, told))
        self.label = nn.Embedding(self.labels + 1, told)

    def angles(self, t):
        """Times (N,) as cosines and sines of many frequencies."""
        angles = t[:, None] * self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1)

    def told(self, t, label):
        return self.time(self.angles(t)) + self.label(label)

    def forward(self, x, t, label):
        return self.network(x, F.silu(self.told(t, label)))


class UNet(Velocity):
    """A small U-Net (Ronneberger et al. 2015) over images of which each 2x2 patch is a pixel of four times the channels. It starts as 0."""

    def __init__(self, config):
        super().__init__(config)
        channels, (fine, coarse), told = 4 * config.image_shape[0], config.width, 2 * config.width[1]
        self.first = nn.Conv2d(channels, fine, 3, padding=1)
        self.down = nn.ModuleList(Modulated(fine, told) for _ in range(config.blocks))
        self.shrink = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.middle = nn.ModuleList(Modulated(coarse, told) for _ in range(2 * config.blocks))
        self.attention = nn.ModuleList(Attention(coarse) for _ in range(config.blocks if config.attention else 0))
        self.grow = nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2))
        self.join = nn.Conv2d(2 * fine, fine, 1)
        self.up = nn.ModuleList(Modulated(fine, told) for _ in range(config.blocks))
        self.last = nn.Sequential(nn.GroupNorm(8, fine), nn.SiLU(), nn.Conv2d(fine, channels, 3, padding=1))
        nn.init.zeros_(self.last[-1].weight)
        nn.init.zeros_(self.last[-1].bias)

    def network(self, x, told):
        h = self.first(F.pixel_unshuffle(x, 2))
        for block in self.down:
            h = block(h, told)
        low = self.shrink(h)
        for i, block in enumerate(self.middle):
            low = block(low, told)
            if i % 2 == 0 and self.attention:
                low = self.attention[i // 2](low)
        h = self.join(torch.cat([h, self.grow(low)], dim=1))
        for block in self.up:
            h = block(h, told)
        return F.pixel_shuffle(self.last(h), 2).to(x.dtype)


class Transformer(Velocity):
    """A transformer over patches of 4x4 pixels, each of whose layers is scaled and shifted by what it is told (Peebles & Xie 2023).

    It starts as 0.
    """

    def __init__(self, config):
        super().__init__(config)
        channels, height, width = config.image_shape
        inside, told = 2 * config.width[1], 2 * config.width[1]
        self.first = nn.Conv2d(16 * channels, inside, 1)
        self.place = nn.Parameter(0.02 * torch.randn(1, inside, height // 4, width // 4))
        self.looks = nn.ModuleList(Attention(inside) for _ in range(2 * config.blocks))
        self.films = nn.ModuleList(nn.Linear(told, 2 * inside) for _ in self.looks)
        self.norms = nn.ModuleList(nn.GroupNorm(1, inside, affine=False) for _ in self.looks)
        self.thoughts = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inside, 4 * inside, 1), nn.SiLU(), nn.Conv2d(4 * inside, inside, 1)) for _ in self.looks
        )
        self.last = nn.Sequential(nn.GroupNorm(8, inside), nn.SiLU(), nn.Conv2d(inside, 16 * channels, 1))
        nn.init.zeros_(self.last[-1].weight)
        nn.init.zeros_(self.last[-1].bias)

    def network(self, x, told):
        h = self.first(F.pixel_unshuffle(x, 4)) + self.place
        for look, film, norm, thought in zip(self.looks, self.films, self.norms, self.thoughts, strict=True):
            scale, shift = film(told)[:, :, None, None].chunk(2, dim=1)
            h = look(h)
            h = h + thought(norm(h) * (1 + scale) + shift)
        return F.pixel_shuffle(self.last(h), 4).to(x.dtype)


NETWORKS = {"unet": UNet, "transformer": Transformer}
