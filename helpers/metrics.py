"""What a trained model is worth, in units that can be compared.

Whether a sample is a digit, and how far samples are from real images, is judged by a classifier of this project
(`judge`): its test accuracy is in its record, and each number that depends on it is named after it.
"""

import math

import torch
from torch import nn
from tqdm.auto import tqdm

from helpers import UserError, disentanglement
from helpers.autoencoders import VAE, Autoencoder, gaussian_kl
from helpers.classifier import Classifier, broken
from helpers.gans import GAN
from helpers.layers import pixels
from helpers.training import aside, compile_model, load_model, shipped

JUDGES = {"mnist": "classifier-mnist", "pairs": "classifier-mnist", "fashion": "classifier-fashion", "cifar10": "classifier-cifar10"}
CONTROL = {"temperature": 0.8, "samples": 2_000}  # at which the control accuracy of a flow is measured


def nats_to_bits_per_dim(nats: float, dims: int, scale: float = 1.0) -> float:
    """A negative log-density in nats per image, as bits per dimension of the 8-bit image.

    scale: what the 256 levels were divided by before the model saw them: 256 for pixels in [0, 1], 128 for [-1, 1], 1
    where the probability of the whole numbers themselves is given. A density on images shrunk by `scale` is higher by
    dims * log(scale): that much is added back (Theis et al. 2016, section 3.1).
    """
    return (nats + dims * math.log(scale)) / (dims * math.log(2))


def bits_per_dim_to_nats(bits: float, dims: int, scale: float = 1.0) -> float:
    """The inverse of `nats_to_bits_per_dim`."""
    return bits * dims * math.log(2) - dims * math.log(scale)


def bits_per_dim(model, images, labels=None, samples: int = 1, seed: int = 0, batch_size: int = 250, progress: bool = False) -> dict:
    """Bits per dimension of 8-bit images under a flow: mean, and the standard error of that mean over the images.

    labels: for a conditional flow; its number is then of the image given its label.
    samples: importance samples of the dequantisation noise an image; 1 gives the plain bound that training uses.
    Computed in the precision of the model's weights, without compiled code, from a fixed seed.
    """
    values = []
    with aside(seed):
        for start in tqdm(range(0, len(images), batch_size), desc="bits/dim", disable=not progress):
            batch = slice(start, start + batch_size)
            values.append(-model.log_prob(images[batch], None if labels is None else labels[batch], samples))
    bits = torch.cat(values).double() / (images[0].numel() * math.log(2))
    return {"bits_per_dim": bits.mean().item(), "standard_error": (bits.std() / len(bits) ** 0.5).item()}


def judge(dataset: str, device="cpu"):
    """The shipped classifier for samples of a data set, or None where there is none."""
    name = JUDGES.get(dataset)
    return load_model(name, device)[0] if name in shipped() else None


@torch.no_grad()
def predict(classifier, images, batch_size: int = 100) -> torch.Tensor:
    """Probabilities of the classes, (N, classes)."""
    return torch.cat([classifier(part).softmax(1) for part in images.split(batch_size)])


def accuracy(classifier, images, labels) -> float:
    """Share of images that the classifier reads as their label."""
    return (predict(classifier, images).argmax(1) == labels).float().mean().item()


def legibility(classifier, images, confidence: float = 0.9) -> float:
    """Share of images that the classifier takes for one of its classes with more than this probability."""
    return (predict(classifier, images).amax(1) > confidence).float().mean().item()


def control_accuracy(model, classifier, n: int = CONTROL["samples"], temperature: float = CONTROL["temperature"], seed: int = 0) -> float:
    """Share of samples that the classifier reads as the class that was asked for; of pairs, share of halves."""
    classes, parts = model.config.classes, model.config.parts
    labels = torch.arange(n, device=next(model.parameters()).device) % classes**parts
    with aside(seed):
        images = model.sample(n, temperature, labels)
    asked = [labels // classes**i % classes for i in reversed(range(parts))]
    return sum(accuracy(classifier, half, digit) for half, digit in zip(images.chunk(parts, dim=3), asked, strict=True)) / parts


class _Features(nn.Module):
    """A classifier's features as torchmetrics wants them."""

    def __init__(self, classifier):
        super().__init__()
        self.features, self.num_features = classifier.features, classifier.head[1].in_features  # a method: no part of this module to convert

    def forward(self, images):
        return self.features(images).double()


def frechet_distance(classifier, images, real, batch_size: int = 100) -> float:
    """Fréchet distance between the classifier's features of two sets of images (Heusel et al. 2017, equation 6).

    Not Inception's FID, and biased upwards for small sets: state both sizes and the distance between two real sets.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(classifier)).to(images.device)
    with torch.no_grad():
        for is_real, whole in ((True, real), (False, images)):
            for part in whole.split(batch_size):
                metric.update(part, real=is_real)
        return metric.compute().item()


@torch.no_grad()
def diversity(classifier, images) -> float:
    """Mean distance between the classifier's features of two of the images."""
    features = torch.cat([classifier.features(part) for part in images.split(100)])
    return torch.pdist(features.double()).mean().item()


def coverage(classifier, images) -> dict[str, float]:
    """Which classes the images are of, as the classifier reads them.

    classes_covered: how many have at least a tenth of an equal share; class_entropy: of their histogram, 1 where all shares
    are equal, 0 where there is one class.
    """
    read = predict(classifier, images)
    share = torch.bincount(read.argmax(1), minlength=read.shape[1]).double() / len(read)
    entropy = torch.special.entr(share).sum().item() / math.log(len(share))
    return {"classes_covered": int((share >= 0.1 / len(share)).sum()), "class_entropy": entropy}


class CollapseWatch:
    """For `fit` to call with each report: how varied the samples of one and the same noise are, in `rows` by epoch.

    `frames`: epoch -> the first 64 of these samples, for a film. classifier: the judge, or None, and only frames are kept.
    real: real images, at least n of them, whose diversity is the unit of the samples'.
    """

    def __init__(self, classifier, real, n: int = 500):
        self.classifier, self.real, self.n, self.rows, self.frames = classifier, real[:n], min(n, len(real)), [], {}
        self.unit = diversity(classifier, self.real) if classifier else None

    def __call__(self, model, epoch):
        with aside():  # the same noise in every report
            images = model.sample(self.n, labels=in_turn(model, self.n))
        self.frames[epoch] = images[:64].cpu()
        if self.classifier:
            varied = {"diversity": diversity(self.classifier, images) / self.unit, "legibility": legibility(self.classifier, images)}
            varied["recall"] = precision_recall(self.classifier, images, self.real)["recall"]
            self.rows.append({"epoch": epoch} | coverage(self.classifier, images) | varied)


def in_turn(model, n: int):
    """Labels (n,) of a conditional model, each in turn; None for one that takes none."""
    if not getattr(model.config, "classes", 0):
        return None
    stride = 37 if model.config.parts > 1 else 1  # a few pairs are pairs of many digits
    return torch.arange(n, device=next(model.parameters()).device) * stride % model.config.classes**model.config.parts


@torch.no_grad()
def classify(model, images, batch_size: int = 250, progress: bool = False) -> torch.Tensor:
    """A conditional flow as a classifier: the label y under which log p(x|y) is highest, (N,)."""
    with aside():
        batches = tqdm(images.split(batch_size), desc="log p(x|y) for every y", disable=not progress)
        return torch.cat([model.class_log_probs(batch).argmax(1) for batch in batches])


# ---------------------------------------------------------------------------------------------------- autoencoders


@torch.no_grad()
def reconstruction_error(model, images) -> torch.Tensor:
    """Mean squared error a pixel of each image after its way through the bottleneck, pixels in [0, 1], (N,)."""
    errors = []
    for part in images.split(1_000):
        errors.append((model.decode(model.encode(part)) - pixels(model, part)).square().flatten(1).mean(1))
    return torch.cat(errors)


def pca_errors(train_images, images, sizes) -> dict[int, float]:
    """Size -> mean squared error a pixel of `images` after principal component analysis of the training images.

    The least that any linear encoder and decoder of that bottleneck reach on the training images.
    """
    train, x = (part.flatten(1).double() / 255 for part in (train_images, images))
    mean = train.mean(0)
    directions = torch.linalg.eigh(torch.cov((train - mean).T)).eigenvectors.flip(1)
    shares = ((x - mean) @ directions).square().mean(0)  # of the error, that each direction would take away
    left = (x - mean).square().sum(1).mean()
    return {size: ((left - shares[:size].sum()) / x.shape[1]).item() for size in sizes}


@torch.no_grad()
def elbo(model, images, seed: int = 0) -> dict[str, float]:
    """Negative ELBO of a VAE and its two parts, in nats an image, whatever β it was trained with; one z an image."""
    totals = {"reconstruction": 0.0, "kl": 0.0}
    with aside(seed, model):
        for part in images.split(1_000):
            terms = model.loss(part)
            totals = {name: total + terms[name].item() * len(part) / len(images) for name, total in totals.items()}
    return {"neg_elbo": totals["reconstruction"] + totals["kl"]} | totals


def nll(model, images, samples: int, seed: int = 0, batch_size: int = 250, compile: bool = False, progress: bool = False) -> dict[str, float]:
    """Negative log-likelihood in nats an image by importance sampling, an upper bound, and its standard error over the images.

    compile: takes some seconds and then makes a processor half as fast again: worth it for thousands of samples.
    """
    if compile:
        compile_model(model)
    with aside(seed), torch.compiler.set_stance("default" if compile else "force_eager"):
        batches = tqdm(images.split(batch_size), desc=f"{samples} importance samples", disable=not progress)
        values = -torch.cat([model.log_prob(part, samples=samples) for part in batches]).double()
    return {"nll": values.mean().item(), "standard_error": (values.std() / len(values) ** 0.5).item(), "importance_samples": samples}


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


@torch.no_grad()
def posterior_gap(model, x, truth: dict, draws: int = 2_000, seed: int = 0) -> float:
    """KL(q(z|x) || p(z|x)) in nats of a model whose decoder `truth` is of: what its ELBO of x loses; by so many draws from q."""
    with aside(seed):
        bounds = torch.cat([model.log_prob(x.expand(500, -1, -1, -1), at_once=500) for _ in range(draws // 500)])
    return -bounds.mean().item() - truth["nll"]


@torch.no_grad()
def latent_use(model, images, seed: int = 0) -> dict[str, torch.Tensor]:
    """What each latent of a VAE carries, (D,): "kl", the mean of its KL divergence in nats; "variance", of its code over the images.

    Of an f-VAE the KL of one latent isn't known, and "kl" is that of the Gaussian before its flows.
    """
    with aside(seed):
        parts = [model.posterior(model.observed(part))[:2] for part in images.split(1_000)]
        codes = torch.cat([model.encode(part) for part in images.split(1_000)])
    mean, log_std = (torch.cat(both) for both in zip(*parts, strict=True))
    return {"kl": gaussian_kl(mean, log_std).mean(0), "variance": codes.var(0)}


def active_units(model, images, threshold: float = 0.01) -> int:
    """How many latents move with the image: those whose code, the posterior's mean, has a variance above 0.01 (Burda et al. 2016, section 5.2)."""
    return int((latent_use(model, images)["variance"] > threshold).sum())


@torch.no_grad()
def precision_recall(classifier, images, real, neighbours: int = 3) -> dict[str, float]:
    """Improved precision and recall on the classifier's features (Kynkäänniemi et al. 2019, equations 1 and 2).

    precision: share of `images` that lie among the real ones, nearer to one of them than its third neighbour is;
    recall: the share of real ones that lie among `images`. Sets of equal size, 2,000 or so: all distances are computed.
    """
    a, b = (torch.cat([classifier.features(part) for part in whole.split(100)]) for whole in (images, real))

    def covered(points, by):
        radius = torch.cdist(by, by).kthvalue(neighbours + 1, dim=1).values  # the nearest is the point itself
        return (torch.cdist(points, by) <= radius).any(1).float().mean().item()

    return {"precision": covered(a, b), "recall": covered(b, a)}


# ------------------------------------------------------------------------------------------------------- evaluation


def evaluate(model, dataset, split: str = "test", samples: int = 1, progress: bool = False) -> dict:
    """The metrics of the model's family on one split of a data set; `samples`: importance samples an image."""
    images, labels = dataset.part(split)
    result = {"split": split, "n": len(images)}
    if isinstance(model, Classifier):
        with aside():
            wrecks = broken(images / 255, labels)
        found = {"accuracy": accuracy(model, images, labels), "legibility": legibility(model, images)}
        return result | found | {"legibility_of_broken_images": legibility(model, wrecks)}
    if isinstance(model, Autoencoder):
        drawn = sample_quality(model, dataset, images)
        errors, seen = reconstruction_error(model, images), reconstruction_error(model, dataset.train_images[: len(images)])
        pca = pca_errors(dataset.train_images, images, [model.latent_dim])[model.latent_dim]
        return result | {"mse": errors.mean().item(), "mse_of_training_images": seen.mean().item(), "mse_of_pca": pca} | drawn
    if isinstance(model, VAE):
        result |= evaluate_vae(model, images, samples, progress) | sample_quality(model, dataset, images)
        return result | (disentangled(model, dataset) if split == "test" and dataset.factors else {})
    if isinstance(model, GAN):
        return result | sample_quality(model, dataset, images)
    conditional = model.config.classes > 0
    result |= {"importance_samples": samples} | bits_per_dim(model, images, labels if conditional else None, samples, progress=progress)
    classifier = judge(dataset.name, images.device) if conditional else None
    if classifier is not None:
        result |= {"control_accuracy": control_accuracy(model, classifier), "control_temperature": CONTROL["temperature"]}
        result |= {"control_samples": CONTROL["samples"], "judge": JUDGES[dataset.name]}
    return result


def evaluate_vae(model, images, samples: int = 1, progress: bool = False) -> dict:
    """ELBO, and where asked for the importance-weighted NLL and bits/dim, of a VAE; how many latents it uses."""
    with aside():
        error = reconstruction_error(model, images).mean().item()
    result = {"likelihood": model.config.likelihood} | elbo(model, images) | {"active_units": active_units(model, images), "mse": error}
    if samples > 1 and model.config.likelihood != "grey":  # no likelihood, no NLL
        result |= nll(model, images, samples, compile=samples >= 1_000, progress=progress)
    if model.config.likelihood == "logistic":
        result["bits_per_dim"] = nats_to_bits_per_dim(result.get("nll", result["neg_elbo"]), images[0].numel())
    return result


def disentangled(model, dataset) -> dict[str, float]:
    """How well the codes of the test images keep the factors apart that these were drawn from.

    The information is that of draws from q(z|x), as the gap's authors define it: the mean of a latent that is nearly switched
    off still moves a little, in step with some factor, but the decoder can't see that through the latent's noise.
    """
    with aside():
        codes, draws = (torch.cat([model.encode(part, draw) for part in dataset.test_images.split(1_000)]) for draw in (False, True))
    return {
        "mutual_information_gap": disentanglement.mutual_information_gap(draws, dataset.test_factors),
        "factor_vae_score": disentanglement.factor_vae_score(codes, dataset.test_factors),
    }


def sample_quality(model, dataset, images, n: int = 10_000, floor: bool = True) -> dict:
    """How good n samples are beside as many real images, as the data set's judge sees it; {} where there is no judge.

    Fréchet distance, and if asked that of training images as its floor; precision and recall of 2,000. Of a GAN, whose
    samples may well be all alike, also what tells: coverage, and diversity as a share of the real images'; of a
    conditional one whether samples are of the class asked for, and their diversity within a class.
    """
    classifier, real = judge(dataset.name, images.device), images[:n]
    if classifier is None:
        return {}
    labels = in_turn(model, len(real))
    with aside():
        drawn = model.sample(len(real), labels=labels)
    found = {"frechet_distance": frechet_distance(classifier, drawn, real)}
    if floor:
        found["frechet_floor"] = frechet_distance(classifier, dataset.train_images[: len(real)], real)
    found |= {"frechet_samples": len(real), "judge": JUDGES[dataset.name]} | precision_recall(classifier, drawn[:2_000], real[:2_000])
    if not isinstance(model, GAN):
        return found
    found |= coverage(classifier, drawn) | {"legibility": legibility(classifier, drawn[:2_000])}
    found["diversity"] = diversity(classifier, drawn[:2_000]) / diversity(classifier, real[:2_000])
    if labels is not None:
        found["control_accuracy"] = accuracy(classifier, drawn, labels)
        found |= {
            "control_temperature": 1.0,
            "control_samples": len(drawn),
            "diversity_within_class": diversity_within(classifier, drawn, labels, dataset),
        }
    return found


def diversity_within(classifier, drawn, labels, dataset, n: int = 200) -> float:
    """Diversity of up to n images of one class as a share of that of as many real ones, mean over the classes."""
    shares = []
    for label in labels.unique():
        ours, theirs = (part[of == label][:n] for part, of in ((drawn, labels), (dataset.test_images, dataset.test_labels)))
        shares.append(diversity(classifier, ours) / diversity(classifier, theirs))
    return sum(shares) / len(shares)
