"""Autoencoders: an image through a bottleneck and back. And variational ones, whose bottleneck can be sampled.

An autoencoder learns an encoder and a decoder that lose as little as they can. Where its codes lie is nobody's business,
so a code drawn at random decodes to nothing in particular. A variational autoencoder (Kingma & Welling 2014) makes it its
business: images come from latents with a known prior, z ~ N(0, I) and x ~ p(x|z), and the encoder proposes for each image
which latents it may have come from, q(z|x). What is maximised is a lower bound on log p(x), the ELBO,

    log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.layers import MLP, ConvDecoder, ConvEncoder, check_images, check_latents, prior_noise

NETWORKS = ("conv", "mlp")
LIKELIHOODS = ("bernoulli", "grey", "logistic")
SCHEDULES = ("constant", "linear", "cyclical")


@dataclass(frozen=True)
class AutoencoderConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; conv: both sides divisible by 4
    latent: int = 16  # size of the bottleneck
    network: str = "conv"  # or mlp
    width: int = 32  # conv: channels at half the resolution, twice as many at a quarter; mlp: units of a hidden layer
    blocks: int = 1  # conv: gated residual blocks at each resolution; mlp: hidden layers


@dataclass(frozen=True)
class VAEConfig(AutoencoderConfig):
    """And what the decoder's output means, and how much the KL divergence weighs."""

    likelihood: str = "bernoulli"  # of binarised images; logistic: of 8-bit images; grey: no likelihood, see VAE
    beta: float = 1.0  # weight of the KL divergence (Higgins et al. 2017); 1 makes the loss the negative ELBO
    schedule: str = "constant"  # in training the weight also rises from 0: linear once, cyclical again and again
    schedule_steps: int = 0  # the steps of the rise, or of a cycle, whose first half rises
    free_bits: float = 0.0  # nats: what each latent's KL may cost for nothing in training (Kingma et al. 2016, equation 15)


def check_config(config) -> None:
    """UserError for settings that make no model."""
    if config.network not in NETWORKS:
        raise UserError(f"There is no network {config.network!r}: take one of {', '.join(NETWORKS)}.")
    if config.latent < 1:
        raise UserError(f"The latent size {config.latent} was given: take at least 1.")
    if config.network == "conv" and any(side % 4 or side < 4 for side in config.image_shape[1:]):
        raise UserError(f"Images of {config.image_shape[1:]} don't fit: a conv autoencoder needs sides divisible by 4; network='mlp' takes any.")


def pixels(model, images):
    """The images as floats in [0, 1], in the model's precision. UserError for what is no image of this model."""
    check_images(images, model.config.image_shape)
    return images.to(model.dtype) / 255 if images.dtype == torch.uint8 else images.to(model.dtype)


def unlabelled(model, labels) -> None:
    if labels is not None:
        raise UserError(f"Labels were given, but this {type(model).__name__} knows none: leave them out.")


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


class Autoencoder(nn.Module):
    """Images (N, C, H, W), uint8 or floats in [0, 1], to codes (N, D) and back, by the least squared error.

    It has no prior. What `sample` draws from is a Gaussian fitted to the codes of the training images afterwards, by
    `finish`; before that, the standard normal.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        check_config(config)
        self.config = config
        self.encoder, self.decoder = encoder_and_decoder(config, config.latent, config.image_shape[0])
        self.register_buffer("code_mean", torch.zeros(config.latent))
        self.register_buffer("code_factor", torch.eye(config.latent))

    @property
    def latent_dim(self):
        return self.config.latent

    @property
    def dtype(self):
        return self.code_mean.dtype

    def regions(self):
        return [self.encoder, self.decoder]

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean squared error a pixel, pixels in [0, 1]."""
        x = pixels(self, images)
        return {"loss": (self.decode(self.encoder(x)) - x).square().mean()}

    def encode(self, images) -> torch.Tensor:
        return self.encoder(pixels(self, images)).to(self.dtype)

    def decode(self, z) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of codes (N, D)."""
        check_latents(z, self.latent_dim)
        return torch.sigmoid(self.decoder(z).to(self.dtype))

    @torch.no_grad()
    def finish(self, images) -> None:
        """Fit the Gaussian that `sample` draws from to the codes of `images`."""
        codes = torch.cat([self.encode(part) for part in images.split(1_000)]).double()
        covariance = torch.atleast_2d(torch.cov(codes.T))
        covariance += 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance), device=codes.device)  # unused codes have no width
        self.code_mean.copy_(codes.mean(0))
        self.code_factor.copy_(torch.linalg.cholesky(covariance))

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] of codes from the Gaussian fitted to codes, its width multiplied by `temperature`."""
        unlabelled(self, labels)
        return self.decode(self.code_mean + prior_noise(self, n, temperature) @ self.code_factor.T)


class VAE(nn.Module):
    """Variational autoencoder (Kingma & Welling 2014): images (N, C, H, W), uint8 or floats in [0, 1]; latents (N, D).

    The likelihood p(x|z) says what x is:
    bernoulli: a binary image. Each pixel is drawn anew, white with its grey value as the probability, whenever an image is
        looked at ("dynamic binarisation", the setting of the published numbers). In nats.
    logistic: an 8-bit image, each pixel's 256 levels under a logistic distribution of learned place and width (Salimans
        et al. 2017, equation 2, with one component). In nats, or bits/dim: comparable with a flow.
    grey: none at all. The Bernoulli's formula put to grey values, as in many tutorials: summed binary cross entropy, a
        number that compares with nothing but itself.
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        check_config(config)
        if config.likelihood not in LIKELIHOODS:
            raise UserError(f"There is no likelihood {config.likelihood!r}: take one of {', '.join(LIKELIHOODS)}.")
        if not 0 <= config.beta < math.inf:
            raise UserError(f"β = {config.beta} was given: take a number from 0 up, 1 for the ELBO.")
        if not 0 <= config.free_bits < math.inf:
            raise UserError(f"{config.free_bits} free bits were given: take a number from 0 up, 0 for none.")
        kl_weight(0, config.schedule, config.schedule_steps)
        self.config, self.step = config, 0
        channels = config.image_shape[0] * (2 if config.likelihood == "logistic" else 1)
        self.encoder, self.decoder = encoder_and_decoder(config, 2 * config.latent, channels)

    @property
    def latent_dim(self):
        return self.config.latent

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    def regions(self):
        return [self.encoder, self.decoder]

    def observed(self, images):
        """The x of p(x|z), in [0, 1], of images. UserError for what is no image of this model."""
        x = pixels(self, images)
        if self.config.likelihood == "logistic" and images.dtype != torch.uint8:
            return (x * 256).floor().clamp(max=255) / 255  # the bin that a float falls into
        return torch.bernoulli(x) if self.config.likelihood == "bernoulli" else x

    def posterior(self, x):
        """Mean and log standard deviation, (N, D) each, of the Gaussian q(z|x)."""
        mean, log_std = self.encoder(x).to(self.dtype).chunk(2, dim=1)
        return mean, log_std.clamp(-8, 4)  # a width beyond these is a run about to break

    def log_likelihood(self, x, z) -> torch.Tensor:
        """log p(x|z) in nats, (N,)."""
        parameters = self.decoder(z).to(self.dtype)
        if self.config.likelihood == "logistic":
            return discretized_logistic(x, *parameters.chunk(2, dim=1)).flatten(1).sum(1)
        return -F.binary_cross_entropy_with_logits(parameters, x, reduction="none").flatten(1).sum(1)

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """In nats an image: reconstruction, -E_q[log p(x|z)] with one z an image; kl; and their weighted sum.

        In evaluation the weight of the KL is β and no bits are free, whatever the schedule.
        """
        x = self.observed(images)
        mean, log_std = self.posterior(x)
        z = mean + log_std.exp() * torch.randn_like(mean)  # the reparameterisation: the gradient passes through the draw
        reconstruction = -self.log_likelihood(x, z).mean()
        kl = gaussian_kl(mean, log_std).mean(0)  # of each latent
        paid = kl.clamp(min=self.config.free_bits) if self.training else kl
        weight = kl_weight(self.step, self.config.schedule, self.config.schedule_steps) if self.training else 1.0
        return {"loss": reconstruction + weight * self.config.beta * paid.sum(), "reconstruction": reconstruction, "kl": kl.sum()}

    def encode(self, images) -> torch.Tensor:
        """The mean of q(z|x), (N, D)."""
        return self.posterior(self.observed(images))[0]

    def decode(self, z) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D): for each pixel the mean, or the place, of p(x|z), not a draw."""
        check_latents(z, self.latent_dim)
        parameters = self.decoder(z).to(self.dtype)
        return parameters.chunk(2, dim=1)[0].clamp(0, 1) if self.config.likelihood == "logistic" else torch.sigmoid(parameters)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] from the prior with its standard deviation multiplied by `temperature`."""
        unlabelled(self, labels)
        return torch.cat([self.decode(part) for part in prior_noise(self, n, temperature).split(1_000)])

    @torch.no_grad()
    def log_prob(self, images, labels=None, samples: int = 1, at_once: int = 250) -> torch.Tensor:
        """A lower bound on log p(x) in nats, (N,), that tightens with the number of samples z_k from q(z|x):

        log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x) (Burda et al. 2016, equation 8); with one sample, the ELBO.
        at_once: how many images are decoded at a time; few enough for a processor's cache are twice as fast as thousands.
        """
        if samples < 1:
            raise UserError(f"{samples} importance samples were asked for: ask for at least 1.")
        x = self.observed(images)
        mean, log_std = self.posterior(x)
        total, done = torch.full((len(x),), -math.inf, dtype=self.dtype, device=x.device), 0
        while done < samples:
            k = min(samples - done, max(1, at_once // len(x)))
            eps = torch.randn(k, *mean.shape, dtype=self.dtype, device=x.device)
            z = mean + log_std.exp() * eps
            log_weight = self.log_likelihood(x.repeat(k, 1, 1, 1), z.flatten(0, 1)).view(k, -1)
            log_weight = log_weight + (0.5 * (eps.square() - z.square()) + log_std).sum(2)  # log p(z) - log q(z|x)
            total = torch.logaddexp(total, log_weight.logsumexp(0))
            done += k
        return total - math.log(samples)


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
