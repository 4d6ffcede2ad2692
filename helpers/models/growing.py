"""Progressive growing of GANs (Karras et al. 2018): networks that begin with tiny images and double their side again and again."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.games import Game, GameConfig
from helpers.models.settings import Share, Size

MILLION = 1_000_000


@dataclass(frozen=True)
class ProGANConfig(GameConfig):
    """And how it grows: from the smallest image upwards, each stage twice as large as the one before."""

    width: Size = 32  # channels at full size, twice as many with each halving, up to four times
    stage_steps: Size = 1_000  # from one stage to the next; the last one takes what is left of the training
    fade: Share = 0.5  # share of a stage in which its new layers fade in; 0 switches hard


class EqualConv(nn.Conv2d):
    """A convolution whose weights start at N(0, 1) and are scaled at each use (Karras et al. 2018, section 4.1).

    He's scale, sqrt(2 / fan-in), is applied at run time instead of at the start: Adam moves every weight by about the
    learning rate, so with weights of one size all layers learn at one speed.
    """

    def __init__(self, in_channels, out_channels, size=3, gain=2.0, **options):
        super().__init__(in_channels, out_channels, size, padding=size // 2, **options)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(gain / (in_channels * size**2))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualLinear(nn.Linear):
    """A linear layer with an equalised learning rate, as EqualConv."""

    def __init__(self, size, out, gain=2.0):
        super().__init__(size, out)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(gain / size)

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias)


class PixelNorm(nn.Module):
    """Each pixel's features, or each vector, at unit mean square: no signal grows out of bounds (Karras et al. 2018, section 4.2)."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def minibatch_deviation(x) -> torch.Tensor:
    """x (N, C, H, W) with one more channel: the standard deviation over the batch, averaged over everything else.

    So the discriminator sees that a batch is all alike, which no single image shows (Karras et al. 2018, section 3).
    """
    if len(x) < 2:
        raise UserError("A batch of 1 image was given to minibatch standard deviation: give at least 2.")
    deviation = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)


def enlarge(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def shrink(x):
    return F.avg_pool2d(x, 2)


def sides(image_shape) -> list[tuple[int, int]]:
    """Height and width of the images of each stage: halved as often as they stay whole and at least 4."""
    found = [tuple(image_shape[1:])]
    while all(side % 2 == 0 and side >= 8 for side in found[0]):
        found.insert(0, tuple(side // 2 for side in found[0]))
    return found


class Growing(nn.Module):
    """What both growing networks know: the stage (from 0) they have reached, and how far its layers are faded in, alpha."""

    def __init__(self, config: ProGANConfig):
        super().__init__()
        self.sides = sides(config.image_shape)
        last = len(self.sides) - 1
        self.stage, self.alpha = last, 1.0
        self.register_buffer("reached", torch.tensor([last, MILLION]))  # the same, for weights that travel: whole numbers, which nobody averages
        self.channels = [config.width * min(4, 2 ** (last - stage)) for stage in range(last + 1)]

    def grow(self, stage: int, alpha: float) -> None:
        self.stage, self.alpha = stage, alpha
        self.reached[0], self.reached[1] = stage, round(alpha * MILLION)

    def _load_from_state_dict(self, state, prefix, *rest):
        state.setdefault(f"{prefix}reached", torch.tensor([len(self.sides) - 1, MILLION]))  # of weights from before it was kept: fully grown
        super()._load_from_state_dict(state, prefix, *rest)
        self.stage, self.alpha = int(self.reached[0]), int(self.reached[1]) / MILLION

    def fade(self, old: Callable, new):
        """(1 - alpha) * old() + alpha * new: between what the stage before would say and what this one says."""
        return new if self.stage == 0 or self.alpha >= 1 else torch.lerp(old().to(new.dtype), new, self.alpha)


class GrowingGenerator(Growing):
    """Noise (N, latent) to images (N, C, H, W) in [-1, 1] at the resolution of the stage reached.

    Unlike the paper's it doesn't scale the noise to one length: then noise could not be truncated.
    """

    def __init__(self, config: ProGANConfig):
        super().__init__(config)
        height, width = self.sides[0]
        act = nn.LeakyReLU(0.2)
        start = EqualLinear(config.latent, self.channels[0] * height * width, gain=0.125)  # a 16th of He's variance, as in the paper's code
        first = [start, nn.Unflatten(1, (self.channels[0], height, width)), act, PixelNorm()]
        self.blocks = nn.ModuleList([nn.Sequential(*first, EqualConv(self.channels[0], self.channels[0]), act, PixelNorm())])
        for a, b in zip(self.channels, self.channels[1:], strict=False):
            self.blocks.append(nn.Sequential(EqualConv(a, b), act, PixelNorm(), EqualConv(b, b), act, PixelNorm()))
        self.to_image = nn.ModuleList(EqualConv(c, config.image_shape[0], 1, gain=1.0) for c in self.channels)

    def forward(self, z, labels=None):
        h = self.blocks[0](z)
        for stage in range(1, self.stage + 1):
            below, h = h, self.blocks[stage](enlarge(h))
        return self.fade(lambda: enlarge(self.to_image[self.stage - 1](below)), self.to_image[self.stage](h))


class GrowingDiscriminator(Growing):
    """Images (N, C, H, W) at the resolution of the stage reached to features (N, F); `head` makes scores of them."""

    def __init__(self, config: ProGANConfig):
        super().__init__(config)
        height, width = self.sides[0]
        act, size = nn.LeakyReLU(0.2), self.channels[0]
        self.from_image = nn.ModuleList(nn.Sequential(EqualConv(config.image_shape[0], c, 1), act) for c in self.channels)
        self.blocks = nn.ModuleList([nn.Sequential(EqualConv(size + 1, size), act, nn.Flatten(), EqualLinear(size * height * width, size), act)])
        for a, b in zip(self.channels, self.channels[1:], strict=False):
            self.blocks.append(nn.Sequential(EqualConv(b, b), act, EqualConv(b, a), act))
        self.head = EqualLinear(size, 1, gain=1.0)

    def features(self, x, labels=None):
        h = self.from_image[self.stage](x)
        for stage in range(self.stage, 0, -1):
            h = shrink(self.blocks[stage](h))
            if stage == self.stage:
                h = self.fade(lambda: self.from_image[self.stage - 1](shrink(x)), h)
        return self.blocks[0](minibatch_deviation(h))

    def score(self, features, labels=None):
        return self.head(features).squeeze(1)

    def forward(self, x, labels=None):
        return self.score(self.features(x))


class ProGAN(Game):
    """Progressive growing of GANs (Karras et al. 2018): first what an image is like when it is tiny, then ever finer detail.

    Each stage begins with the layers of the one before and fades in new ones (figure 2 there). In training the stage follows
    from `step`; the weights hold the one that was reached. Generator and discriminator are always at the same stage.
    """

    Config = ProGANConfig
    uneven = True

    @classmethod
    def settings_for(cls, image_shape, images: int, steps: int) -> dict:
        return {"stage_steps": max(1, steps // (len(sides(image_shape)) + 1))}  # the last stage takes as long as two

    def networks(self):
        return GrowingGenerator(self.config), GrowingDiscriminator(self.config)

    @property
    def resolutions(self) -> list[int]:
        """The height of the images of each stage."""
        return [height for height, _ in self.generator.sides]

    def regions(self):
        return [*self.generator.blocks, *([] if self.penalised else self.discriminator.blocks)]

    def grow(self, stage: int, alpha: float = 1.0) -> None:
        """Set both networks to a stage, its layers faded in by alpha in [0, 1]."""
        if not 0 <= alpha <= 1:
            raise UserError(f"α = {alpha} was given: take a number from 0, the stage before, to 1, this one.")
        for network in (self.generator, self.discriminator):
            network.grow(stage, alpha)

    def growth(self, step: int) -> tuple[int, float]:
        """Stage and alpha at a step of training: alpha rises in a line over the first part of a stage."""
        steps, last = self.config.stage_steps, len(self.resolutions) - 1
        stage = min(step // steps, last)
        faded = steps * self.config.fade if stage else 0
        return stage, min(1.0, (step - stage * steps) / faded) if faded else 1.0

    def real(self, images):
        x = super().real(images)
        for _ in range(len(self.resolutions) - 1 - self.generator.stage):
            x = shrink(x)
        return self.generator.fade(lambda: enlarge(shrink(x)), x)

    def discriminator_terms(self, images, labels=None):
        if self.training:
            self.grow(*self.growth(self.step))
        return super().discriminator_terms(images, labels)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] at full size, of whatever stage has been reached."""
        images = super().sample(n, temperature, labels)
        return F.interpolate(images, size=self.config.image_shape[1:], mode="nearest")

    def decode(self, z, labels=None, resolution: int | None = None, alpha: float = 1.0) -> torch.Tensor:
        """Images in [0, 1] of noise z (N, latent), at the stage reached, or at the `resolution` of another, faded in by alpha."""
        if resolution is None:
            return super().decode(z, labels)
        if resolution not in self.resolutions:
            raise UserError(f"There is no stage of resolution {resolution}: take one of {', '.join(map(str, self.resolutions))}.")
        before = self.generator.stage, self.generator.alpha
        try:
            self.grow(self.resolutions.index(resolution), alpha)
            return super().decode(z, labels)
        finally:
            self.grow(*before)
