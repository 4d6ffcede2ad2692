"""The f-VAE: a VAE whose posterior or prior is bent by flows on its latents."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from helpers import UserError
from helpers.models.autoencoders import VAE, VAEConfig
from helpers.models.bijections import Compose, vector_couplings
from helpers.models.layers import check_latents, pixels
from helpers.models.settings import Count, Only, Size


@dataclass(frozen=True)
class FVAEConfig(VAEConfig):
    """And the flows on the latents."""

    where: Literal["posterior", "prior", "both"] = "posterior"  # or prior, or both
    couplings: Count = 4  # of each flow; 0 makes it a VAE
    flow_width: Annotated[Size, Only("couplings")] = 64  # units of a coupling's two hidden layers
    features: Count = 0  # numbers of the encoder that the posterior's couplings see besides the latents


class FVAE(VAE):
    """A VAE with flows on its latents, in the posterior (Rezende & Mohamed 2015), in the prior (Chen et al. 2017), or both.

        z0 ~ N(mean(x), std(x)),    z = posterior flow(z0, features of x),    u = prior flow(z).

    The decoder takes z. The prior is what makes u standard normal, so the latents of `encode` and `decode` are u. With the
    two log-determinants of the change of variables, log q(z|x) = log N(z0) - log |dz/dz0| and log p(z) = log N(u; 0, I) +
    log |du/dz|, the KL is that of the two Gaussians, which is known, plus the mean of
    (|u|^2 - |z0|^2) / 2 - log |dz/dz0| - log |du/dz|. Flows start as the identity: then that is 0, and this is the VAE.
    """

    Config = FVAEConfig
    measures = ("elbo", "factors", "samples")
    halves = False  # a flow in float16 would belong to another density

    def __init__(self, config: FVAEConfig):
        if config.features and config.where == "prior":
            raise UserError(f"{config.features} features were given to a flow in the prior, which sees no image: give 0.")
        super().__init__(config, config.features)
        posterior, prior = (config.couplings if config.where in (place, "both") else 0 for place in ("posterior", "prior"))
        self.posterior_flow = Compose(*vector_couplings(config.latent, posterior, config.flow_width, config.features))
        self.prior_flow = Compose(*vector_couplings(config.latent, prior, config.flow_width))

    def bend(self, z, features):
        base = z
        z, posterior = self.posterior_flow(base, features)
        u, prior = self.prior_flow(z)
        return z, 0.5 * (u.square() - base.square()).sum(1) - posterior - prior

    def log_prior(self, z) -> torch.Tensor:
        u, log_det = self.prior_flow(z)
        return super().log_prior(u) + log_det

    def log_posterior(self, x, z) -> torch.Tensor:
        features = self.posterior(x)[2].expand(len(z), -1)
        base, log_det = self.posterior_flow.inverse(z, features)
        return super().log_posterior(x, base) + log_det

    def encode(self, images, draw: bool = False) -> torch.Tensor:
        """Latents u (N, D): of the mean of the encoder's Gaussian, or of a draw from it, through both flows."""
        mean, log_std, features = self.posterior(pixels(self, images))
        base = mean + log_std.exp() * torch.randn_like(mean) if draw else mean
        return self.prior_flow(self.posterior_flow(base, features)[0])[0]

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents u (N, D), which are standard normal under the model."""
        check_latents(z, self.latent_dim)
        return super().decode(self.prior_flow.inverse(z)[0])
