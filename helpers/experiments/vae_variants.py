"""Autoencoders with one piece exchanged, for the experiments of notebooks 02, 03 and 06."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.autoencoders import VAE, VAEConfig, encoder_and_decoder
from helpers.models.codebook import VQVAE, Codebook, VQVAEConfig

# --------------------------------------------------------------------------------------------------- a strong decoder


@dataclass(frozen=True)
class WindowConfig(VAEConfig):
    window: int = 0  # side, odd, of the square around a pixel in which the decoder sees the pixels before it; 0: it sees none
    hidden: int = 32  # channels of what it makes of them, and of the latents


class WindowVAE(VAE):
    """A VAE whose decoder sees, besides the latents, the pixels that come before each one in reading order, as far as its window reaches.

    p(x|z) = product over i of p(x_i | z, x_<i) (van den Oord et al. 2016; Chen et al. 2017): of binary images.
    """

    Config = WindowConfig

    def __init__(self, config: WindowConfig):
        super().__init__(config)
        if config.likelihood != "bernoulli" or config.window < 0 or (config.window and config.window % 2 == 0):
            raise UserError(f"A window of {config.window} on {config.likelihood} images was asked for: take 0 or an odd side, and bernoulli.")
        hidden, channels = config.hidden, config.image_shape[0]
        self.encoder, self.decoder = encoder_and_decoder(config, 2 * config.latent, hidden)
        self.look = nn.Conv2d(channels, hidden, config.window, padding=config.window // 2) if config.window else None
        if config.window:
            before = torch.zeros(config.window, config.window)
            before.view(-1)[: config.window**2 // 2] = 1
            self.register_buffer("before", before, persistent=False)
        self.join = nn.Sequential(nn.SiLU(), nn.Conv2d(hidden, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, channels, 1))

    @property
    def passes(self) -> int:
        return math.prod(self.config.image_shape[1:]) if self.config.window else 1

    def logits(self, told, x):
        """Of what the latents say (N, hidden, H, W) and of the image (N, C, H, W), of which each pixel is told those before it alone."""
        if self.look is not None:
            told = told + F.conv2d(x, self.look.weight * self.before, self.look.bias, padding=self.look.padding)
        return self.join(told).to(self.dtype)

    def log_likelihood(self, x, z):
        return -F.binary_cross_entropy_with_logits(self.logits(self.decoder(z), x), x, reduction="none").flatten(1).sum(1)

    def decode(self, z, labels=None):
        """Images of latents: a pixel is drawn after the other, and shown as its probability; without a window, all at once."""
        told = self.decoder(z)
        x = torch.zeros(len(z), *self.config.image_shape, dtype=self.dtype, device=z.device)
        if self.look is None:
            return torch.sigmoid(self.logits(told, x))
        shown = torch.zeros_like(x)
        for i in range(x.shape[2]):
            for j in range(x.shape[3]):
                shown[:, :, i, j] = torch.sigmoid(self.logits(told, x)[:, :, i, j])
                x[:, :, i, j] = torch.bernoulli(shown[:, :, i, j])
        return shown


# ------------------------------------------------------------------------------------------------------ another start


@dataclass(frozen=True)
class StartedConfig(VAEConfig):
    start: str = "He"  # of fully connected layers: weights of variance 2 / inputs (He et al. 2015) instead of torch's 1 / (3 inputs)


class StartedVAE(VAE):
    """A VAE whose signal keeps its size on the way through many layers at the start."""

    Config = StartedConfig

    def __init__(self, config: StartedConfig):
        super().__init__(config)
        if config.start != "He":
            raise UserError(f"There is no start {config.start!r}: take He.")
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


# -------------------------------------------------------------------------------------------------- another objective


@dataclass(frozen=True)
class ImportanceConfig(VAEConfig):
    draws: int = 5  # latents drawn an image in training
    inside: bool = True  # their weights are averaged inside the logarithm: IWAE; else their logarithms are


class ImportanceVAE(VAE):
    """A VAE trained on the mean of several draws: of log weights (the ELBO, with less noise), or the log of mean weights (Burda et al. 2016)."""

    Config = ImportanceConfig

    def loss(self, images, labels=None):
        if not self.training:
            return super().loss(images)
        k, x = self.config.draws, self.observed(images)
        mean, log_std, _ = self.posterior(x)
        eps = torch.randn(k, *mean.shape, dtype=mean.dtype, device=mean.device)
        z = mean + log_std.exp() * eps
        reconstruction = -self.log_likelihood(x.repeat(k, 1, 1, 1), z.flatten(0, 1)).view(k, -1)
        kl = (0.5 * (z.square() - eps.square()) - log_std).sum(2)  # log q(z|x) - log p(z) of each draw
        weights = -reconstruction - kl
        bound = weights.logsumexp(0) - math.log(k) if self.config.inside else weights.mean(0)
        return {"loss": -bound.mean(), "reconstruction": reconstruction.mean(), "kl": kl.mean()}


# ------------------------------------------------------------------------------------------------ words, half precision


@dataclass(frozen=True)
class RoundedConfig(VQVAEConfig):
    """As a VQVAE's."""


class RoundedCodebook(Codebook):
    """Which word is nearest is decided in whatever precision the training runs in."""

    @torch.no_grad()
    def nearest(self, vectors):
        return (self.words.square().sum(1) - 2 * vectors @ self.words.T).argmin(1)


class RoundedVQVAE(VQVAE):
    """A VQVAE with such a codebook."""

    Config = RoundedConfig

    def __init__(self, config: RoundedConfig):
        super().__init__(config)
        self.autoencoder["codebook"] = RoundedCodebook(config.codes, config.code_width, config.decay)
