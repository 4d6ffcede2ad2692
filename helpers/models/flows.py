"""Normalizing flows: dequantisation and RealNVP, out of the bijections of bijections.py.

A flow is an invertible function f from images to noise. The change of variables gives the density of an image x,

    log p(x) = log N(f(x); 0, I) + log |det df/dx|,

and running f backwards on noise draws a sample. Everything here serves to make f expressive while its inverse and
the determinant of its Jacobian stay cheap.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.bijections import AffineCoupling, Compose, ElementwiseAffine, Logit, MixtureCoupling, MultiScale, Squeeze, coupling_layers
from helpers.models.layers import check_images, check_labels, check_latents
from helpers.models.model import Model
from helpers.models.settings import Count, Only, Size, Within


@dataclass(frozen=True)
class RealNVPConfig:
    """A multi-scale RealNVP. Scale i works on images squeezed i + 1 times, and all but the last factor out a half."""

    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    couplings: tuple[Count, ...] = (4, 6)  # couplings at each scale
    width: tuple[Size, ...] = (32, 48)  # channels of the coupling networks at each scale
    blocks: Count = 2  # gated residual blocks in each coupling network
    mixtures: Count = 0  # logistics in each coupling, of which the second half's distribution is mixed; 0: affine couplings
    dequantization_couplings: Count = 4  # of the variational dequantisation; 0 makes it uniform
    dequantization_width: Annotated[Size, Only("dequantization_couplings")] = 32
    margin: Annotated[float, Within(0, 0.5, below=True)] = 1e-5  # the logit sees [margin, 1 - margin] instead of [0, 1]
    classes: Count = 0  # above 0 the density is conditional, log p(x|y), and every coupling network sees the label
    parts: Size = 1  # parts side by side, each of its own class: the label 37 of a pair of digits is a 3 left of a 7


# ------------------------------------------------------------------------------------------------ dequantisation

# The 256 bins fill [0, 1]. Noise stops this much short of its bin's upper edge: in float32, 255 + 0.9999999 is 256,
# and the pixel would be in the next bin.
EDGE = 2.0**-15


class Dequantization(nn.Module):
    """Spread each 8-bit value over its bin: a density model on whole numbers could grow without bound.

    forward(bins, base) -> (y, log_q): bins are the 256 levels as floats, (N, C, H, W); base is uniform noise of the
    same shape, drawn if not given; y lies in [bins, bins + 1) / 256 and log_q (N,) is its log-density. Then
    log p(y) - log_q is, on average, a lower bound on the log-probability of the 8-bit image (Theis et al. 2016,
    section 3.1; Ho et al. 2019, equation 12).
    """

    def noise(self, bins, base):
        """Noise in (0, 1) made of uniform noise `base`, and its log-density given bins, (N,). Here: as it comes."""
        return base, bins.new_zeros(len(bins))

    def forward(self, bins, base=None):
        u, log_q = self.noise(bins, torch.rand_like(bins) if base is None else base)
        log_q = log_q - bins[0].numel() * math.log((1 - EDGE) / 256)
        return (bins + (1 - EDGE) * u) / 256, log_q


class VariationalDequantization(Dequantization):
    """The noise is itself drawn from a small flow that sees the image (Ho et al. 2019, section 3.1).

    Logistic noise goes through couplings conditioned on the image, then through a sigmoid into (0, 1). At first the
    couplings change nothing, and a logistic variable through a sigmoid is uniform: training starts from the plain
    dequantisation and tightens its bound.
    """

    def __init__(self, channels, couplings, width, blocks):
        super().__init__()
        channels *= 4  # it works squeezed: a quarter of the pixels
        layers = coupling_layers(channels, couplings, width, blocks, context_channels=channels, rotate=False)
        self.flow = Compose(*layers)

    def noise(self, bins, base):
        context = F.pixel_unshuffle(bins / 127.5 - 1, 2)
        eps = F.pixel_unshuffle(base, 2).clamp(1e-6, 1 - 1e-6).logit()
        log_q = _log_logistic(eps)
        eps, log_det = self.flow(eps, context)
        log_q = log_q - log_det - _log_logistic(eps)  # the logistic density is also the sigmoid's derivative
        return F.pixel_shuffle(torch.sigmoid(eps), 2), log_q


def _log_logistic(x):
    """Log-density of the logistic distribution, summed over all but the first dimension."""
    return (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)


# ------------------------------------------------------------------------------------------------------- RealNVP


class RealNVP(Model):
    """RealNVP (Dinh et al. 2017) with variational dequantisation, gated networks, 1x1 convolutions and, where `mixtures` are
    asked for, the couplings of Flow++ (Ho et al. 2019).

    Images are uint8, or floats in [0, 1] that stand for the bin they fall into (k / 255 falls into bin k); their
    shape is (N, *config.image_shape). Latents are (N, D) with D = C * H * W, standard normal under the model.
    With config.classes the model is conditional: labels (N,), whole numbers below classes ** parts, must be given
    (as Ardizzone et al. 2019 do); without, they must not, except that `loss` ignores them.
    Raises UserError where images, labels, counts or temperatures are not what they should be.
    """

    Config = RealNVPConfig
    likelihood, measures, drawn_at = "bits/dim", ("bits", "control", "samples"), 0.8

    def __init__(self, config: RealNVPConfig):
        super().__init__(config)
        _, height, width = config.image_shape
        scales = len(config.couplings)
        if height % 2**scales or width % (2**scales * config.parts):
            raise UserError(
                f"Images of {height}x{width} can't be squeezed {scales} times: both sides{' of each part' * (config.parts > 1)} must be "
                f"divisible by {2**scales}; pad the images or take fewer scales."
            )
        if len(config.width) != scales:
            raise UserError(f"{scales} scales but {len(config.width)} widths were given: give one width for each scale.")
        self.dequantization, self.flow = self.build()

    def build(self):
        """The dequantisation and the bijection."""
        config = self.config
        channels = config.image_shape[0]
        if config.dequantization_couplings:
            dequantization = VariationalDequantization(channels, config.dequantization_couplings, config.dequantization_width, config.blocks)
        else:
            dequantization = Dequantization()
        levels = []
        for couplings, width in zip(config.couplings, config.width, strict=True):
            channels *= 4
            levels.append(Compose(Squeeze(), *coupling_layers(channels, couplings, width, config.blocks, config.classes, mixtures=config.mixtures)))
            channels //= 2  # the half that goes on
        flow = Compose(
            Logit(config.margin),
            ElementwiseAffine(config.image_shape[0], 1, 1),
            MultiScale(levels, config.image_shape),
            ElementwiseAffine(self.latent_dim),
        )
        return dequantization, flow

    @property
    def latent_dim(self) -> int:
        return math.prod(self.config.image_shape)

    def regions(self):
        """The parts worth compiling: the couplings share their code, so two or three compilations serve all."""
        return [module for module in self.modules() if isinstance(module, AffineCoupling | MixtureCoupling)]

    @torch.no_grad()
    def initialize(self, images, labels=None) -> None:
        """Standardise a batch of images after the logit, and its latents: training then starts near the right scale."""
        affine = [module for module in self.flow.modules() if isinstance(module, ElementwiseAffine) and not module.started]
        # by hooks, since each is to be initialised by what comes out of those before it
        hooks = [module.register_forward_pre_hook(lambda module, inputs: module.initialize(inputs[0])) for module in affine]
        self.flow(self.dequantization(self._bins(images))[0], self._context(labels if self.config.classes else None, len(images)))
        for hook in hooks:
            hook.remove()

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean bound on bits per dimension: `loss` is the sum of the flow's and the dequantisation's share."""
        context = self._context(labels if self.config.classes else None, len(images))
        y, log_q = self.dequantization(self._bins(images))
        nats_per_bit = len(images) * self.latent_dim * math.log(2)
        flow, dequantization = -self._log_density(y, context).sum() / nats_per_bit, log_q.sum() / nats_per_bit
        return {"loss": flow + dequantization, "flow": flow, "dequantization": dequantization}

    def log_prob(self, images, labels=None, samples: int = 1) -> torch.Tensor:
        """Lower bound on the log-probability of 8-bit images in nats, (N,); tighter with more noise `samples`.

        The mean of `samples` importance weights p(y) / q(y), in logs (Burda et al. 2016, equation 8).
        """
        if samples < 1:
            raise UserError(f"{samples} importance samples were asked for: ask for at least 1.")
        bins, context = self._bins(images), self._context(labels, len(images))
        log_weights = []
        for _ in range(samples):
            y, log_q = self.dequantization(bins)
            log_weights.append(self._log_density(y, context) - log_q)
        return torch.logsumexp(torch.stack(log_weights), dim=0) - math.log(samples)

    def class_log_probs(self, images) -> torch.Tensor:
        """log p(x|y) for every label y, (N, classes ** parts), in nats: with equal priors its argmax is a classifier.

        All labels are given the same dequantisation noise, so that only the label makes the difference.
        """
        if not self.config.classes:
            raise UserError("This RealNVP knows no labels: take a conditional one.")
        y, log_q = self.dequantization(self._bins(images))
        labels = range(self.config.classes**self.config.parts)
        contexts = (self._context(torch.full((len(images),), label, device=y.device), len(images)) for label in labels)
        return torch.stack([self._log_density(y, context) - log_q for context in contexts], dim=1)

    def encode(self, images, labels=None) -> torch.Tensor:
        """Latents (N, D) of images: floats stand for themselves, uint8 images get the median of the base noise.

        Nothing is drawn at random, so the latents of uint8 images are nearer to 0 than those that training saw.
        decode gives float images back, and uint8 images as a point of their bins: floor(256 * decode(z)).
        """
        check_images(images, self.config.image_shape)
        x = images.to(self.dtype)
        if images.dtype == torch.uint8:
            x, _ = self.dequantization(x, base=torch.full_like(x, 0.5))
        return self.flow(x, self._context(labels, len(x)))[0]

    def decode(self, latents, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D)."""
        check_latents(latents, self.latent_dim)
        return self.flow.inverse(latents, self._context(labels, len(latents)))[0].clamp(0, 1)

    def _log_density(self, y, context):
        z, log_det = self.flow(y, context)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def _context(self, labels, n):
        """Labels (n,) as the couplings see them: one-hot channels, a column for each part, (n, classes, 1, parts)."""
        if not self.training:  # in training `fit` has checked them all at once: a look at each batch would wait for the device
            check_labels(self, labels, n)
        if labels is None:
            return None
        classes, parts = self.config.classes, self.config.parts
        columns = torch.stack([labels // classes**i % classes for i in reversed(range(parts))], dim=1)
        return (columns[:, None] == torch.arange(classes, device=labels.device)[:, None]).to(self.dtype)[:, :, None]

    def _bins(self, images):
        check_images(images, self.config.image_shape)
        if images.dtype == torch.uint8:
            return images.to(self.dtype)
        return (images.to(self.dtype) * 256).floor().clamp(max=255)
