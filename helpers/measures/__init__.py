"""What a trained model is worth, in units that can be compared.

A model names its measures; each is one of MEASURES: a function of a Task, and what the numbers are that it finds. Which models there
are is nobody's business here.
"""

import math
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
from helpers.measures.metric import Measure, Metric
from helpers.measures.samples import (
    SOME,
    CollapseWatch,
    Reference,
    accuracy,
    beside,
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
    "BY_SAMPLES", "LONG", "MEASURES", "SOME", "CollapseWatch", "Judge", "Measure", "Metric", "Reference", "Task", "accuracy",
    "active_units", "beside", "bits_per_dim", "class_log_probs", "control_accuracy", "coverage", "disentangled", "diversity",
    "diversity_within", "elbo", "encoded", "evaluate", "evaluate_vae", "features", "frechet_distance", "headline", "in_turn",
    "inception_distance", "judge", "kernel_distance", "kl_parts", "latent_use", "legibility", "measure", "metric", "named_latents",
    "nats_to_bits_per_dim", "nearest_gaussian", "nll", "nll_of_some", "pca_errors", "posterior_gap", "precision_recall", "predict",
    "reconstruction_error", "sample_quality", "samples_per_second", "true_posterior",
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
    profile: str | None = None  # of the judge, where one is to be trained; None: the machine's

    @property
    def images(self):
        return self.dataset.part(self.split)[0]

    @property
    def labels(self):
        return self.dataset.part(self.split)[1]

    @cached_property
    def reference(self) -> Reference:
        return self.given or Reference(self.dataset, self.split, profile=self.profile)


def bits(task: Task) -> dict:
    labels = task.labels if task.model.labelled else None
    found = bits_per_dim(task.model, task.images, labels, task.samples, progress=task.progress)
    if task.model.likelihood == "nats":
        scale = task.images[0].numel() * math.log(2)
        found = {"nll": found["bits_per_dim"] * scale, "standard_error": found["standard_error"] * scale}
    return found if task.model.exact else {"importance_samples": task.samples} | found


def control(task: Task) -> dict:
    """Whether samples are of the class asked for, each of the first 10,000 images' labels being asked for; at 1, `sample_quality` says so."""
    classifier = judge(task.dataset, task.profile) if task.model.labelled else None
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


WAYS = {f"{steps}": {"steps": steps} for steps in (1, 2, 4, 8)} | {f"stirred_{steps}": {"steps": steps, "stir": True} for steps in (2, 3, 4)}


def hops(task: Task) -> dict:
    """The same measures of samples of a flow map in fewer and in more steps, and in jumps with noise between them."""
    if task.reference.classifier is None:
        return {}
    labels, found = task.labels[: task.reference.n] if task.model.labelled else None, {}
    most = task.model.config.grid  # a smaller one, as in smoke, has fewer steps
    for way, how in WAYS.items():
        if how["steps"] > (most.bit_length() if "stir" in how else most):
            continue
        with aside():
            drawn = task.model.sample(task.reference.n, labels=labels, **how)
        found |= {f"{name}_{way}": value for name, value in beside(drawn, task.reference, labels).items()}
    return found


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


CONTROL = Metric("control", 3, absolute=0.015, said="as asked {:.1%}")
MSE = Metric("squared error", 4, relative=0.02)

MEASURES: dict[str, Measure] = {
    "bits": Measure(bits, {"bits_per_dim": Metric("bits/dim", 3, absolute=0.003, said="{:.3f} bits/dim"), "standard_error": Metric(relative=0.05)}),
    "elbo": Measure(
        lambda task: evaluate_vae(task.model, task.images, task.samples, task.progress),
        {
            "nll": Metric("nats", 2, 0.001, 0.1, "{:.1f} nats"),
            "nll_of_first_100": Metric("nats, 100 images", 2, 0.001, 0.1),
            "neg_elbo": Metric("-ELBO, nats", 2, 0.001, 0.1, "ELBO {:.1f} nats"),
            "reconstruction": Metric("reconstruction, nats", 1, 0.002, 0.15),
            "kl": Metric("KL, nats", 1, 0.005, 0.1),
            "active_units": Metric("active units", 0, absolute=1),
        }
        | {f"kl_{rung}": Metric(f"KL {rung}, nats", 1, 0.01, 0.1) for rung in ("top", "middle", "bottom")},
    ),
    "codes": Measure(codes, {"mse": MSE, "perplexity": Metric("perplexity", 0, 0.02), "code_nats": Metric("nats of the words", 1, 0.01)}),
    "names": Measure(
        lambda task: named_latents(task.model, task.images)[0] if task.dataset.strokes else {},
        {f"explained_{name}": Metric(f"{name} explained", absolute=0.01) for name in ATTRIBUTES},
    ),
    "factors": Measure(
        factors,
        {
            "mutual_information_gap": Metric("MIG", absolute=0.02),
            "mutual_information_gap_ceiling": Metric("MIG, ceiling", absolute=0.001),
            "factor_vae_score": Metric("FactorVAE score", absolute=0.05),
        },
    ),
    "reconstruction": Measure(
        reconstruction,
        {"mse": MSE, "mse_of_training_images": Metric("of training images", 4, 0.02), "mse_of_pca": Metric("of PCA", 4, 0.001)},
    ),
    "reading": Measure(
        reading,
        {
            "accuracy": Metric("accuracy", 3, absolute=0.001, said="accuracy {:.1%}"),
            "legibility": Metric("legible", absolute=0.04),
            "legibility_of_broken_images": Metric("legible, of broken images", absolute=0.003),
        },
    ),
    "samples": Measure(
        lambda task: sample_quality(task.model, task.reference, task.floor),
        {
            "frechet_distance": Metric("Fréchet", 2, 0.05, 0.03, "Fréchet {:.2f}"),
            "kernel_distance": Metric("kernel", 3, 0.1, 0.001),
            "kernel_floor": Metric("kernel, floor", 3, absolute=0.001),
            "precision": Metric("precision", absolute=0.04),
            "recall": Metric("recall", absolute=0.04),
            "precision_of_real": Metric("precision, real", absolute=0.002),
            "recall_of_real": Metric("recall, real", absolute=0.002),
            "classes_covered": Metric("classes", 0, absolute=1),
            "class_entropy": Metric("entropy", absolute=0.01),
            "legibility": Metric("legible", absolute=0.04),
            "diversity": Metric("diversity", relative=0.03),
            "diversity_within_class": Metric("diversity within", relative=0.03),
            "control_accuracy": CONTROL,
        }
        | {f"frechet_floor{end}": Metric(f"Fréchet, floor{end.replace('_', ' ')}", 3, 0.001, 0.0001) for end in ("", "_low", "_high")},
    ),
    "control": Measure(control, {"control_accuracy": CONTROL}),
    "hops": Measure(
        hops,
        {f"frechet_distance_{way}": Metric(f"Fréchet, {way} steps", 2, 0.05, 0.03) for way in WAYS}
        | {f"control_accuracy_{way}": Metric(f"control, {way} steps", 3, absolute=0.015) for way in WAYS}
        | {f"{name}_{way}": Metric(f"{name}, {way} steps", absolute=0.04) for way in WAYS for name in ("precision", "recall", "legibility")},
    ),
    "straightness": Measure(straightness_of_paths, {"straightness": Metric("bend", 3, 0.03)}),
    "unlabelled": Measure(unlabelled, {"frechet_without_labels": Metric("Fréchet, told nothing", 2, 0.05, 0.03)}),
}


def metric(name: str) -> Metric:
    """What is known of a number of a record; of one that no measure names, that it must be the same again."""
    return next((measure.metrics[name] for measure in MEASURES.values() if name in measure.metrics), Metric())


def headline(metrics: dict) -> str:
    """The few numbers that people ask for: of a likelihood the best known."""
    said = {name: one.said for measure in MEASURES.values() for name, one in measure.metrics.items() if one.said and name in metrics}
    best = next((name for name in ("bits_per_dim", "nll", "neg_elbo") if name in said), None)
    return ", ".join(text.format(metrics[name]) for name, text in said.items() if name == best or name not in ("bits_per_dim", "nll", "neg_elbo"))


def evaluate(
    model,
    dataset,
    split: str = "test",
    samples: int = 1,
    progress: bool = False,
    reference: Reference | None = None,
    only: tuple[str, ...] | None = None,
    floor: bool = True,
    failed: dict | None = None,
    profile: str | None = None,
) -> dict:
    """What `model.measures`, or `only` some of MEASURES, find on one split of a data set; `samples`: importance samples an image.

    reference: that of the split, for who evaluates several models. floor: False leaves out what is the same for all models.
    profile: of the judge, where one of the data set's own is to be trained.
    failed: where it is given, a measure that raises leaves its name and its reason there, and the others go on.
    """
    task = Task(model, dataset, split, samples, progress, floor, reference, profile)
    found = {"split": split, "n": len(task.images)}
    for name in model.measures if only is None else only:
        if name not in MEASURES:
            raise UserError(f"There is no measure {name!r}: take some of {', '.join(MEASURES)}.")
        try:
            found |= MEASURES[name].find(task)
        except Exception as error:
            if failed is None:
                raise
            failed[name] = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]
    return found


def measure(run, **how) -> dict:
    """Measure a helpers.runs.Run that is trained, and keep it: a measure that fails is said, and loses neither weights nor the other measures."""
    failed = {}
    found = evaluate(run.model, run.dataset, failed=failed, profile=run.profile, **how)
    run.measured(found | ({"not_measured": failed} if failed else {}))
    for name, why in failed.items():
        print(f"{name}: not measured ({why})")
    return found
