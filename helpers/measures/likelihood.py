"""How probable a model finds images: bits per dimension, ELBO, importance sampling, and the true posterior of a small VAE."""

import math
import warnings

import torch

from helpers import UserError
from helpers.models.layers import at_once
from helpers.progress import bar
from helpers.training import aside, compiled

LONG = 300  # importance samples, from which on the likelihood of a whole test set takes a processor a quarter of an hour or more
BY_SAMPLES = ("bits_per_dim", "nll", "standard_error", "importance_samples")  # the metrics that depend on their number


def nats_to_bits_per_dim(nats: float, dims: int, scale: float = 1.0) -> float:
    """A negative log-density in nats per image, as bits per dimension of the 8-bit image.

    scale: what the 256 levels were divided by before the model saw them: 256 for pixels in [0, 1], 128 for [-1, 1], 1
    where the probability of the whole numbers themselves is given. A density on images shrunk by `scale` is higher by
    dims * log(scale): that much is added back (Theis et al. 2016, section 3.1).
    """
    return (nats + dims * math.log(scale)) / (dims * math.log(2))


def bits_per_dim(model, images, labels=None, samples: int = 1, seed: int = 0, progress: bool = False) -> dict:
    """Bits per dimension of 8-bit images under a model with a `log_prob` of them: mean, and its standard error over the images.

    labels: for a conditional model; its number is then of the image given its label.
    samples: importance samples of the dequantisation noise an image; 1 gives the plain bound that training uses.
    Computed in the precision of the model's weights, without compiled code, from a fixed seed.
    """
    values, size = [], at_once(images.device)
    with aside(seed):
        for start in bar(range(0, len(images), size), desc="bits/dim", disable=not progress):
            batch = slice(start, start + size)
            more = () if labels is None and samples == 1 else (None if labels is None else labels[batch], samples)
            values.append(-model.log_prob(images[batch], *more))  # of a plain family, log_prob(images)
    bits = torch.cat(values).cpu().double() / (images[0].numel() * math.log(2))
    return {"bits_per_dim": bits.mean().item(), "standard_error": (bits.std() / len(bits) ** 0.5).item()}


@torch.no_grad()
def class_log_probs(model, images, progress: bool = False) -> torch.Tensor:
    """log p(x|y) of a conditional flow for every label y, (N, classes), in nats: its argmax is a classifier."""
    with aside():
        batches = bar(images.split(at_once(images.device)), desc="log p(x|y) for every y", disable=not progress)
        return torch.cat([model.class_log_probs(batch) for batch in batches])


@torch.no_grad()
def elbo(model, images, seed: int = 0) -> dict[str, float]:
    """Negative ELBO of a VAE and its two parts, in nats an image, whatever β it was trained with; one z an image. Of a ladder the KL by size too."""
    totals = {}
    with aside(seed, model):
        for part in images.split(1_000):
            for name, term in model.loss(part).items():
                if name == "reconstruction" or name.startswith("kl"):
                    totals[name] = totals.get(name, 0.0) + term.item() * len(part) / len(images)
    return {"neg_elbo": totals["reconstruction"] + totals["kl"]} | totals


def nll(model, images, samples: int, seed: int = 0, batch_size: int = 250, compile: bool = False, progress: bool = False) -> dict[str, float]:
    """Negative log-likelihood in nats an image by importance sampling, an upper bound, and its standard error over the images.

    compile: takes some seconds and then makes a processor half as fast again: worth it for thousands of samples.
    """
    try:
        with compiled(model, compile), aside(seed), torch.compiler.set_stance("default" if compile else "force_eager"):
            batches = bar(images.split(batch_size), desc=f"{samples} importance samples", disable=not progress)
            values = -torch.cat([model.log_prob(part, samples=samples) for part in batches]).cpu().double()
    except torch._dynamo.exc.TorchDynamoException as error:
        if not compile:
            raise
        warnings.warn(f"torch.compile breaks on this model ({type(error).__name__}): it is measured eagerly, slower.", stacklevel=2)
        return nll(model, images, samples, seed, batch_size, progress=progress)
    return {"nll": values.mean().item(), "standard_error": (values.std() / len(values) ** 0.5).item(), "importance_samples": samples}


def nll_of_some(model, images, samples: int) -> dict[str, float]:
    """Of the first 100 images: what can be measured again in a minute where `nll` of all of them took LONG."""
    return {"nll_of_first_100": nll(model, images[:100], samples, batch_size=50)["nll"]}


@torch.no_grad()
def true_posterior(model, x, reach: float = 5.0, points: int = 100) -> dict:
    """p(z|x) = p(x|z) p(z) / p(x) of a VAE with two latents and one observed image x (1, C, H, W), by integration on a grid.

    A first grid over the square from -reach to reach finds where the posterior is, a second one covers that. Returns
    "z" (points^2, 2), rows of a picture from the top down, "box" (left, right, bottom, top), "log_cell", the log-area of a
    cell, "log_p" (points^2,) in nats, "nll" = -log p(x), and "not_gaussian" = KL(p || the Gaussian nearest to it).
    """
    if model.latent_dim != 2:
        raise UserError(f"This model has {model.latent_dim} latents: an integral over a grid needs 2.")
    low, high = torch.tensor([[-reach, -reach], [reach, reach]], dtype=model.dtype, device=x.device)
    for _ in range(2):
        across, up = (torch.linspace(a, b, points, dtype=model.dtype, device=x.device) for a, b in zip(low.tolist(), high.tolist(), strict=True))
        z = torch.stack([across.repeat(points), up.flip(0).repeat_interleave(points)], dim=1)
        step = (high - low) / (points - 1)
        log_p = torch.cat([model.log_likelihood(x.expand(len(part), -1, -1, -1), part) + model.log_prior(part) for part in z.split(2_000)])
        box = (low[0].item(), high[0].item(), low[1].item(), high[1].item())
        inside = z[log_p > log_p.max() - 14]  # what is left out is below a millionth of the peak
        low, high = inside.amin(0) - step, inside.amax(0) + step
    log_cell = step.log().sum()
    evidence = log_p.logsumexp(0) + log_cell
    log_p, mass = log_p - evidence, (log_p - evidence + log_cell).exp()
    away = z - mass @ z
    nearest = torch.distributions.MultivariateNormal(mass @ z, (mass[:, None] * away).T @ away).log_prob(z)  # of its mean and covariance
    found = {"z": z, "box": box, "log_cell": log_cell, "log_p": log_p, "nll": -evidence.item()}
    return found | {"not_gaussian": (mass * (log_p - nearest)).sum().item()}


def nearest_gaussian(truth: dict, steps: int = 300) -> dict:
    """The Gaussian along the axes with the least KL(q || p) in nats to a true posterior p on its grid: "mean", "log_std", (2,), and "kl".

    The better of two searches: from p's mean and width, and from its highest peak. Beyond the grid p counts as a millionth of that.
    """
    z, log_p, log_cell = truth["z"], truth["log_p"], truth["log_cell"]
    mass = (log_p + log_cell).exp()
    middle = mass @ z
    spread = (mass @ (z - middle).square()).sqrt()
    mean = torch.stack([middle, z[log_p.argmax()]]).requires_grad_()
    log_std = torch.stack([spread.log(), (spread / 2).log()]).requires_grad_()
    optimizer = torch.optim.Adam([mean, log_std], lr=0.03)
    for _ in range(steps):
        log_q = (-0.5 * (((z - mean[:, None]) / log_std.exp()[:, None]).square() + math.log(2 * math.pi)) - log_std[:, None]).sum(2)
        inside = (log_q + log_cell).exp()
        beyond = (1 - inside.sum(1)).clamp(min=0)  # of q: charged as if p were that millionth there
        kl = (inside * (log_q - log_p)).sum(1) + 14 * beyond
        optimizer.zero_grad()
        kl.sum().backward()
        optimizer.step()
    best = kl.argmin()
    return {"mean": mean[best].detach(), "log_std": log_std[best].detach(), "kl": kl[best].item()}


@torch.no_grad()
def posterior_gap(model, x, truth: dict, draws: int = 2_000, seed: int = 0) -> float:
    """KL(q(z|x) || p(z|x)) in nats of a model whose decoder `truth` is of: what its ELBO of x loses; by so many draws from q."""
    with aside(seed):
        bounds = torch.cat([model.log_prob(x.expand(500, -1, -1, -1), at_once=500) for _ in range(draws // 500)])
    return -bounds.mean().item() - truth["nll"]
