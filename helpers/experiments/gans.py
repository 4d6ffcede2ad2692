"""The comparisons of notebook 04: how a GAN collapses and what mends it, objectives, and growing."""

from dataclasses import replace

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.models.gans import GANConfig
from helpers.models.growing import ProGANConfig
from helpers.training import TrainConfig

PLAIN = {"schedule": "constant", "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 1e6, "compile": False, "validation_images": 500}


def collapse() -> dict[str, Row]:
    """A fully connected GAN that collapses, one change at a time, and all of them together; 5 epochs each unless it says 15."""
    train = TrainConfig(epochs=5, batch_size=64, learning_rate=1e-3, **PLAIN)
    base = GANConfig(network="mlp", width=128, generator_norm=False, betas=(0.9, 0.999))
    cure = {"dropout": 0.3, "generator_norm": True, "betas": (0.5, 0.999)}
    critic = {"generator_norm": True, "objective": "wgan-gp", "betas": (0.0, 0.9)}
    ways = {
        "as it was": ({}, {}),
        "minimax": ({"objective": "minimax"}, {}),
        "dropout in D": ({"dropout": 0.3}, {}),
        "batch norm in G": ({"generator_norm": True}, {}),
        "Adam's first beta 0.5": ({"betas": (0.5, 0.999)}, {}),
        "learning rate 0.0002": ({}, {"learning_rate": 2e-4}),
        "all of these": (cure, {"learning_rate": 2e-4}),
        "all of these, averaged": (cure, {"learning_rate": 2e-4, "average": 0.999}),
        "all of these, averaged, 15 epochs": (cure, {"learning_rate": 2e-4, "average": 0.999, "epochs": 15}),
        "batch norm, WGAN-GP, averaged": (critic, {"learning_rate": 5e-4, "average": 0.99}),
    }
    kept = ("pictures", "weights")
    rows = {f"mnist: {way}": Row(replace(base, **model), replace(train, **how), measure=kept) for way, (model, how) in ways.items()}
    for way in ("as it was", "all of these", "all of these, averaged, 15 epochs", "batch norm, WGAN-GP, averaged"):
        rows[f"fashion: {way}"] = replace(rows[f"mnist: {way}"], dataset="fashion")
    return rows


def objectives() -> dict[str, Row]:
    """Conditional GANs: what both sides are trained for, and how the label gets in; conv for one epoch, fully connected for four."""
    train = TrainConfig(epochs=1, batch_size=32, learning_rate=5e-4, **PLAIN)
    conv, mlp = GANConfig(classes=10), GANConfig(classes=10, network="mlp", width=128)
    matching = {
        "adversarial": {},
        "feature matching alone": {"adversarial": 0.0, "feature_matching": 1.0},
        "adversarial + 10 feature matching": {"feature_matching": 10.0},
    }
    others = {
        "WGAN-GP": {"objective": "wgan-gp", "betas": (0.0, 0.9)},
        "hinge, spectral norm": {"objective": "hinge", "spectral_norm": True},
    }
    labels = {
        "adversarial, label as a channel": {"told": "channel"},
        "WGAN-GP, a tenth mislabelled": others["WGAN-GP"] | {"mislabelled": 0.1},
    }
    ways = matching | others | labels
    rows = {f"mnist, conv: {way}": Row(replace(conv, **change), train, measure=("pictures",)) for way, change in ways.items()}
    longer = replace(train, epochs=4)  # fully connected: as many seconds, four times the steps
    rows |= {f"mnist, mlp: {way}": Row(replace(mlp, **change), longer, measure=("pictures",)) for way, change in matching.items()}
    for way, change in matching.items():
        rows[f"fashion, conv: {way}"] = Row(replace(conv, **change), train, "fashion", measure=("pictures",))
    return rows


def causes() -> dict[str, Row]:
    """What made the difference in `objectives`, one thing at a time: the objective or Adam's betas; feature matching or its bias."""
    train = TrainConfig(epochs=1, batch_size=32, learning_rate=5e-4, **PLAIN)
    conv, rows = GANConfig(classes=10), {}
    for objective, name in {"nonsaturating": "adversarial", "wgan-gp": "WGAN-GP"}.items():
        for betas in ((0.5, 0.999), (0.0, 0.9)):
            rows[f"{name}, betas {betas}"] = replace(conv, objective=objective, betas=betas)
    for unbiased, name in {False: "as usual", True: "unbiased"}.items():
        rows[f"feature matching alone, {name}"] = replace(conv, adversarial=0.0, feature_matching=1.0, unbiased=unbiased)
    return {label: Row(config, train, measure=("pictures",)) for label, config in rows.items()}


def growing() -> dict[str, Row]:
    """Progressive growing on CIFAR-10: new layers faded in or switched in hard, for as many steps."""
    train = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, train_images=40_000, average=0.999, **PLAIN)
    config = ProGANConfig((3, 32, 32), width=16, objective="wgan-gp", betas=(0.0, 0.99), stage_steps=500)
    ways = {"fade-in": {}, "hard switch": {"fade": 0.0}}
    return {way: Row(replace(config, **change), train, "cifar10", measure=("pictures",)) for way, change in ways.items()}


def truncation(device) -> dict:
    """The shipped conditional GANs with their noise multiplied by less and by more than 1: control, precision, recall, diversity."""
    rows, n, few = [], 10_000, 2_000
    for name in ("cgan-mnist", "cgan-fashion"):
        model, info = weights.load_model(name, device)
        reference = measures.Reference(data.load(info["dataset"], device=device))
        labels = reference.labels
        for factor in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
            with training.aside():
                drawn = model.sample(n, factor, labels)
            ours = measures.features(reference.classifier, drawn)
            found = {"control_accuracy": measures.accuracy(reference.classifier, drawn, labels)}
            found |= measures.precision_recall(ours[:few], reference.features[:few])
            found["diversity_within_class"] = measures.diversity_within(ours, labels, reference.features, labels)
            rows.append({"weights": name, "truncation": factor} | found)
    return {"samples": n, "rows": rows}


MEASUREMENTS = {"truncation": truncation}
EXPERIMENTS = {
    "collapse": (collapse, SEEDS),
    "objectives": (objectives, SEEDS),
    "causes": (causes, SEEDS),
    "growing": (growing, SEEDS),
}
