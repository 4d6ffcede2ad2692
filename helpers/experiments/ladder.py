"""Flows as others built them, for the experiments of notebook 01: older networks, norms, masks; flat flows.

Everything that makes a model of ours (dequantisation, loss, sampling, labels) is RealNVP's; only what lies between the
logit and the latents is put together differently.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.bijections import (
    AffineCoupling,
    Bijection,
    Compose,
    ElementwiseAffine,
    Invertible1x1,
    Logit,
    MultiScale,
    Squeeze,
    channel_mask,
    checkerboard_mask,
)
from helpers.models.flows import Dequantization, RealNVP, RealNVPConfig, VariationalDequantization
from helpers.models.layers import ELU, MLP, ChannelNorm, GatedBlock
from helpers.models.model import Model


@dataclass(frozen=True)
class LadderConfig(RealNVPConfig):
    """RealNVPConfig, and which of the older ways to take; as they stand, these settings make RealNVP itself."""

    checkerboard: int = 0  # couplings with checkerboard masks before the first squeeze
    network: str = "gated"  # plain, residual or gated blocks
    norm: str = "channel"  # in the networks: none, batch or channel
    weight_norm: bool = False  # of the hidden convolutions of plain and residual networks
    zero_init: bool = True  # of the networks' last convolution
    learned_range: bool = True  # False: s between -1 and 1
    mixing: str = "1x1"  # of channels, before each coupling: reverse (the halves change places), shuffle or 1x1
    between: str = "none"  # after each coupling: none, batch (a batch norm that is a bijection) or actnorm
    learned_base: bool = True
    dequantize: str = "noise"  # none: whole numbers as they are, for what it does
    logit: bool = True  # False: on [0, 1] itself


CHOICES = {
    "network": ("plain", "residual", "gated"),
    "norm": ("none", "batch", "channel"),
    "mixing": ("reverse", "shuffle", "1x1"),
    "between": ("none", "batch", "actnorm"),
    "dequantize": ("noise", "none"),
}


class LadderRealNVP(RealNVP):
    """RealNVP with any of the ways of LadderConfig. Raises UserError for a way that there is not."""

    Config = LadderConfig

    def build(self):
        config = self.config
        for name, allowed in CHOICES.items():
            if getattr(config, name) not in allowed:
                raise UserError(f"There is no {name} {getattr(config, name)!r}: take one of {', '.join(allowed)}.")
        channels, height, width = config.image_shape
        if config.dequantize == "none":
            dequantization = NoDequantization()
        elif config.dequantization_couplings:
            dequantization = VariationalDequantization(channels, config.dequantization_couplings, config.dequantization_width, 2)
        else:
            dequantization = Dequantization()
        board = checkerboard_mask(height, width)
        fine = [layer for i in range(config.checkerboard) for layer in self._coupling(board if i % 2 == 0 else 1 - board, channels, config.width[0])]
        levels = []
        for couplings, net_width in zip(config.couplings, config.width, strict=True):
            channels *= 4
            layers = [Squeeze()]
            for _ in range(couplings):
                layers += [Invertible1x1(channels, rotate=True) if config.mixing == "1x1" else Permutation(channels, config.mixing)]
                layers += self._coupling(channel_mask(channels), channels, net_width)
            levels.append(Compose(*layers))
            channels //= 2
        start = [Logit(config.margin)] if config.logit else []
        base = [ElementwiseAffine(self.latent_dim)] if config.learned_base else []
        affine = ElementwiseAffine(config.image_shape[0], 1, 1)
        return dequantization, Compose(*start, affine, *fine, MultiScale(levels, config.image_shape), *base)

    def _coupling(self, mask, channels, width):
        config = self.config
        kinds = config.network, config.norm, config.weight_norm, config.zero_init
        coupling = AffineCoupling(mask, channels, ConvNet(channels + config.classes, 2 * channels, width, config.blocks, *kinds))
        coupling.log_range.requires_grad_(config.learned_range)
        after = {"none": [], "batch": [BatchNorm(channels, 1, 1)], "actnorm": [ElementwiseAffine(channels, 1, 1)]}
        return [coupling, *after[config.between]]


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


class BatchNorm(Bijection):
    """Batch normalisation as a bijection, without gain and bias (Dinh et al. 2017, section 3.7 and appendix E).

    In training each element of `shape` is standardised by the batch, in evaluation by the running mean and variance: two
    different maps. The inverse always uses the running ones, since a sample has no batch to take them from.
    """

    def __init__(self, *shape, momentum=0.1, eps=1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))

    def forward(self, x, context=None):
        mean, variance = self.mean, self.variance
        if self.training:
            over = [0, *(d + 1 for d, size in enumerate(mean.shape) if size == 1)]
            mean, variance = x.mean(dim=over, keepdim=True)[0], x.var(dim=over, keepdim=True, correction=0)[0]
            with torch.no_grad():
                self.mean.lerp_(mean, self.momentum)
                self.variance.lerp_(variance, self.momentum)
        log_scale = -0.5 * (variance + self.eps).log()
        return (x - mean) * log_scale.exp(), log_scale.expand(x.shape[1:]).sum().expand(len(x))

    def inverse(self, z, context=None):
        log_scale = 0.5 * (self.variance + self.eps).log()
        return z * log_scale.exp() + self.mean, log_scale.expand(z.shape[1:]).sum().expand(len(z))


# ------------------------------------------------------------------------------------------------------- networks


def normalization(kind, channels):
    return {"none": nn.Identity, "batch": nn.BatchNorm2d, "channel": ChannelNorm}[kind](*([channels] if kind != "none" else []))


class PlainBlock(nn.Module):
    """Convolution, norm, ReLU."""

    def __init__(self, channels, norm, conv=nn.Conv2d):
        super().__init__()
        self.net = nn.Sequential(conv(channels, channels, 3, padding=1), normalization(norm, channels), nn.ReLU())

    def forward(self, x):
        return self.net(x)


class ResidualBlock(nn.Module):
    """x + two convolutions, each after norm and ReLU (He et al. 2016)."""

    def __init__(self, channels, norm, conv=nn.Conv2d):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [normalization(norm, channels), nn.ReLU(), conv(channels, channels, 3, padding=1)]
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.net(x)


class WeightNormConv2d(nn.Conv2d):
    """A convolution whose kernels are a learned length times a direction (Salimans & Kingma 2016, equation 2).

    The function of torch's weight_norm, which gives each layer a class of its own: the compiler would start anew each time.
    """

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.length = nn.Parameter(self.weight.detach().flatten(1).norm(dim=1))

    def forward(self, x):
        scale = self.length / self.weight.flatten(1).norm(dim=1)
        return F.conv2d(x, self.weight * scale[:, None, None, None], self.bias, self.stride, self.padding)


class ConvNet(nn.Module):
    """3x3 convolution, blocks of one kind, 3x3 convolution: (N, in, H, W) to (N, out, H, W)."""

    def __init__(self, in_channels, out_channels, width, blocks, kind="gated", norm="channel", weight_normed=False, zero_init=True):
        super().__init__()
        conv = WeightNormConv2d if weight_normed else nn.Conv2d  # for all but the last: a weight of length 0 has no direction
        if kind == "gated":
            middle = [GatedBlock(width) for _ in range(blocks)]
            if norm != "channel":
                for block in middle:
                    block.norm = normalization(norm, width)
            middle.append(ELU())
        else:
            block = PlainBlock if kind == "plain" else ResidualBlock
            middle = [nn.ReLU(), *(block(width, norm, conv) for _ in range(blocks)), nn.ReLU()]
        self.net = nn.Sequential(conv(in_channels, width, 3, padding=1), *middle, nn.Conv2d(width, out_channels, 3, padding=1))
        last = self.net[-1]
        if zero_init:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

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
    batch_norm: bool = False  # after each coupling
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
            if config.batch_norm:
                layers.append(BatchNorm(size))
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
