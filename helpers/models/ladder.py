"""The ladder VAE: latents in layers, from one vector for the whole picture down to maps at half of its sides."""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from helpers import UserError
from helpers.models.autoencoders import Variational, gaussian_kl, kl_weight
from helpers.models.layers import ELU, GatedBlock, check_latents, pixels
from helpers.models.settings import Count, Only, Size, Weight

LEVELS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class LadderConfig:
    """Latents of three sizes: one for the whole picture, maps at a quarter and at a half of its sides."""

    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; both sides divisible by 4
    layers: tuple[Count, Count, Count] = (1, 2, 1)  # of latents at each size, from the top
    latents: tuple[Size, Size, Size] = (32, 4, 1)  # channels of each of them
    width: Size = 32  # channels of the networks at a half of the sides, twice as many above
    blocks: Count = 1  # gated residual blocks after each layer of latents below the top, and on the way up at each size with neighbours
    likelihood: Literal["bernoulli", "grey", "logistic"] = "bernoulli"  # as a VAE's
    beta: Weight = 1.0
    schedule: Literal["constant", "linear", "cyclical"] = "constant"
    schedule_steps: Annotated[Count, Only("schedule", ("linear", "cyclical"))] = 0
    free_bits: Weight = 0.0  # nats that each layer's KL may cost for nothing in training


class Rung(nn.Module):
    """A layer of latents: h (N, C, H, W), what is known from above, says where they should be, they say what is new.

    Latents are counted from what the layer expects, z = mean(h) + std(h) u: under the prior u is standard normal whatever lies above, and
    the posterior says how far from that an image is, u ~ N(m(h, e), s(h, e)), with e (N, C, H, W) what was seen of it (Vahdat & Kautz
    2020, equation 2). So the KL of a layer is a plain VAE's.
    """

    def __init__(self, channels: int, latents: int, blocks: int, kernel: int):
        super().__init__()
        self.expect = nn.Conv2d(channels, 2 * latents, 1)
        self.infer = nn.Sequential(nn.Conv2d(2 * channels, channels, kernel, padding=kernel // 2), ELU(), nn.Conv2d(channels, 2 * latents, 1))
        for last in (self.expect, self.infer[-1]):  # at the start every layer expects N(0, I), and every image is what is expected
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.tell = nn.Conv2d(latents, channels, 1)
        self.blocks = nn.Sequential(*(GatedBlock(channels) for _ in range(blocks)))

    def posterior(self, h, e):
        """Mean and log standard deviation of u, (N, latents, H, W) each."""
        mean, log_std = self.infer(torch.cat([h, e], dim=1)).to(self.tell.weight.dtype).chunk(2, dim=1)  # of full precision, whatever h is of
        return mean, log_std.clamp(-8, 4)

    def forward(self, h, u):
        mean, log_std = self.expect(h).chunk(2, dim=1)
        return self.blocks(h + self.tell(mean + log_std.clamp(-8, 4).exp() * u.to(h.dtype)))


class LadderVAE(Variational):
    """A VAE with latents in layers, drawn from the top down and inferred in the same order (Sønderby et al. 2016; Vahdat & Kautz 2020).

    p(z) = p(z_1) p(z_2 | z_1) ..., q(z|x) = q(z_1 | x) q(z_2 | z_1, x) ...: a layer's posterior knows what the layers above have settled.
    Latents (N, D) are the u of all layers, one after the other from the top (`Rung`), standard normal under the model.
    """

    Config = LadderConfig
    measures = ("elbo", "samples")

    def __init__(self, config: LadderConfig):
        super().__init__(config)
        channels, height, width_of_image = config.image_shape
        if height % 4 or width_of_image % 4:
            raise UserError(f"Images of {height}x{width_of_image} can't be halved twice: both sides must be divisible by 4; pad the images.")
        if not config.layers[0]:
            raise UserError(f"layers = {config.layers} was given: the top needs at least one layer of latents.")
        width, blocks = config.width, config.blocks
        quarter = (height // 4, width_of_image // 4)
        self.sizes = ((1, 1), quarter, (height // 2, width_of_image // 2))
        self.see = nn.ModuleList(  # from the picture up to the whole
            [
                nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, width, 3, padding=1), *(GatedBlock(width) for _ in range(blocks))),
                nn.Sequential(ELU(), nn.Conv2d(width, 2 * width, 4, stride=2, padding=1), *(GatedBlock(2 * width) for _ in range(blocks))),
                nn.Sequential(ELU(), nn.Conv2d(2 * width, 2 * width, quarter)),
            ]
        )
        self.start = nn.Parameter(torch.zeros(1, 2 * width, 1, 1))
        wide = (2 * width, 2 * width, width)
        self.rungs = nn.ModuleList(  # at the top there are no neighbours to look at, and no blocks: as in a plain VAE what follows is linear
            nn.ModuleList(Rung(wide[i], config.latents[i], blocks if i else 0, 3 if i else 1) for _ in range(config.layers[i])) for i in range(3)
        )
        self.grow = nn.ModuleList(
            [
                nn.ConvTranspose2d(2 * width, 2 * width, quarter),
                nn.Sequential(ELU(), nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2)),
            ]
        )
        out = channels * (2 if config.likelihood == "logistic" else 1)
        self.last = nn.Sequential(ELU(), nn.Conv2d(width, 4 * out, 3, padding=1), nn.PixelShuffle(2))

    def regions(self):
        return [*self.see, *(rung for level in self.rungs for rung in level), *self.grow, self.last]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of the latents of each layer, from the top."""
        return [(self.config.latents[i], *self.sizes[i]) for i in range(3) for _ in range(self.config.layers[i])]

    @property
    def latent_dim(self) -> int:
        return sum(map(math.prod, self.shapes))

    def levels(self) -> list[slice]:
        """Which latents are of each size, from the top."""
        ends = [0]
        for i in range(3):
            ends.append(ends[-1] + self.config.layers[i] * self.config.latents[i] * math.prod(self.sizes[i]))
        return [slice(low, high) for low, high in itertools.pairwise(ends)]

    def climb(self, x) -> list:
        """What is seen of images, at each size from the top."""
        seen = []
        for stage in self.see:
            x = stage(x)
            seen.insert(0, x)
        return seen

    def descend(self, n: int, draw):
        """The decoder's output for n images; draw(rung, h, i, size) gives u of the i-th layer."""
        h, i = self.start.expand(n, -1, -1, -1), 0
        for size, level in enumerate(self.rungs):
            h = self.grow[size - 1](h) if size else h
            for rung in level:
                h, i = rung(h, draw(rung, h, i, size)), i + 1
        return self.last(h).to(self.dtype)

    def inferred(self, seen):
        """The decoder's output for what `climb` saw, with one draw u of each layer; the means and log standard deviations of these, lists."""
        drawn, means, log_stds = [], [], []

        def draw(rung, h, i, size):
            mean, log_std = rung.posterior(h, seen[size])
            means.append(mean)
            log_stds.append(log_std)
            drawn.append(mean + log_std.exp() * torch.randn_like(mean))
            return drawn[-1]

        return self.descend(len(seen[0]), draw), drawn, means, log_stds

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """In nats an image: reconstruction, kl in all and of each size, and their weighted sum."""
        x = self.observed(images)
        parameters, _, means, log_stds = self.inferred(self.climb(x))
        reconstruction = -self.log_likelihood_of(x, parameters).mean()
        kls = [gaussian_kl(mean, log_std).flatten(1).sum(1).mean() for mean, log_std in zip(means, log_stds, strict=True)]
        paid = sum(kl.clamp(min=self.config.free_bits) for kl in kls) if self.training else sum(kls)
        weight = kl_weight(self.step, self.config.schedule, self.config.schedule_steps) if self.training else 1.0
        terms = {"loss": reconstruction + weight * self.config.beta * paid, "reconstruction": reconstruction, "kl": sum(kls)}
        spans = itertools.pairwise(itertools.accumulate(self.config.layers, initial=0))
        nothing = torch.zeros_like(terms["kl"])  # of a size without latents
        return terms | {f"kl_{name}": sum(kls[low:high], nothing) for name, (low, high) in zip(LEVELS, spans, strict=True)}

    def recognise(self, x):
        return self.climb(x)

    def log_weights(self, x, seen, k: int) -> torch.Tensor:
        parameters, *layers = self.inferred([part.repeat(k, 1, 1, 1) for part in seen])
        log_weight = self.log_likelihood_of(x.repeat(k, 1, 1, 1), parameters)
        for u, mean, log_std in zip(*layers, strict=True):  # log p(z) - log q(z|x)
            log_weight = log_weight + (0.5 * (((u - mean) / log_std.exp()).square() - u.square()) + log_std).flatten(1).sum(1)
        return log_weight.view(k, -1)

    @torch.no_grad()
    def encode(self, images, draw: bool = False) -> torch.Tensor:
        """Latents u (N, D): the posteriors' means, each given those above, or a draw."""
        seen, found = self.climb(pixels(self, images)), []

        def settle(rung, h, i, size):
            mean, log_std = rung.posterior(h, seen[size])
            found.append(mean + log_std.exp() * torch.randn_like(mean) if draw else mean)
            return found[-1]

        self.descend(len(seen[0]), settle)
        return torch.cat([u.flatten(1) for u in found], dim=1)

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents u (N, D)."""
        check_latents(z, self.latent_dim)
        parts = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        return self.shown(self.descend(len(z), lambda rung, h, i, size: parts[i].view(-1, *self.shapes[i])))
