"""Autoencoders: an image through a bottleneck and back. And variational ones, whose bottleneck can be sampled.

An autoencoder learns an encoder and a decoder that lose as little as they can. Where its codes lie is nobody's business,
so a code drawn at random decodes to nothing in particular. A variational autoencoder (Kingma & Welling 2014) makes it its
business: images come from latents with a known prior, z ~ N(0, I) and x ~ p(x|z), and the encoder proposes for each image
which latents it may have come from, q(z|x). What is maximised is a lower bound on log p(x), the ELBO,

    log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).

A β-VAE weighs the KL, and a β-TCVAE only that part of it which is the dependence between the latents.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.layers import MLP, ConvDecoder, ConvEncoder, check_latents, pixels, precise
from helpers.models.model import Model
from helpers.models.settings import Count, Only, Size, Weight

LIKELIHOODS = {"bernoulli": "nats", "grey": None, "logistic": "bits/dim"}  # and the unit in which each is reported
SCHEDULES = ("constant", "linear", "cyclical")


@dataclass(frozen=True)
class AutoencoderConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; conv: both sides divisible by 4
    latent: Size = 16  # size of the bottleneck
    network: Literal["conv", "mlp"] = "conv"  # or mlp
    width: Size = 32  # conv: channels at half the resolution, twice as many at a quarter; mlp: units of a hidden layer
    blocks: Count = 1  # conv: gated residual blocks at each resolution; mlp: hidden layers


@dataclass(frozen=True)
class VAEConfig(AutoencoderConfig):
    """And what the decoder's output means, and how much the KL divergence weighs."""

    likelihood: Literal["bernoulli", "grey", "logistic"] = "bernoulli"  # of binarised images; logistic: of 8-bit images; grey: no likelihood, see VAE
    beta: Weight = 1.0  # weight of the KL divergence (Higgins et al. 2017); 1 makes the loss the negative ELBO
    schedule: Literal["constant", "linear", "cyclical"] = (
        "constant"  # in training the weight also rises from 0: linear once, cyclical again and again
    )
    schedule_steps: Annotated[Count, Only("schedule", ("linear", "cyclical"))] = 0  # the steps of the rise, or of a cycle, whose first half rises
    free_bits: Weight = 0.0  # nats: what each latent's KL may cost for nothing in training (Kingma et al. 2016, equation 15)


@dataclass(frozen=True)
class TCVAEConfig(VAEConfig):
    """And the size of the training set, which the estimate of the total correlation needs. β then weighs that alone."""

    images: Size = 55_000


def check_config(config) -> None:
    """UserError for settings that make no model."""
    if config.network == "conv" and any(side % 4 or side < 4 for side in config.image_shape[1:]):
        raise UserError(f"Images of {config.image_shape[1:]} don't fit: a conv autoencoder needs sides divisible by 4; network='mlp' takes any.")


def encoder_and_decoder(config, features: int, channels: int):
    """Networks from images to (N, features), and from (N, config.latent) to as many `channels` of the images' size."""
    _, height, width = config.image_shape
    if config.network == "conv":
        encoder = ConvEncoder(config.image_shape, features, config.width, config.blocks)
        return encoder, ConvDecoder(config.latent, (channels, height, width), config.width, config.blocks)
    hidden = (config.width,) * config.blocks
    encoder = MLP(math.prod(config.image_shape), hidden, features, nn.SiLU)
    decoder = MLP(config.latent, hidden, channels * height * width, nn.SiLU)
    return encoder, nn.Sequential(decoder, nn.Unflatten(1, (channels, height, width)))


class Autoencoder(Model):
    """Images (N, C, H, W), uint8 or floats in [0, 1], to codes (N, D) and back, by the least squared error.

    It has no prior. What `sample` draws from is a Gaussian fitted to the codes of the training images afterwards, by
    `finish`; before that, the standard normal.
    """

    Config = AutoencoderConfig
    measures = ("reconstruction", "samples")
    halves = True

    def __init__(self, config: AutoencoderConfig):
        super().__init__(config)
        check_config(config)
        self.encoder, self.decoder = encoder_and_decoder(config, config.latent, config.image_shape[0])
        self.register_buffer("code_mean", torch.zeros(config.latent))
        self.register_buffer("code_factor", torch.eye(config.latent))

    def regions(self):
        return [self.encoder, self.decoder]

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean squared error a pixel, pixels in [0, 1]."""
        x = pixels(self, images)
        return {"loss": (self.decode(self.encoder(x)) - x).square().mean()}

    def encode(self, images) -> torch.Tensor:
        return self.encoder(pixels(self, images)).to(self.dtype)

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of codes (N, D)."""
        check_latents(z, self.latent_dim)
        return torch.sigmoid(self.decoder(z).to(self.dtype))

    @torch.no_grad()
    def finish(self, images) -> None:
        """Fit the Gaussian that `sample` draws from to the codes of `images`."""
        codes = torch.cat([self.encode(part) for part in images.split(1_000)])
        codes = precise(codes)
        covariance = torch.atleast_2d(torch.cov(codes.T))
        least = 1e-6 * covariance.diagonal().mean() + 1e-12  # unused codes have no width; of images that are all alike none has
        covariance += least * torch.eye(len(covariance), device=codes.device)
        self.code_mean.copy_(codes.mean(0))
        self.code_factor.copy_(torch.linalg.cholesky(covariance))

    def prior(self, n: int, temperature: float = 1.0) -> torch.Tensor:
        """n codes (n, D) from the Gaussian that was fitted to codes, its width multiplied by `temperature`."""
        return self.code_mean + super().prior(n, temperature) @ self.code_factor.T


class Variational(Model):
    """What variational autoencoders share: p(x|z), and a bound on log p(x) that importance sampling tightens.

    Images (N, C, H, W), uint8 or floats in [0, 1]; latents (N, D). The likelihood p(x|z) says what x is:
    bernoulli: a binary image. Each pixel is drawn anew, white with its grey value as the probability, whenever an image is
        looked at ("dynamic binarisation", the setting of the published numbers). In nats.
    logistic: an 8-bit image, each pixel's 256 levels under a logistic distribution of learned place and width (Salimans
        et al. 2017, equation 2, with one component). In nats, or bits/dim: comparable with a flow.
    grey: none at all. The Bernoulli's formula put to grey values, as in many tutorials: summed binary cross entropy, a
        number that compares with nothing but itself.

    A family gives recognise(x) -> what q(z|x) needs of images, once for all draws; log_weights(x, seen, k) -> log p(x|z) p(z) / q(z|x)
    of k draws from q(z|x), (k, N).
    """

    halves = True

    def __init__(self, config):
        super().__init__(config)
        kl_weight(0, config.schedule, config.schedule_steps)  # UserError for a schedule that there is not

    @property
    def likelihood(self):
        return LIKELIHOODS[self.config.likelihood]

    def observed(self, images):
        """The x of p(x|z), in [0, 1], of images. UserError for what is no image of this model."""
        x = pixels(self, images)
        if self.config.likelihood == "logistic" and images.dtype != torch.uint8:
            return (x * 256).floor().clamp(max=255) / 255  # the bin that a float falls into
        return torch.bernoulli(x) if self.config.likelihood == "bernoulli" else x

    def log_likelihood_of(self, x, parameters) -> torch.Tensor:
        """log p(x|z) in nats, (N,), where the decoder says `parameters` of z."""
        if self.config.likelihood == "logistic":
            return discretized_logistic(x, *parameters.chunk(2, dim=1)).flatten(1).sum(1)
        return -F.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)

    def shown(self, parameters) -> torch.Tensor:
        """Images in [0, 1] of what the decoder says: for each pixel the mean, or the place, of p(x|z), not a draw."""
        return parameters.chunk(2, dim=1)[0].clamp(0, 1) if self.config.likelihood == "logistic" else torch.sigmoid(parameters)

    @torch.no_grad()
    def log_prob(self, images, labels=None, samples: int = 1, at_once: int = 250) -> torch.Tensor:
        """A lower bound on log p(x) in nats, (N,), that tightens with the number of samples z_k from q(z|x):

        log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) (Burda et al. 2016, equation 8); with one sample, the ELBO.
        at_once: how many images are decoded at a time; few enough for a processor's cache are twice as fast as thousands.
        """
        if samples < 1:
            raise UserError(f"{samples} importance samples were asked for: ask for at least 1.")
        x = self.observed(images)
        seen, total, done = self.recognise(x), torch.full((len(x),), -math.inf, dtype=self.dtype, device=x.device), 0
        while done < samples:
            k = min(samples - done, max(1, at_once // len(x)))
            total = torch.logaddexp(total, self.log_weights(x, seen, k).logsumexp(0))
            done += k
        return total - math.log(samples)


class VAE(Variational):
    """Variational autoencoder (Kingma & Welling 2014): one Gaussian of latents for each image."""

    Config = VAEConfig
    measures = ("elbo", "names", "factors", "samples")

    def __init__(self, config: VAEConfig, features: int = 0):
        super().__init__(config)
        check_config(config)
        channels = config.image_shape[0] * (2 if config.likelihood == "logistic" else 1)
        self.encoder, self.decoder = encoder_and_decoder(config, 2 * config.latent + features, channels)

    def regions(self):
        return [self.encoder, self.decoder]

    def posterior(self, x):
        """Mean and log standard deviation, (N, D) each, of the Gaussian q(z|x), and what else an f-VAE's encoder says, (N, F)."""
        size = self.config.latent
        mean, log_std, features = self.encoder(x).to(self.dtype).tensor_split((size, 2 * size), dim=1)
        return mean, log_std.clamp(-8, 4), features  # a width beyond these is a run about to break

    def bend(self, z, features):
        """What a flow makes of a Gaussian's draws z (N, D), and how much that adds to the KL, (N,). Here: nothing."""
        return z, z.new_zeros(len(z))

    def log_prior(self, z) -> torch.Tensor:
        """log p(z) in nats, (N,), of what the decoder takes."""
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def log_posterior(self, x, z) -> torch.Tensor:
        """log q(z|x) in nats, (N,), of any z (N, D) of what the decoder takes; x: as many observed images, or one for all z."""
        mean, log_std, _ = self.posterior(x)
        return (-0.5 * (((z - mean) / log_std.exp()).square() + math.log(2 * math.pi)) - log_std).sum(1)

    def log_likelihood(self, x, z) -> torch.Tensor:
        """log p(x|z) in nats, (N,)."""
        return self.log_likelihood_of(x, self.decoder(z).to(self.dtype))

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """In nats an image: reconstruction, -E_q[log p(x|z)] with one z an image; kl; and their weighted sum.

        In evaluation the weight of the KL is β and no bits are free, whatever the schedule.
        """
        x = self.observed(images)
        mean, log_std, features = self.posterior(x)
        z = mean + log_std.exp() * torch.randn_like(mean)  # the reparameterisation: the gradient passes through the draw
        z, more = self.bend(z, features)
        reconstruction = -self.log_likelihood(x, z).mean()
        kl = gaussian_kl(mean, log_std).mean(0)  # of each latent
        paid = (kl.clamp(min=self.config.free_bits) if self.training else kl).sum() + more.mean()
        weight = kl_weight(self.step, self.config.schedule, self.config.schedule_steps) if self.training else 1.0
        return {"loss": reconstruction + weight * self.config.beta * paid, "reconstruction": reconstruction, "kl": kl.sum() + more.mean()}

    def encode(self, images, draw: bool = False) -> torch.Tensor:
        """The mean of q(z|x), (N, D), or a draw from it; x are the images as they are, grey where they are, so that nothing else is drawn."""
        mean, log_std, _ = self.posterior(pixels(self, images))
        return mean + log_std.exp() * torch.randn_like(mean) if draw else mean

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D), as `shown`."""
        check_latents(z, self.latent_dim)
        return self.shown(self.decoder(z).to(self.dtype))

    def recognise(self, x):
        """What q(z|x) needs of images, once for all draws."""
        return self.posterior(x)

    def log_weights(self, x, seen, k: int) -> torch.Tensor:
        """log p(x|z) p(z) / q(z|x) of k draws from q(z|x), (k, N)."""
        mean, log_std, features = seen
        eps = torch.randn(k, *mean.shape, dtype=self.dtype, device=x.device)
        base = mean + log_std.exp() * eps
        z, more = self.bend(base.flatten(0, 1), features.repeat(k, 1))
        log_weight = (self.log_likelihood(x.repeat(k, 1, 1, 1), z) - more).view(k, -1)
        return log_weight + (0.5 * (eps.square() - base.square()) + log_std).sum(2)  # log p(z) - log q(z|x)


class TCVAE(VAE):
    """β-TCVAE (Chen et al. 2018): of the KL's three parts (equation 2) β weighs only the total correlation.

    That is KL(q(z) || product of q(z_d)), the dependence between the latents over all images; what the latents tell of
    the image isn't charged more than in a VAE.
    """

    Config = TCVAEConfig

    def __init__(self, config: TCVAEConfig):
        if config.schedule != "constant" or config.free_bits:
            raise UserError("A TCVAE weighs the total correlation alone: leave schedule at constant and free_bits at 0.")
        super().__init__(config)

    @classmethod
    def settings_for(cls, image_shape, images: int, steps: int) -> dict:
        return {"images": images}

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """As a VAE's, and the total correlation in nats, estimated from the batch."""
        x = self.observed(images)
        mean, log_std, _ = self.posterior(x)
        z = mean + log_std.exp() * torch.randn_like(mean)
        reconstruction, kl = -self.log_likelihood(x, z).mean(), gaussian_kl(mean, log_std).sum(1).mean()
        correlation = total_correlation(z, mean, log_std, self.config.images)
        loss = reconstruction + kl + (self.config.beta - 1) * correlation
        return {"loss": loss, "reconstruction": reconstruction, "kl": kl, "total_correlation": correlation}


def total_correlation(z, mean, log_std, images: int) -> torch.Tensor:
    """KL(q(z) || product of q(z_d)) in nats from a batch of z (N, D), each drawn from its own Gaussian (mean, log_std).

    Of `images` images in all, minibatch-weighted sampling (Chen et al. 2018, equation S5): biased, but its gradient is
    what trains. log q(z_i) = log sum_j q(z_i|x_j) - log (N * images), for z and for each latent.
    """
    pairs = -0.5 * ((z[:, None] - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)  # i, j, latent
    together = pairs.sum(2).logsumexp(1)
    alone = pairs.logsumexp(1).sum(1)
    return (together - alone).mean() + (z.shape[1] - 1) * math.log(len(z) * images)


def gaussian_kl(mean, log_std) -> torch.Tensor:
    """KL(N(mean, std^2) || N(0, 1)) in nats, element by element (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std


def kl_weight(step: int, schedule: str, steps: int) -> float:
    """The factor on the KL divergence after so many steps: 1, or rising to 1 in `steps`, once or in each cycle.

    linear: Bowman et al. 2016; cyclical, up in the first half of each cycle: Fu et al. 2019, equation 6.
    """
    if schedule not in SCHEDULES:
        raise UserError(f"There is no schedule {schedule!r}: take one of {', '.join(SCHEDULES)}.")
    if steps < 0 or (steps == 0 and schedule != "constant"):
        raise UserError(f"A {schedule} schedule of {steps} steps was asked for: take at least 1.")
    if schedule == "constant":
        return 1.0
    return min(1.0, step / steps if schedule == "linear" else 2 * (step % steps) / steps)


def discretized_logistic(x, place, log_width) -> torch.Tensor:
    """log P(x), element by element, of the 256 levels k/255 under a logistic distribution: what of it falls into a bin.

    The bin of level k reaches half a level to both sides, those of 0 and 255 to infinity, so that the 256 add up to 1.
    place is in [0, 1] where x is; log_width is of the width in units of 1/16 of that range.
    """
    width = log_width.clamp(-7, 4).exp() / 16
    upper, lower = (x - place + 0.5 / 255) / width, (x - place - 0.5 / 255) / width
    # log(sigmoid(u) - sigmoid(l)) = logsigmoid(u) + logsigmoid(-l) + log(1 - exp(l - u)), and u - l is 1 / (255 width)
    inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-1 / (255 * width)))
    return torch.where(x < 0.5 / 255, F.logsigmoid(upper), torch.where(x > 1 - 0.5 / 255, F.logsigmoid(-lower), inside))
