"""How good samples are: read by a classifier, the judge, and compared with real images by what it sees in them.

The judge's test accuracy is in its record, and each number that depends on it is named after it.
"""

import math
import time
import warnings
from functools import cached_property

import torch
from torch import nn

from helpers import UserError
from helpers.measures.judges import judge
from helpers.models.layers import at_once, levels, precise
from helpers.training import aside

FEW = 10  # real images, from which on samples are compared with them: a distance of so few is a rough one, and the record says of how many
SOME = 2_000  # images of which all pairs are compared
SLICES = 5  # of training images, each as many as the real ones, whose distance to these is the floor of the distances


@torch.no_grad()
def predict(classifier, images) -> torch.Tensor:
    """Probabilities of the classes, (N, classes)."""
    return torch.cat([classifier(part).softmax(1) for part in images.split(at_once(images.device, 50))])


@torch.no_grad()
def features(classifier, images) -> torch.Tensor:
    """What the classifier's last layer reads, (N, F)."""
    return torch.cat([classifier.features(part) for part in images.split(at_once(images.device, 50))])


def accuracy(classifier, images, labels) -> float:
    """Share of images that the classifier reads as their label."""
    return (predict(classifier, images).argmax(1) == labels).float().mean().item()


def legibility(read, confidence: float = 0.9) -> float:
    """Share of images that are taken for one of the classes with more than this probability; read: probabilities (N, classes)."""
    return (read.amax(1) > confidence).float().mean().item()


def control_accuracy(model, classifier, labels, temperature: float = 1.0, seed: int = 0) -> float:
    """Share of samples that the classifier reads as the class that was asked for, of labels (N,); of pairs, share of halves."""
    classes, parts = model.config.classes, model.config.parts
    with aside(seed):
        images = model.sample(len(labels), temperature, labels)
    asked = [labels // classes**i % classes for i in reversed(range(parts))]
    return sum(accuracy(classifier, half, digit) for half, digit in zip(images.chunk(parts, dim=3), asked, strict=True)) / parts


# ------------------------------------------------------------------------- two sets of images, as their features (N, F)


class _AsTheyAre(nn.Module):
    """torchmetrics' feature extractor for what is features already. (Its metrics must not wait for other processes: the first alone measures.)"""

    def __init__(self, size):
        super().__init__()
        self.num_features = size

    def forward(self, x):
        return x


def _distance(metric, ours, real):
    ours, real = precise(ours), precise(real)
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

    return _distance(FrechetInceptionDistance(feature=_AsTheyAre(real.shape[1]), sync_on_compute=False), ours, real).item()


def kernel_distance(ours, real, seed: int = 0) -> float:
    """Squared maximum mean discrepancy of two sets of features (N, F), cubic kernel (Bińkowski et al. 2018, equation 4).

    Mean over 50 draws of 1,000 of each, or as many as there are. Unbiased, whatever the size: 0 on average for two sets of one kind.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(1_000, len(ours), len(real))
    with aside(seed), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance`")  # it keeps all features; they are ours, in memory already
        metric = KernelInceptionDistance(feature=_AsTheyAre(real.shape[1]), subsets=50, subset_size=size, sync_on_compute=False)
        return _distance(metric, ours, real)[0].item()


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
            metric.update(levels(part).expand(-1, 3, -1, -1), real=is_real)
    return metric.compute().item()


@torch.no_grad()
def precision_recall(ours, real, neighbours: int = 3) -> dict[str, float]:
    """Improved precision and recall of features (N, F) (Kynkäänniemi et al. 2019, equations 1 and 2).

    precision: share of ours that lie among the real ones, nearer to one of them than its third neighbour is; recall: the
    share of real ones that lie among ours. Sets of equal size, 2,000 or so: all distances are computed.
    """

    def covered(points, by):
        radius = torch.cdist(by, by).kthvalue(min(neighbours + 1, len(by)), dim=1).values  # the nearest is the point itself
        return (torch.cdist(points, by) <= radius).any(1).float().mean().item()

    return {"precision": covered(ours, real), "recall": covered(real, ours)}


def diversity(ours) -> float:
    """Mean distance between two of the features (N, F)."""
    return torch.pdist(precise(ours)).mean().item()


def diversity_within(ours, labels, real, real_labels, n: int = 200) -> float:
    """Diversity of up to n features of one class as a share of that of as many real ones, mean over the classes with two or more
    that differ; None where there is none."""
    pairs = [(ours[labels == label][:n], real[real_labels == label][:n]) for label in labels.unique()]
    known = [(mine, theirs) for mine, theirs in pairs if min(len(mine), len(theirs)) > 1 and diversity(theirs) > 0]
    return mean([diversity(mine) / diversity(theirs) for mine, theirs in known]) if known else None


def coverage(read) -> dict[str, float]:
    """Which classes images are of; read: the classifier's probabilities (N, classes).

    classes_covered: how many have at least a tenth of an equal share; class_entropy: of their histogram, 1 where all shares
    are equal, 0 where there is one class.
    """
    share = torch.bincount(read.argmax(1), minlength=read.shape[1]).cpu().double() / len(read)
    entropy = torch.special.entr(share).sum().item() / math.log(len(share))
    return {"classes_covered": int((share >= 0.1 / len(share)).sum()), "class_entropy": entropy}


# ------------------------------------------------------------------------------------------- a model beside real images


class Reference:
    """The first n real images of a split as their judge sees them: what samples of any number of models are measured against.

    `classifier` is None where no judge has seen images of this data set and shape.
    """

    def __init__(self, dataset, split: str = "test", n: int = 10_000, profile: str | None = None):
        images, self.labels = (part[:n] for part in dataset.part(split))
        self.dataset, self.n = dataset, len(images)
        self.classifier = judge(dataset, profile) if dataset.parts == 1 else None  # it reads parts, not what is beside what
        if self.classifier is not None:
            self.features = features(self.classifier, images)

    @cached_property
    def floor(self) -> dict[str, float]:
        """How near training images come to the real ones, which is as near as a model can be expected to come.

        Means over slices that share no image, and of the Fréchet distance the lowest and the highest: each slice has for every
        real image one of the same label, so that no chance of how many there are of each class adds to the distance. As many
        slices as the training images allow, but no more than SLICES; {} where there are too few for one.
        """
        chosen = matched_slices(self.labels, self.dataset.train_labels)
        if not chosen:
            return {}
        sets = [features(self.classifier, self.dataset.train_images[index]) for index in chosen]
        frechet = [frechet_distance(some, self.features) for some in sets]
        kernel = [kernel_distance(some, self.features) for some in sets]
        near = [precision_recall(some[:SOME], self.features[:SOME]) for some in sets]
        found = {"frechet_floor": mean(frechet), "frechet_floor_low": min(frechet), "frechet_floor_high": max(frechet)}
        found |= {"kernel_floor": mean(kernel), "floor_slices": len(sets)}
        return found | {f"{key}_of_real": mean([one[key] for one in near]) for key in ("precision", "recall")}


def beside(images, reference: Reference, labels=None) -> dict:
    """Images beside the real ones of a reference that has a judge: Fréchet distance, precision and recall of 2,000, the legible share; and
    whether they are of the classes asked for, `labels` (N,)."""
    ours = features(reference.classifier, images)
    found = {"frechet_distance": frechet_distance(ours, reference.features)} | precision_recall(ours[:SOME], reference.features[:SOME])
    if not reference.classifier.reads:
        return found
    read = predict(reference.classifier, images)
    found["legibility"] = legibility(read)
    return found if labels is None else found | {"control_accuracy": (read.argmax(1) == labels).float().mean().item()}


def mean(values) -> float:
    return sum(values) / len(values)


def matched_slices(labels, among) -> list[torch.Tensor]:
    """Up to SLICES indices (N,) into `among` that share no entry, of entries whose labels are `labels` (N,), position by position."""
    counts = torch.bincount(labels)
    available = torch.bincount(among, minlength=len(counts))[: len(counts)]
    count = min(SLICES, int((available[counts > 0] // counts[counts > 0]).min()))
    slices = [torch.empty_like(labels) for _ in range(count)]
    for label in counts.nonzero()[:, 0].tolist():
        places, found = (labels == label).nonzero()[:, 0], (among == label).nonzero()[:, 0]
        for index, part in zip(slices, found.split(len(places)), strict=False):
            index[places] = part
    return slices


def sample_quality(model, reference: Reference, floor: bool = True) -> dict:
    """How good samples are beside as many real images, as the data set's judge sees it; {} where there is no judge.

    Fréchet and kernel distance, and if asked those of training images as their floor; precision and recall of 2,000; which
    classes they are of; diversity as a share of the real images'. A model that takes labels is asked for those of the real
    images, and its diversity within a class and its obedience are measured too.
    """
    if reference.classifier is None:
        return {}
    if reference.n < FEW:
        print(f"Samples are not measured: {reference.n} real images are too few to compare them with, {FEW} are needed.")
        return {"frechet_samples": reference.n}
    classifier, real, n = reference.classifier, reference.features, reference.n
    labels = reference.labels if model.labelled else None
    with aside():
        ours = features(classifier, model.sample(n, labels=labels))
    found = {"frechet_distance": frechet_distance(ours, real), "kernel_distance": kernel_distance(ours, real)}
    found |= reference.floor if floor else {}
    found |= {"frechet_samples": n, "judge": classifier.name} | precision_recall(ours[:SOME], real[:SOME])
    if (spread := diversity(real[:SOME])) > 0:
        found["diversity"] = diversity(ours[:SOME]) / spread
    if classifier.reads:
        with torch.no_grad():
            read = classifier.head(ours).softmax(1)
        found |= coverage(read) | {"legibility": legibility(read[:SOME])}
    if labels is not None:
        within = diversity_within(ours, labels, real, reference.labels)
        found |= {} if within is None else {"diversity_within_class": within}
        if classifier.reads and model.drawn_at == 1.0 and model.config.parts == 1:  # these samples are what it is to be asked for
            found["control_accuracy"] = (read.argmax(1) == labels).float().mean().item()
            found |= {"control_temperature": 1.0, "control_samples": n}
    return found | {"passes": model.passes}


class CollapseWatch:
    """For `fit` to call with each report: how varied the samples of one and the same noise are, in `rows` by epoch.

    `frames`: epoch -> the first 64 of these samples, for a film. classifier: the judge, or None, and only frames are kept.
    real: real images, at least n of them, whose diversity is the unit of the samples'; for a choice those of validation.
    """

    def __init__(self, classifier, real, n: int = 500):
        self.classifier, self.n, self.rows, self.frames = classifier, min(n, len(real)), [], {}
        self.real = features(classifier, real[:n]) if classifier else None

    def __call__(self, model, epoch):
        with aside():  # the same noise in every report
            images = model.sample(self.n, labels=in_turn(model, self.n))
        self.frames[epoch] = images[:64].cpu()
        if self.classifier:
            ours = features(self.classifier, images)
            spread = diversity(self.real) or math.nan  # of real images that are all alike there is no share
            varied = {"diversity": diversity(ours) / spread, "recall": precision_recall(ours, self.real)["recall"]}
            if self.classifier.reads:
                read = predict(self.classifier, images)
                varied |= coverage(read) | {"legibility": legibility(read)}
            self.rows.append({"epoch": epoch} | varied)


def in_turn(model, n: int):
    """Labels (n,) of a conditional model, each in turn, for pictures; None for one that takes none."""
    if not model.labelled:
        return None
    stride = 37 if model.config.parts > 1 else 1  # a few pairs are pairs of many digits
    return torch.arange(n, device=model.device) * stride % model.config.classes**model.config.parts


def samples_per_second(model, n: int = 500) -> float:
    """How many images a second the model draws in one call for n: the median of three, after one to warm up."""
    times = []
    for _ in range(4):
        started = time.perf_counter()
        model.sample(n, labels=in_turn(model, n)).sum().item()  # a number: the device has finished
        times.append(time.perf_counter() - started)
    return n / sorted(times[1:])[1]
