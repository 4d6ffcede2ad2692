"""What a trained model is worth, in units that can be compared.

Whether a sample is a digit, and how far samples are from real images, is judged by a classifier of this project
(`judge`): its test accuracy is in its record, and each number that depends on it is named after it.
"""

import math
import time
import warnings
from functools import cached_property

import torch
from torch import nn
from tqdm.auto import tqdm

from helpers import UserError, disentanglement
from helpers.autoencoders import FVAE, VAE, Autoencoder, gaussian_kl
from helpers.classifier import Classifier, broken
from helpers.flows import RealNVP
from helpers.gans import GAN
from helpers.layers import pixels
from helpers.training import aside, compile_model, load_model, shipped

JUDGES = {"mnist": "classifier-mnist", "pairs": "classifier-mnist", "fashion": "classifier-fashion", "cifar10": "classifier-cifar10"}
SOME = 2_000  # images of which all pairs are compared
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
def predict(classifier, images, batch_size: int = 250) -> torch.Tensor:
    """Probabilities of the classes, (N, classes)."""
    return torch.cat([classifier(part).softmax(1) for part in images.split(batch_size)])


@torch.no_grad()
def features(classifier, images, batch_size: int = 250) -> torch.Tensor:
    """What the classifier's last layer reads, (N, F)."""
    return torch.cat([classifier.features(part) for part in images.split(batch_size)])


def accuracy(classifier, images, labels) -> float:
    """Share of images that the classifier reads as their label."""
    return (predict(classifier, images).argmax(1) == labels).float().mean().item()


def legibility(read, confidence: float = 0.9) -> float:
    """Share of images that are taken for one of the classes with more than this probability; read: probabilities (N, classes)."""
    return (read.amax(1) > confidence).float().mean().item()


def control_accuracy(model, classifier, n: int = CONTROL["samples"], temperature: float = CONTROL["temperature"], seed: int = 0) -> float:
    """Share of samples that the classifier reads as the class that was asked for; of pairs, share of halves."""
    classes, parts = model.config.classes, model.config.parts
    labels = torch.arange(n, device=next(model.parameters()).device) % classes**parts
    with aside(seed):
        images = model.sample(n, temperature, labels)
    asked = [labels // classes**i % classes for i in reversed(range(parts))]
    return sum(accuracy(classifier, half, digit) for half, digit in zip(images.chunk(parts, dim=3), asked, strict=True)) / parts


# ------------------------------------------------------------------------- two sets of images, as their features (N, F)


class _AsTheyAre(nn.Module):
    """torchmetrics' feature extractor for what is features already."""

    def __init__(self, size):
        super().__init__()
        self.num_features = size

    def forward(self, x):
        return x


def _distance(metric, ours, real):
    metric = metric.to(real.device)
    metric.update(real, real=True)
    metric.update(ours, real=False)
    return metric.compute()


def frechet_distance(ours, real) -> float:
    """Fréchet distance between the Gaussians of two sets of features (N, F) (Heusel et al. 2017, equation 6).

    On our classifiers' features it isn't Inception's FID. Biased upwards for small sets: state both sizes and the distance
    between two real sets.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    return _distance(FrechetInceptionDistance(feature=_AsTheyAre(real.shape[1])), ours.double(), real.double()).item()


def kernel_distance(ours, real, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of two sets of features (N, F), cubic kernel (Bińkowski et al. 2018, equation 4).

    Mean over 50 draws of 1,000 of each, or as many as there are. Unbiased, whatever the size: 0 on average for two sets of one kind.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1_000, len(ours), len(real))
    with aside(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance`")  # it keeps all features; they are ours, in memory already
        metric = KernelInceptionDistance(feature=_AsTheyAre(real.shape[1]), subsets=50, subset_size=size)
        return _distance(metric, ours.double(), real.double())[0].item()


def inception_distance(images, real) -> float:
    """The Fréchet distance on Inception's features, the FID of the literature; images (N, C, H, W), floats in [0, 1] or uint8.

    Downloads Inception's weights (91 MB) once. UserError where that, or the package torch-fidelity, is missing.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    try:
        metric = FrechetInceptionDistance(feature=2048).to(real.device)
    except ModuleNotFoundError:
        raise UserError("Inception's distance needs the package torch-fidelity: pip install torch-fidelity.") from None
    except OSError as error:  # URLError is one
        raise UserError(
            f"Inception's weights could not be downloaded ({error}): leave --inception out, or run it once where there is a network."
        ) from None
    for is_real, whole in ((True, real), (False, images)):
        for part in whole.split(100):
            part = part if part.dtype == torch.uint8 else (part * 255).round().byte()
            metric.update(part.expand(-1, 3, -1, -1), real=is_real)
    return metric.compute().item()


@torch.no_grad()
def precision_recall(ours, real, neighbours: int = 3) -> dict[str, float]:
    """Improved precision and recall of features (N, F) (Kynkäänniemi et al. 2019, equations 1 and 2).

    precision: share of ours that lie among the real ones, nearer to one of them than its third neighbour is; recall: the
    share of real ones that lie among ours. Sets of equal size, 2,000 or so: all distances are computed.
    """

    def covered(points, by):
        radius = torch.cdist(by, by).kthvalue(neighbours + 1, dim=1).values  # the nearest is the point itself
        return (torch.cdist(points, by) <= radius).any(1).float().mean().item()

    return {"precision": covered(ours, real), "recall": covered(real, ours)}


def diversity(ours) -> float:
    """Mean distance between two of the features (N, F)."""
    return torch.pdist(ours.double()).mean().item()


def coverage(read) -> dict[str, float]:
    """Which classes images are of; read: the classifier's probabilities (N, classes).

    classes_covered: how many have at least a tenth of an equal share; class_entropy: of their histogram, 1 where all shares
    are equal, 0 where there is one class.
    """
    share = torch.bincount(read.argmax(1), minlength=read.shape[1]).double() / len(read)
    entropy = torch.special.entr(share).sum().item() / math.log(len(share))
    return {"classes_covered": int((share >= 0.1 / len(share)).sum()), "class_entropy": entropy}


class Reference:
    """The first n real images of a split as their judge sees them: what samples of any number of models are measured against.

    `classifier` is None where no judge has seen images of this data set and shape.
    """

    def __init__(self, dataset, split: str = "test", n: int = 10_000):
        images, self.labels = (part[:n] for part in dataset.part(split))
        self.dataset, self.n, self.classifier = dataset, len(images), judge(dataset.name, images.device)
        if self.classifier is not None and self.classifier.config.image_shape != dataset.image_shape:
            self.classifier = None
        if self.classifier is not None:
            self.features = features(self.classifier, images)

    @cached_property
    def floor(self) -> dict[str, float]:
        """What as many training images reach: no model should be nearer."""
        train = features(self.classifier, self.dataset.train_images[: self.n])
        found = {"frechet_floor": frechet_distance(train, self.features), "kernel_floor": kernel_distance(train, self.features)}
        return found | {f"{key}_of_real": value for key, value in precision_recall(train[:SOME], self.features[:SOME]).items()}


class CollapseWatch:
    """For `fit` to call with each report: how varied the samples of one and the same noise are, in `rows` by epoch.

    `frames`: epoch -> the first 64 of these samples, for a film. classifier: the judge, or None, and only frames are kept.
    real: real images, at least n of them, whose diversity is the unit of the samples'.
    """

    def __init__(self, classifier, real, n: int = 500):
        self.classifier, self.n, self.rows, self.frames = classifier, min(n, len(real)), [], {}
        self.real = features(classifier, real[:n]) if classifier else None

    def __call__(self, model, epoch):
        with aside():  # the same noise in every report
            images = model.sample(self.n, labels=in_turn(model, self.n))
        self.frames[epoch] = images[:64].cpu()
        if self.classifier:
            ours, read = features(self.classifier, images), predict(self.classifier, images)
            varied = {"diversity": diversity(ours) / diversity(self.real), "legibility": legibility(read)}
            varied["recall"] = precision_recall(ours, self.real)["recall"]
            self.rows.append({"epoch": epoch} | coverage(read) | varied)


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


LONG = 1_000  # importance samples, from which on the likelihood of a whole test set takes a processor the better part of an hour
BY_SAMPLES = ("bits_per_dim", "nll", "standard_error", "importance_samples")  # the metrics that depend on their number


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


# ------------------------------------------------------------------------------------------------------- evaluation


def evaluate(model, dataset, split: str = "test", samples: int = 1, progress: bool = False, reference: Reference | None = None) -> dict:
    """The metrics of the model's family on one split of a data set; `samples`: importance samples an image.

    reference: that of the split, for who evaluates several models.
    """
    images, labels = dataset.part(split)
    result = {"split": split, "n": len(images)}
    if isinstance(model, Classifier):
        read = predict(model, images)
        with aside():
            wrecks = predict(model, broken(images / 255, labels))
        found = {"accuracy": (read.argmax(1) == labels).float().mean().item(), "legibility": legibility(read)}
        return result | found | {"legibility_of_broken_images": legibility(wrecks)}
    if isinstance(model, Autoencoder):
        errors, seen = reconstruction_error(model, images), reconstruction_error(model, dataset.train_images[: len(images)])
        pca = pca_errors(dataset.train_images, images, [model.latent_dim])[model.latent_dim]
        result |= {"mse": errors.mean().item(), "mse_of_training_images": seen.mean().item(), "mse_of_pca": pca}
    elif isinstance(model, VAE):
        result |= evaluate_vae(model, images, samples, progress)
        result |= disentangled(model, dataset) if split == "test" and dataset.factors else {}
        result |= named_latents(model, images)[0] if dataset.name == "mnist" and not isinstance(model, FVAE) else {}
    elif isinstance(model, RealNVP):
        given = labels if model.config.classes else None
        result |= {"importance_samples": samples} | bits_per_dim(model, images, given, samples, progress=progress)
        if given is not None and (classifier := judge(dataset.name, images.device)) is not None:
            result |= {"control_accuracy": control_accuracy(model, classifier), "control_temperature": CONTROL["temperature"]}
            result |= {"control_samples": CONTROL["samples"], "judge": JUDGES[dataset.name]}
    return result | sample_quality(model, reference or Reference(dataset, split))


def evaluate_vae(model, images, samples: int = 1, progress: bool = False) -> dict:
    """ELBO, and where asked for the importance-weighted NLL and bits/dim, of a VAE; how many latents it uses."""
    with aside():
        error = reconstruction_error(model, images).mean().item()
    result = {"likelihood": model.config.likelihood} | elbo(model, images) | {"active_units": active_units(model, images), "mse": error}
    if samples > 1 and model.config.likelihood != "grey":  # no likelihood, no NLL
        result |= nll(model, images, samples, compile=samples >= LONG, progress=progress)
        result |= nll_of_some(model, images, samples) if samples >= LONG else {}
    if model.config.likelihood == "logistic":
        result["bits_per_dim"] = nats_to_bits_per_dim(result.get("nll", result["neg_elbo"]), images[0].numel())
    return result


def named_latents(model, images) -> tuple[dict[str, float], dict[str, list[float]]]:
    """How much of each attribute of a stroke one latent explains: the best of those that carry anything, and each latent.

    The latents are in the order of their KL, the most first; a latent below disentanglement.CARRIES nats counts for nothing.
    """
    use = latent_use(model, images)["kl"]
    with aside(0):
        codes = torch.cat([model.encode(part) for part in images.split(1_000)])
    order = use.argsort(descending=True)
    shares = {name: disentanglement.explained(codes[:, order], values) for name, values in disentanglement.attributes(images).items()}
    carries = use[order] > disentanglement.CARRIES
    best = {f"explained_{name}": of[carries].max().item() if carries.any() else 0.0 for name, of in shares.items()}
    return best, {name: [round(share, 4) for share in of.tolist()] for name, of in shares.items()}


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


def sample_quality(model, reference: Reference, floor: bool = True) -> dict:
    """How good samples are beside as many real images, as the data set's judge sees it; {} where there is no judge.

    Fréchet and kernel distance, and if asked those of training images as their floors; precision and recall of 2,000; which
    classes they are of; diversity as a share of the real images'. Of a conditional GAN also whether samples are of the class
    asked for, and their diversity within a class.
    """
    classifier, real, n = reference.classifier, reference.features if reference.classifier else None, reference.n
    if classifier is None:
        return {}
    labels = in_turn(model, n)
    with aside():
        drawn = model.sample(n, labels=labels)
    ours = features(classifier, drawn)
    with torch.no_grad():
        read = classifier.head(ours).softmax(1)
    found = {"frechet_distance": frechet_distance(ours, real), "kernel_distance": kernel_distance(ours, real)}
    found |= reference.floor if floor else {}
    found |= {"frechet_samples": n, "judge": JUDGES[reference.dataset.name]} | precision_recall(ours[:SOME], real[:SOME])
    found |= coverage(read) | {"legibility": legibility(read[:SOME]), "diversity": diversity(ours[:SOME]) / diversity(real[:SOME])}
    if labels is not None and isinstance(model, GAN):
        found |= {"control_accuracy": (read.argmax(1) == labels).float().mean().item(), "control_temperature": 1.0, "control_samples": n}
        found["diversity_within_class"] = diversity_within(ours, labels, reference)
    return found


def diversity_within(ours, labels, reference: Reference, n: int = 200) -> float:
    """Diversity of up to n features of one class as a share of that of as many real ones, mean over the classes."""
    pairs = ((ours[labels == label][:n], reference.features[reference.labels == label][:n]) for label in labels.unique())
    shares = [diversity(mine) / diversity(real) for mine, real in pairs]
    return sum(shares) / len(shares)


def samples_per_second(model, n: int = 500) -> float:
    """How many images a second the model draws in one call for n: the median of three, after one to warm up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        model.sample(n, labels=in_turn(model, n)).sum().item()  # a number: the device has finished
        times.append(time.perf_counter() - started)
    return n / sorted(times[1:])[1]


# By how much a metric that is measured again may differ, on another machine with other random numbers: as a share of the
# recorded value, and absolutely; whichever is more. A metric that isn't here must be the same.
TOLERANCES = {
    "bits_per_dim": (0, 0.003),
    "standard_error": (0.05, 0),
    "neg_elbo": (0.001, 0.1),
    "reconstruction": (0.002, 0.15),
    "kl": (0.005, 0.1),
    "nll": (0.001, 0.1),
    "nll_of_first_100": (0.001, 0.1),
    "mse": (0.02, 0),
    "mse_of_training_images": (0.02, 0),
    "mse_of_pca": (0.001, 0),
    "active_units": (0, 1),
    "accuracy": (0, 0.001),
    "legibility": (0, 0.04),
    "legibility_of_broken_images": (0, 0.003),
    "frechet_distance": (0.05, 0.03),
    "frechet_floor": (0.001, 0.0001),
    "kernel_distance": (0.1, 0.001),
    "kernel_floor": (0, 0.001),
    "precision": (0, 0.04),
    "recall": (0, 0.04),
    "precision_of_real": (0, 0.002),
    "recall_of_real": (0, 0.002),
    "classes_covered": (0, 1),
    "class_entropy": (0, 0.01),
    "diversity": (0.03, 0),
    "diversity_within_class": (0.03, 0),
    "control_accuracy": (0, 0.015),
    "mutual_information_gap": (0, 0.02),
    "factor_vae_score": (0, 0.05),
} | {f"explained_{name}": (0, 0.01) for name in disentanglement.ATTRIBUTES}


def agrees(key: str, found, recorded) -> bool:
    """Whether a metric measured again is the recorded one, within its tolerance."""
    if key not in TOLERANCES:
        return found == recorded
    relative, absolute = TOLERANCES[key]
    return abs(found - recorded) <= max(relative * abs(recorded), absolute)
