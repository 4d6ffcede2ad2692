"""What a trained model is worth, in units that can be compared.

A model names its measures; each is one of MEASURES, a function of a Task. Which models there are is nobody's business here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from helpers import UserError
from helpers.measures.disentanglement import ATTRIBUTES
from helpers.measures.judges import Judge, judge
from helpers.measures.latents import (
    active_units,
    disentangled,
    encoded,
    evaluate_vae,
    kl_parts,
    latent_use,
    named_latents,
    pca_errors,
    reconstruction_error,
)
from helpers.measures.likelihood import (
    BY_SAMPLES,
    LONG,
    bits_per_dim,
    class_log_probs,
    elbo,
    nats_to_bits_per_dim,
    nearest_gaussian,
    nll,
    nll_of_some,
    posterior_gap,
    true_posterior,
)
from helpers.measures.samples import (
    SOME,
    CollapseWatch,
    Reference,
    accuracy,
    control_accuracy,
    coverage,
    diversity,
    diversity_within,
    features,
    frechet_distance,
    in_turn,
    inception_distance,
    kernel_distance,
    legibility,
    precision_recall,
    predict,
    sample_quality,
    samples_per_second,
)
from helpers.models.classifier import broken
from helpers.models.codebook import perplexity
from helpers.models.layers import at_once, pixels, unit
from helpers.models.matching import straightness
from helpers.training import aside

__all__ = [
    "BY_SAMPLES", "LONG", "MEASURES", "SOME", "CollapseWatch", "Judge", "Reference", "Task", "accuracy", "active_units", "agrees", "bits_per_dim",
    "class_log_probs", "control_accuracy", "coverage", "disentangled", "diversity", "diversity_within", "elbo", "encoded",
    "evaluate", "evaluate_vae", "features", "frechet_distance", "in_turn", "inception_distance", "judge", "kernel_distance", "kl_parts",
    "latent_use", "legibility", "named_latents", "nats_to_bits_per_dim", "nearest_gaussian", "nll", "nll_of_some", "pca_errors", "posterior_gap",
    "precision_recall", "predict", "reconstruction_error", "sample_quality", "samples_per_second", "true_posterior",
]  # fmt: skip


@dataclass
class Task:
    """A model, and the split of a data set that it is to be measured on."""

    model: object
    dataset: object
    split: str = "test"
    samples: int = 1  # importance samples an image, where there are any
    progress: bool = False
    floor: bool = True  # how near real images come is measured too
    given: Reference | None = None  # that of the split, for who measures several models

    @property
    def images(self):
        return self.dataset.part(self.split)[0]

    @property
    def labels(self):
        return self.dataset.part(self.split)[1]

    @cached_property
    def reference(self) -> Reference:
        return self.given or Reference(self.dataset, self.split)


def bits(task: Task) -> dict:
    labels = task.labels if task.model.labelled else None
    return {"importance_samples": task.samples} | bits_per_dim(task.model, task.images, labels, task.samples, progress=task.progress)


def control(task: Task) -> dict:
    """Whether samples are of the class asked for, each of the first 10,000 images' labels being asked for; at 1, `sample_quality` says so."""
    classifier = judge(task.dataset) if task.model.labelled else None
    if classifier is None or task.model.drawn_at == 1.0:
        return {}
    labels, temperature = task.labels[:10_000], task.model.drawn_at
    found = {"control_accuracy": control_accuracy(task.model, classifier, labels, temperature)}
    return found | {"control_temperature": temperature, "control_samples": len(labels), "judge": classifier.name}


def reconstruction(task: Task) -> dict:
    train, size = task.dataset.train_images, task.model.latent_dim
    seen = reconstruction_error(task.model, train[: len(task.images)])
    found = {"mse": reconstruction_error(task.model, task.images).mean().item(), "mse_of_training_images": seen.mean().item()}
    return found | {"mse_of_pca": pca_errors(train, task.images, [size])[size]}


def reading(task: Task) -> dict:
    read = predict(task.model, task.images)
    with aside():
        wrecks = predict(task.model, broken(unit(task.images), task.labels))
    right = (read.argmax(1) == task.labels).float().mean().item()
    return {"accuracy": right, "legibility": legibility(read), "legibility_of_broken_images": legibility(wrecks)}


def unlabelled(task: Task) -> dict:
    """The distance of samples of a model that takes labels, but was told none."""
    model, reference = task.model, task.reference
    if reference.classifier is None or not (model.labelled and model.free):
        return {}
    with aside():
        ours = features(reference.classifier, model.sample(reference.n))
    return {"frechet_without_labels": frechet_distance(ours, reference.features)}


@torch.no_grad()
def codes(task: Task) -> dict:
    """Of a codebook: what the choice of words loses, how many are in use, and what the prior needs for an image's words, in nats."""
    model, losses, words, nats = task.model, [], [], []
    size = at_once(task.images.device)
    for images, labels in zip(task.images.split(size), task.labels.split(size), strict=True):
        words.append(model.encode(images))
        losses.append((model.decode(words[-1]) - pixels(model, images)).square().flatten(1).mean(1))
        nats.append(-model.log_prob_of_words(words[-1], labels))
    found = {"mse": torch.cat(losses).mean().item(), "perplexity": perplexity(torch.cat(words), model.config.codes).item()}
    return found | {"code_nats": torch.cat(nats).mean().item(), "words_an_image": model.latent_dim}


@torch.no_grad()
def straightness_of_paths(task: Task, n: int = 500) -> dict:
    with aside():
        noise = task.model.prior(n).view(n, *task.model.config.image_shape)
    return {"straightness": straightness(task.model.field(n=n, guidance=0.0), noise).mean().item()}


def factors(task: Task) -> dict:
    known = getattr(task.dataset, f"{task.split}_factors", None)
    return {} if known is None else disentangled(task.model, task.images, known)


MEASURES: dict[str, Callable[[Task], dict]] = {
    "bits": bits,
    "codes": codes,
    "elbo": lambda task: evaluate_vae(task.model, task.images, task.samples, task.progress),
    "names": lambda task: named_latents(task.model, task.images)[0] if task.dataset.strokes else {},
    "factors": factors,
    "reconstruction": reconstruction,
    "reading": reading,
    "control": control,
    "straightness": straightness_of_paths,
    "unlabelled": unlabelled,
    "samples": lambda task: sample_quality(task.model, task.reference, task.floor),
}


def evaluate(
    model,
    dataset,
    split: str = "test",
    samples: int = 1,
    progress: bool = False,
    reference: Reference | None = None,
    only: tuple[str, ...] | None = None,
    floor: bool = True,
) -> dict:
    """What `model.measures`, or `only` some of MEASURES, find on one split of a data set; `samples`: importance samples an image.

    reference: that of the split, for who evaluates several models. floor: False leaves out what is the same for all models.
    """
    task = Task(model, dataset, split, samples, progress, floor, reference)
    found = {"split": split, "n": len(task.images)}
    for name in model.measures if only is None else only:
        if name not in MEASURES:
            raise UserError(f"There is no measure {name!r}: take some of {', '.join(MEASURES)}.")
        found |= MEASURES[name](task)
    return found


# By how much a metric that is measured again may differ, on another machine with other random numbers: as a share of the
# recorded value, and absolutely; whichever is more. A metric that isn't here must be the same.
TOLERANCES = {
    "bits_per_dim": (0, 0.003),
    "standard_error": (0.05, 0),
    "neg_elbo": (0.001, 0.1),
    "reconstruction": (0.002, 0.15),
    "kl": (0.005, 0.1),
    "kl_top": (0.01, 0.1),
    "kl_middle": (0.01, 0.1),
    "kl_bottom": (0.01, 0.1),
    "nll": (0.001, 0.1),
    "nll_of_first_100": (0.001, 0.1),
    "mse": (0.02, 0),
    "perplexity": (0.02, 0),
    "code_nats": (0.01, 0),
    "mse_of_training_images": (0.02, 0),
    "mse_of_pca": (0.001, 0),
    "active_units": (0, 1),
    "accuracy": (0, 0.001),
    "legibility": (0, 0.04),
    "legibility_of_broken_images": (0, 0.003),
    "frechet_distance": (0.05, 0.03),
    "frechet_without_labels": (0.05, 0.03),
    "frechet_floor": (0.001, 0.0001),
    "frechet_floor_low": (0.001, 0.0001),
    "frechet_floor_high": (0.001, 0.0001),
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
    "straightness": (0.03, 0),
    "control_accuracy": (0, 0.015),
    "mutual_information_gap": (0, 0.02),
    "mutual_information_gap_ceiling": (0, 0.001),
    "factor_vae_score": (0, 0.05),
} | {f"explained_{name}": (0, 0.01) for name in ATTRIBUTES}


def agrees(key: str, found, recorded) -> bool:
    """Whether a metric measured again is the recorded one, within its tolerance."""
    if key not in TOLERANCES:
        return found == recorded
    relative, absolute = TOLERANCES[key]
    return abs(found - recorded) <= max(relative * abs(recorded), absolute)
