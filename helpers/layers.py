"""Blocks that the families share: gated residual networks over images."""

import torch
from torch import nn


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel (Ba et al. 2016), (N, C, H, W) to the same.

    Unlike batch normalisation it treats every image alone: training and evaluation compute the same density, and a
    sample does not depend on who else is in the batch.
    """

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.gain + self.bias


class ELU(nn.Module):
    """x where it is positive, exp(x) - 1 where not (Clevert et al. 2016, equation 1).

    The function of nn.ELU, but through exp instead of expm1: compiled for a processor, that is much faster.
    """

    def forward(self, x):
        return x.clamp(min=0) + (x.clamp(max=0).exp() - 1)


class GatedBlock(nn.Module):
    """Residual block with a gated update: norm(x + a * sigmoid(b)), where [a, b] = net(x); (N, C, H, W) to the same.

    The gate lets the block decide pixel by pixel how much to change (van den Oord et al. 2016, equation 2, without
    its tanh).
    """

    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(
            ELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ELU(),
            nn.Conv2d(channels, 2 * channels, 1),
        )
        self.norm = ChannelNorm(channels)

    def forward(self, x):
        a, b = self.net(x).chunk(2, dim=1)
        return self.norm(x + a * torch.sigmoid(b))


class GatedConvNet(nn.Module):
    """3x3 convolution, gated residual blocks, 3x3 convolution: (N, in, H, W) to (N, out, H, W).

    Its last layer starts at zero, so that a coupling that uses it starts as the identity (Kingma & Dhariwal 2018,
    section 3.3).
    """

    def __init__(self, in_channels, out_channels, width=32, blocks=2):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        return self.net(x)
