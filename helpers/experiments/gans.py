"""The comparisons of notebook 04: how a GAN collapses and what mends it, objectives, and growing."""

from dataclasses import replace

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.models.gans import GANConfig
from helpers.models.growing import ProGANConfig
from helpers.recipes import RECIPES
from helpers.training import TrainConfig

PLAIN = {"schedule": "constant", "weight_decay": 0.0, "warmup_steps": 0, "clip_norm": 1e6, "compile": False, "validation_images": 500}


def collapse() -> dict[str, Row]:
    """A fully connected GAN that collapses, one change at a time, and all of them together; 5 epochs each unless it says 15."""
    train = TrainConfig(epochs=5, batch_size=64, learning_rate=1e-3, precision="float32", **PLAIN)
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
    """Conditional GANs, one change at a time at equal minutes: objective, Adam's betas, penalties, what D sees, how fast it learns.

    The images of a row are 48,000 over what its step costs, measured alone. The weight of R1 and R2 is the best of 0.1, 1 and 10 for both with the
    relativistic score, on validation images and a seed not among these; it was not searched for R1 alone, nor for the other rows.
    """
    betas, matching, critic = {"betas": (0.5, 0.999)}, {"adversarial": 0.0, "feature_matching": 1.0}, {"objective": "wgan-gp"}
    flat, varied = {"r1": 1.0, "r2": 1.0}, {"diversity": 0.1}
    ways = {  # what is changed, and how many times as long a step takes
        "adversarial": ({}, 1.0),
        "betas (0.5, 0.999)": (betas, 1.0),
        "WGAN-GP": (critic, 1.4),
        "WGAN-GP, betas (0.5, 0.999)": (critic | betas, 1.4),
        "hinge": ({"objective": "hinge"}, 1.0),
        "relativistic": ({"objective": "relativistic"}, 1.0),
        "spectral norm in D": ({"spectral_norm": True}, 1.0),
        "R1": ({"r1": 1.0}, 1.4),
        "R1 and R2": (flat, 1.8),
        "relativistic, R1 and R2": (flat | {"objective": "relativistic"}, 1.8),
        "D twice as fast": ({"discriminator_rate": 2.0}, 1.0),
        "D sees augmented images": ({"augment": True}, 1.0),
        "self-attention": ({"attention": True}, 1.8),
        "mode seeking": (varied, 1.25),
        "WGAN-GP, mode seeking": (critic | varied, 1.65),
        "relativistic, R1 and R2, mode seeking": (flat | varied | {"objective": "relativistic"}, 2.0),
        "10 feature matching": ({"feature_matching": 10.0}, 1.0),
        "feature matching alone": (matching, 1.0),
        "feature matching alone, unbiased": (matching | {"unbiased": True}, 1.1),
        "label as a channel": ({"told": "channel"}, 1.0),
        "WGAN-GP, a tenth mislabelled": (critic | {"mislabelled": 0.1}, 1.4),
        "no label": ({"classes": 0}, 1.0),
        "no label, old samples": ({"classes": 0, "replay": 0.5}, 1.0),
    }
    train, base = TrainConfig(epochs=1, batch_size=32, learning_rate=5e-4, **PLAIN), GANConfig(classes=10, betas=(0.0, 0.9))
    rows = {
        f"mnist: {way}": Row(replace(base, **change), replace(train, train_images=int(48_000 / cost)), measure=("pictures",))
        for way, (change, cost) in ways.items()
    }
    first = rows["mnist: adversarial"]
    rows["mnist: averaged"] = replace(first, train=replace(first.train, average=0.999))
    for way in ("adversarial", "WGAN-GP", "relativistic, R1 and R2", "mode seeking", "relativistic, R1 and R2, mode seeking"):
        rows[f"fashion: {way}"] = replace(rows[f"mnist: {way}"], dataset="fashion")
    return rows


def growing() -> dict[str, Row]:
    """Progressive growing on CIFAR-10: new layers faded in or switched in hard, for as many steps."""
    train = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, train_images=40_000, average=0.999, **PLAIN)
    config = ProGANConfig((3, 32, 32), width=16, objective="wgan-gp", betas=(0.0, 0.99), stage_steps=500)
    ways = {"fade-in": {}, "hard switch": {"fade": 0.0}}
    return {way: Row(replace(config, **change), train, "cifar10", measure=("pictures",)) for way, change in ways.items()}


def live() -> dict[str, Row]:
    """The conditional GAN that lesson 4 trains, and the same without its mode-seeking term."""
    settings, train = RECIPES["cgan"].quick
    config = GANConfig(classes=10, **settings)
    return {
        "as trained": Row(config, train, measure=("pictures",)),
        "without mode seeking": Row(replace(config, diversity=0.0), train, measure=("pictures",)),
    }


def truncation(device) -> dict:
    """The shipped conditional GANs with their noise multiplied by less and by more than 1: control, precision, recall, diversity."""
    rows, n = [], 10_000
    for name in ("cgan-mnist", "cgan-fashion"):
        model, info = weights.load_model(name, device)
        reference = measures.Reference(data.load(info["dataset"], device=device))
        labels = reference.labels
        for factor in (0.2, 0.4, 0.6, 0.8, 1.0, 1.2):
            with training.aside():
                drawn = model.sample(n, factor, labels)
            ours = measures.features(reference.classifier, drawn)
            found = measures.beside(drawn, reference, labels)
            found["diversity_within_class"] = measures.diversity_within(ours, labels, reference.features, labels)
            rows.append({"weights": name, "truncation": factor} | found)
    return {"samples": n, "split": "test", "rows": rows}


MEASUREMENTS = {"truncation": truncation}
EXPERIMENTS = {
    "collapse": (collapse, SEEDS),
    "objectives": (objectives, SEEDS),
    "growing": (growing, SEEDS),
    "live": (live, SEEDS),
}
