"""RealNVP with one piece exchanged, and a flow without convolutions, for the experiments of notebook 01.

Everything that makes a model of ours (dequantisation, loss, sampling, labels) is RealNVP's; only what lies between the
logit and the latents is put together differently.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from helpers import UserError
from helpers.models.bijections import (
    AffineCoupling,
    Bijection,
    Compose,
    ElementwiseAffine,
    Invertible1x1,
    Logit,
    MixtureCoupling,
    MultiScale,
    Squeeze,
    channel_mask,
    checkerboard_mask,
)
from helpers.models.flows import Dequantization, RealNVP, RealNVPConfig, VariationalDequantization
from helpers.models.layers import ELU, MLP, Attention, ChannelNorm, GatedBlock
from helpers.models.model import Model


@dataclass(frozen=True)
class VariantConfig(RealNVPConfig):
    """RealNVPConfig, and what to exchange; as they stand, with two blocks, these settings make RealNVP itself."""

    network: str = "gated"  # blocks of the networks: plain, residual or gated
    norm: str = "channel"  # in the networks: none, batch or channel
    zero_init: bool = True  # of the networks' last convolution
    learned_range: bool = True  # False: s between -1 and 1
    mixing: str = "1x1"  # of channels, before each coupling: reverse (the halves change places), shuffle or 1x1
    attention: bool = False  # self-attention in the networks of the coarsest scale
    learned_base: bool = True
    data_init: bool = True  # False: the first batch is not looked at
    dequantize: str = "noise"  # none: whole numbers as they are, for what it does
    logit: bool = True  # False: on [0, 1] itself


CHOICES = {
    "network": ("plain", "residual", "gated"),
    "norm": ("none", "batch", "channel"),
    "mixing": ("reverse", "shuffle", "1x1"),
    "dequantize": ("noise", "none"),
}


class VariantRealNVP(RealNVP):
    """RealNVP with any of the settings of VariantConfig. Raises UserError for one that there is not."""

    Config = VariantConfig

    def build(self):
        config = self.config
        for name, allowed in CHOICES.items():
            if getattr(config, name) not in allowed:
                raise UserError(f"There is no {name} {getattr(config, name)!r}: take one of {', '.join(allowed)}.")
        channels = config.image_shape[0]
        if config.dequantize == "none":
            dequantization = NoDequantization()
        elif config.dequantization_couplings:
            dequantization = VariationalDequantization(channels, config.dequantization_couplings, config.dequantization_width, 2)
        else:
            dequantization = Dequantization()
        levels = []
        for couplings, width in zip(config.couplings, config.width, strict=True):
            channels *= 4
            layers, coarsest = [Squeeze()], len(levels) == len(config.width) - 1
            for _ in range(couplings):
                layers.append(Invertible1x1(channels, rotate=True) if config.mixing == "1x1" else Permutation(channels, config.mixing))
                layers.append(self._coupling(channels, width, config.attention and coarsest))
            levels.append(Compose(*layers))
            channels //= 2
        start = [Logit(config.margin)] if config.logit else []
        base = [ElementwiseAffine(self.latent_dim)] if config.learned_base else []
        affine = ElementwiseAffine(config.image_shape[0], 1, 1)
        return dequantization, Compose(*start, affine, MultiScale(levels, config.image_shape), *base)

    def _coupling(self, channels, width, attention):
        config = self.config
        seen, told = MixtureCoupling.sizes(channels, config.mixtures) if config.mixtures else (channels, 2 * channels)
        net = ConvNet(seen + config.classes, told, width, config.blocks, config.network, config.norm, config.zero_init, attention)
        coupling = MixtureCoupling(channels, config.mixtures, net) if config.mixtures else AffineCoupling(channel_mask(channels), channels, net)
        coupling.log_range.requires_grad_(config.learned_range)
        return coupling

    def initialize(self, images, labels=None):
        if self.config.data_init:
            super().initialize(images, labels)


class NoDequantization(nn.Module):
    """Whole numbers / 256, without noise. What `loss` then reports is a density, not a bound on any number of bits."""

    def forward(self, bins, base=None):
        return bins / 256, bins.new_full((len(bins),), bins[0].numel() * math.log(256))


class Permutation(Bijection):
    """Channels in another order, fixed: reversed, or shuffled at random."""

    def __init__(self, channels, kind="reverse"):
        super().__init__()
        self.register_buffer("order", torch.arange(channels).flip(0) if kind == "reverse" else torch.randperm(channels))

    def forward(self, x, context=None):
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return z[:, self.order.argsort()], z.new_zeros(len(z))


# ------------------------------------------------------------------------------------------------------- networks


def normalization(kind, channels):
    return {"none": nn.Identity, "batch": nn.BatchNorm2d, "channel": ChannelNorm}[kind](*([channels] if kind != "none" else []))


class ConvBlock(nn.Module):
    """norm(x + net(x)), or without `skip` norm(net(x)), of a gated block's size but for the gate: (N, C, H, W) to the same."""

    def __init__(self, channels, norm, skip):
        super().__init__()
        self.net = nn.Sequential(ELU(), nn.Conv2d(channels, channels, 3, padding=1), ELU(), nn.Conv2d(channels, channels, 1))
        self.norm, self.skip = normalization(norm, channels), skip

    def forward(self, x):
        return self.norm(x + self.net(x) if self.skip else self.net(x))


class ConvNet(nn.Module):
    """GatedConvNet with blocks of any kind and any norm: (N, in, H, W) to (N, out, H, W)."""

    def __init__(self, in_channels, out_channels, width, blocks, kind="gated", norm="channel", zero_init=True, attention=False):
        super().__init__()
        middle = [GatedBlock(width) if kind == "gated" else ConvBlock(width, norm, kind == "residual") for _ in range(blocks)]
        if norm != "channel":
            for block in middle:
                block.norm = normalization(norm, width)
        middle += [Attention(width)] if attention else []
        self.net = nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), *middle, ELU(), nn.Conv2d(width, out_channels, 3, padding=1))
        if zero_init:
            nn.init.zeros_(self.net[-1].weight)
            nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        return self.net(x)


# ---------------------------------------------------------------------------------------------------- flat flows


@dataclass(frozen=True)
class FlatConfig:
    """A flow of fully connected couplings over the flattened image."""

    image_shape: tuple[int, int, int] = (1, 28, 28)
    blocks: int = 4
    hidden: tuple[int, ...] = (64, 128, 128, 64)  # of the networks for s and for t
    mask: str = "halves"  # or checkerboard; every other coupling takes the complement
    margin: float = 1e-5
    classes: int = 0
    parts: int = 1


class FlatFlow(RealNVP):
    """Couplings whose s and t are two fully connected networks: no pixel knows which others are its neighbours."""

    Config = FlatConfig

    def __init__(self, config: FlatConfig):
        Model.__init__(self, config)
        if config.mask not in ("halves", "checkerboard"):
            raise UserError(f"There is no mask {config.mask!r}: take one of halves, checkerboard.")
        channels, height, width = config.image_shape
        size = self.latent_dim
        mask = (torch.arange(size) < size // 2).float()
        if config.mask == "checkerboard":
            mask = checkerboard_mask(height, width).expand(channels, -1, -1).flatten()
        layers = [Logit(config.margin), Flatten(config.image_shape), ElementwiseAffine(size)]
        for i in range(config.blocks):
            layers.append(AffineCoupling(mask if i % 2 == 0 else 1 - mask, size, SeparateNets(size, config.hidden)))
        self.dequantization, self.flow = Dequantization(), Compose(*layers)


class Flatten(Bijection):
    def __init__(self, image_shape):
        super().__init__()
        self.image_shape = image_shape

    def forward(self, x, context=None):
        return x.flatten(1), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return z.view(-1, *self.image_shape), z.new_zeros(len(z))


class SeparateNets(nn.Module):
    """One network for s and one for t, ReLU between their layers, (N, D) to (N, 2D); both end in 0 at the start."""

    def __init__(self, size, hidden):
        super().__init__()
        self.nets = nn.ModuleList(MLP(size, hidden, size) for _ in range(2))
        for net in self.nets:
            nn.init.zeros_(net.net[-1].weight)
            nn.init.zeros_(net.net[-1].bias)

    def forward(self, x):
        return torch.cat([net(x) for net in self.nets], dim=1)
