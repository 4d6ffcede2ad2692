"""What an autoencoder loses, what the latents of a VAE carry, and what single ones stand for."""

import math

import torch

from helpers import UserError
from helpers.measures import disentanglement
from helpers.measures.likelihood import LONG, elbo, nats_to_bits_per_dim, nll, nll_of_some
from helpers.models.autoencoders import gaussian_kl
from helpers.models.layers import at_once, pixels, precise, unit
from helpers.training import aside


@torch.no_grad()
def reconstruction_error(model, images) -> torch.Tensor:
    """Mean squared error a pixel of each image after its way through the bottleneck, pixels in [0, 1], (N,)."""
    errors = []
    for part in images.split(at_once(images.device)):
        errors.append((model.decode(model.encode(part)) - pixels(model, part)).square().flatten(1).mean(1))
    return torch.cat(errors)


def pca_errors(train_images, images, sizes) -> dict[int, float]:
    """Size -> mean squared error a pixel of `images` after principal component analysis of the training images.

    The least that any linear encoder and decoder of that bottleneck reach on the training images.
    """
    train, x = (unit(part.flatten(1).cpu(), torch.double) for part in (train_images, images))
    mean = train.mean(0)
    directions = torch.linalg.eigh(torch.cov((train - mean).T)).eigenvectors.flip(1)
    shares = ((x - mean) @ directions).square().mean(0)  # of the error, that each direction would take away
    left = (x - mean).square().sum(1).mean()
    return {size: ((left - shares[:size].sum()) / x.shape[1]).item() for size in sizes}


@torch.no_grad()
def encoded(model, images, draw: bool = False) -> torch.Tensor:
    """The codes of images (N, D): of a VAE the posterior's means, or a draw from it."""
    with aside():
        return torch.cat([model.encode(part, draw) if draw else model.encode(part) for part in images.split(at_once(images.device))])


@torch.no_grad()
def latent_use(model, images, seed: int = 0) -> dict[str, torch.Tensor]:
    """What each latent of a VAE carries, (D,): "kl", the mean of its KL divergence in nats; "variance", of its code over the images.

    Of an f-VAE the KL of one latent isn't known, and "kl" is that of the Gaussian before its flows.
    """
    with aside(seed):
        parts = [model.posterior(model.observed(part))[:2] for part in images.split(at_once(images.device))]
    mean, log_std = (torch.cat(both) for both in zip(*parts, strict=True))
    return {"kl": gaussian_kl(mean, log_std).mean(0), "variance": encoded(model, images).var(0)}


@torch.no_grad()
def kl_parts(model, images, draws: int = 2_000, seed: int = 0) -> dict[str, float]:
    """The mean KL(q(z|x) || p(z)) of a VAE in its three parts, in nats (Hoffman & Johnson 2016; Chen et al. 2018, equation 2).

    index_code: what a latent tells of which image it is from, at most log N; total_correlation: KL(q(z) || product of q(z_d)), how the
    latents depend on each other; dimensions: the sum of KL(q(z_d) || p(z_d)). q(z) is the mean of q(z|x) over all N `images`, and each
    part the mean over a draw from q(z|x) for `draws` of them.
    """
    if hasattr(model, "posterior_flow"):
        raise UserError("The parts of an f-VAE's KL were asked for: they are known of a Gaussian posterior and prior alone.")
    with aside(seed):
        parts = [model.posterior(model.observed(part))[:2] for part in images.split(at_once(images.device))]
        mean, log_std = (precise(torch.cat(both)) for both in zip(*parts, strict=True))
        z = mean[:draws] + log_std[:draws].exp() * torch.randn_like(mean[:draws])

    def log_q(z, mean, log_std):  # of every latent alone
        return -0.5 * (((z - mean) / log_std.exp()).square() + math.log(2 * math.pi)) - log_std

    own, prior = log_q(z, mean[:draws], log_std[:draws]).sum(1), log_q(z, torch.zeros_like(z), torch.zeros_like(z)).sum(1)
    together, alone = [], []
    for part in z.split(50):
        pairs = log_q(part[:, None], mean, log_std)  # (50, N, D)
        together.append(pairs.sum(2).logsumexp(1) - math.log(len(mean)))
        alone.append((pairs.logsumexp(1) - math.log(len(mean))).sum(1))
    together, alone = torch.cat(together), torch.cat(alone)
    found = {"index_code": own - together, "total_correlation": together - alone, "dimensions": alone - prior}
    return {name: part.mean().item() for name, part in found.items()}


def active_units(model, images, threshold: float = 0.01) -> int:
    """How many latents move with the image: those whose code, the posterior's mean, has a variance above 0.01 (Burda et al. 2016, section 5.2)."""
    return int((latent_use(model, images)["variance"] > threshold).sum())


def evaluate_vae(model, images, samples: int = 1, progress: bool = False) -> dict:
    """ELBO, and where asked for the importance-weighted NLL and bits/dim, of a VAE; how many latents it uses."""
    result = {"likelihood": model.config.likelihood} | elbo(model, images)
    result |= {"active_units": active_units(model, images)} if hasattr(model, "encoder") else {}  # of latents in layers there is no one posterior
    result |= {"mse": reconstruction_error(model, images).mean().item()} if model.passes == 1 else {}  # else it would take hours
    if samples > 1 and model.likelihood:  # no likelihood, no NLL
        result |= nll(model, images, samples, compile=samples >= LONG, progress=progress)
        result |= nll_of_some(model, images, samples) if samples >= LONG else {}
    if model.likelihood == "bits/dim":
        result["bits_per_dim"] = nats_to_bits_per_dim(result.get("nll", result["neg_elbo"]), images[0].numel())
    return result


def named_latents(model, images) -> tuple[dict[str, float], dict[str, list[float]]]:
    """How much of each attribute of a stroke one latent explains: the best of those that carry anything, and each latent.

    The latents are in the order of their KL, the most first; a latent below disentanglement.CARRIES nats counts for nothing.
    """
    use, codes = latent_use(model, images)["kl"], encoded(model, images)
    order = use.argsort(descending=True)
    shares = {name: disentanglement.explained(codes[:, order], values) for name, values in disentanglement.attributes(images).items()}
    carries = use[order] > disentanglement.CARRIES
    best = {f"explained_{name}": of[carries].max().item() if carries.any() else 0.0 for name, of in shares.items()}
    return best, {name: [round(share, 4) for share in of.tolist()] for name, of in shares.items()}


def disentangled(model, images, factors) -> dict[str, float]:
    """How well the codes of images keep the factors (N, K) apart that these were drawn from, and how far that gap can go.

    The information is that of draws from q(z|x), as the gap's authors define it: the mean of a latent that is nearly switched
    off still moves a little, in step with some factor, but the decoder can't see that through the latent's noise.
    """
    codes, draws = encoded(model, images), encoded(model, images, draw=True)
    return {
        "mutual_information_gap": disentanglement.mutual_information_gap(draws, factors),
        "mutual_information_gap_ceiling": disentanglement.gap_ceiling(factors),
        "factor_vae_score": disentanglement.factor_vae_score(codes, factors),
    }
