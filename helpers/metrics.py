"""What a trained model is worth, in units that can be compared.

Whether a sample is a digit, and how far samples are from real images, is judged by a classifier of this project
(`judge`): its test accuracy is in its record, and each number that depends on it is named after it.
"""

import math

import torch
from torch import nn
from tqdm.auto import tqdm

from helpers.classifier import Classifier, broken
from helpers.training import aside, load_model, shipped

JUDGES = {"mnist": "classifier-mnist", "pairs": "classifier-mnist", "fashion": "classifier-fashion"}
CONTROL = {"temperature": 0.8, "samples": 2_000}  # at which control accuracy is measured


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
def predict(classifier, images, batch_size: int = 1_000) -> torch.Tensor:
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
        self.classifier, self.num_features = classifier, classifier.head[1].in_features

    def forward(self, images):
        return self.classifier.features(images)


def frechet_distance(classifier, images, real, batch_size: int = 1_000) -> float:
    """Fréchet distance between the classifier's features of two sets of images (Heusel et al. 2017, equation 6).

    Not Inception's FID, and biased upwards for small sets: state both sizes and the distance between two real sets.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Features(classifier)).to(images.device).set_dtype(torch.float64)
    with torch.no_grad():
        for is_real, whole in ((True, real), (False, images)):
            for part in whole.split(batch_size):
                metric.update(part, real=is_real)
        return metric.compute().item()


@torch.no_grad()
def diversity(classifier, images) -> float:
    """Mean distance between the classifier's features of two of the images."""
    features = torch.cat([classifier.features(part) for part in images.split(1_000)])
    return torch.pdist(features.double()).mean().item()


@torch.no_grad()
def classify(model, images, batch_size: int = 250, progress: bool = False) -> torch.Tensor:
    """A conditional flow as a classifier: the label y under which log p(x|y) is highest, (N,)."""
    with aside():
        batches = tqdm(images.split(batch_size), desc="log p(x|y) for every y", disable=not progress)
        return torch.cat([model.class_log_probs(batch).argmax(1) for batch in batches])


def evaluate(model, dataset, split: str = "test", samples: int = 1, progress: bool = False) -> dict:
    """The metrics of the model's family on one split of a data set."""
    images, labels = dataset.part(split)
    result = {"split": split, "n": len(images)}
    if isinstance(model, Classifier):
        with aside():
            wrecks = broken(images / 255, labels)
        found = {"accuracy": accuracy(model, images, labels), "legibility": legibility(model, images)}
        return result | found | {"legibility_of_broken_images": legibility(model, wrecks)}
    conditional = model.config.classes > 0
    result |= {"importance_samples": samples} | bits_per_dim(model, images, labels if conditional else None, samples, progress=progress)
    classifier = judge(dataset.name, images.device) if conditional else None
    if classifier is not None:
        result |= {"control_accuracy": control_accuracy(model, classifier), "control_temperature": CONTROL["temperature"]}
        result |= {"control_samples": CONTROL["samples"], "judge": JUDGES[dataset.name]}
    return result
