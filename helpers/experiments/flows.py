"""The comparisons of notebook 01: flows."""

import json
import math
import zlib
from dataclasses import replace

import torch
from scipy.stats import spearmanr

from helpers import data, measures, training, weights
from helpers.experiments.flow_variants import FlatConfig, VariantConfig
from helpers.experiments.row import BUDGET, SEEDS, Row
from helpers.training import TrainConfig

# --------------------------------------------------------------------------------------------- one piece exchanged

BASE = VariantConfig(couplings=(4, 4), width=(24, 24), dequantization_width=24)
UNIFORM = replace(BASE, dequantization_couplings=0)


def pieces() -> dict[str, Row]:
    """RealNVP in small, and the same with one piece exchanged."""
    changes = {
        "uniform noise": {"dequantization_couplings": 0},
        "a standard normal base": {"learned_base": False},
        "no look at the first batch": {"data_init": False},
        "s between -1 and 1": {"learned_range": False},
        "mixing: halves change places": {"mixing": "reverse"},
        "mixing: channels shuffled": {"mixing": "shuffle"},
        "networks: no norm": {"norm": "none"},
        "networks: batch norm": {"norm": "batch"},
        "networks: residual, no gate": {"network": "residual"},
        "networks: plain, no skip, no gate": {"network": "plain"},
        "one scale: all couplings at 14x14": {"couplings": (8,), "width": (24,)},
    }
    return {"as it is": Row(BASE)} | {label: Row(replace(BASE, **change)) for label, change in changes.items()}


def flat() -> dict[str, Row]:
    """A fully connected flow over the flattened image; only the mask differs."""
    train = TrainConfig(epochs=8, batch_size=128, learning_rate=1e-3, compile=False, precision="float32")
    return {mask: Row(FlatConfig(mask=mask), train) for mask in ("halves", "checkerboard")}


# ------------------------------------------------------------------------------------------------------ what goes wrong


def box() -> dict[str, Row]:
    """A flow on [0, 1] itself and one behind a logit, uniform noise, at 250, 1,000 and 3,000 steps, each with its own schedule."""
    return {
        f"{'logit' if logit else '[0, 1]'}, {250 * epochs:,} steps": Row(
            replace(UNIFORM, logit=logit), replace(BUDGET, epochs=epochs), measure=("legibility", "pixels")
        )
        for epochs in (1, 4, 12)
        for logit in (False, True)
    }


def static() -> dict[str, Row]:
    """Three kinds of noise in the bins, with the logit and without."""
    noises = {"no noise": replace(UNIFORM, dequantize="none"), "uniform noise": UNIFORM, "variational noise": BASE}
    return {
        f"{'logit' if logit else '[0, 1]'}, {noise}": Row(replace(config, logit=logit), measure=("legibility", "pixels"))
        for logit in (False, True)
        for noise, config in noises.items()
    }


def deadlock() -> dict[str, Row]:
    """All combinations of what is blamed for a loss that does not move: each flow trained on 32,768 images."""
    config = replace(UNIFORM, couplings=(3, 3), width=(16, 16), norm="none", mixing="reverse", learned_range=False, learned_base=False)
    rows = {}
    for zero in (True, False):
        for batch in (64, 2_048):
            for rate in (1e-4, 1e-2):
                for clip in (1.0, 1e9):
                    label = f"{'zero' if zero else 'random'} last layer, batch {batch}, lr {rate:g}, {'clipped' if clip == 1 else 'not clipped'}"
                    train = replace(BUDGET, epochs=2, train_images=16_384, batch_size=batch, learning_rate=rate, clip_norm=clip, warmup_steps=0)
                    rows[label] = Row(replace(config, zero_init=zero), replace(train, reports_per_epoch=1), measure=())
    for epochs in (8, 32):  # the suspect, given more steps
        train = replace(BUDGET, epochs=epochs, train_images=16_384, batch_size=2_048, learning_rate=1e-2, warmup_steps=0, reports_per_epoch=1)
        rows[f"zero last layer, batch 2048, lr 0.01, clipped, {epochs * 8} steps"] = Row(config, train, measure=())
    return rows


def pairs() -> dict[str, Row]:
    """Pairs of digits, one epoch: a flow, and the same one when it is told the pair."""
    config, train = replace(UNIFORM, image_shape=(1, 28, 56)), replace(BUDGET, train_images=None)
    return {
        "not told": Row(config, train, "pairs"),
        "told the pair": Row(replace(config, classes=10, parts=2), train, "pairs"),
    }


# ------------------------------------------------------------------------------------------- couplings and optimizers


def couplings() -> dict[str, Row]:
    """Another optimizer, and couplings of Flow++, on clothes: one change at a time, about as many seconds each."""
    ways = {  # changes of the model, the optimizer, and how many images it sees where the first sees one
        "affine, AdamW": ({}, "adamw", 1.0),
        "affine, Muon": ({}, "muon", 0.94),
        "affine, Muon, standard normal base": ({"learned_base": False}, "muon", 0.94),
        "affine, Muon, self-attention at 7x7": ({"attention": True}, "muon", 0.61),
        "mixtures of 4 logistics, Muon": ({"mixtures": 4}, "muon", 0.83),
    }
    config, rows = VariantConfig(couplings=(4, 6), width=(32, 64)), {}
    for way, (change, optimizer, speed) in ways.items():
        train = replace(BUDGET, learning_rate=1.5e-2, optimizer=optimizer, average=0.99, train_images=round(24_000 * speed), reports_per_epoch=1)
        rows[way] = Row(replace(config, **change), train, "fashion")
    return rows


EXPERIMENTS = {
    "pieces": (pieces, SEEDS),
    "couplings": (couplings, SEEDS),
    "flat": (flat, SEEDS),
    "box": (box, (0,)),
    "static": (static, (0,)),
    "deadlock": (deadlock, (0,)),
    "pairs": (pairs, SEEDS),
}


# ----------------------------------------------------------------------------------------------- of shipped weights


def temperature(device) -> dict:
    """realnvp-mnist at temperatures 0 to 1.2: legibility, diversity and Fréchet distance of 2,000 samples each, against the validation images."""
    n, dataset = 2_000, data.load("mnist", device=device)
    model, _ = weights.load_model("realnvp-mnist", device)
    reference = measures.Reference(dataset, "validation")

    def measured(images):
        return measures.beside(images, reference) | {"diversity": measures.diversity(measures.features(reference.classifier, images))}

    rows = []
    for t in [round(0.1 * i, 1) for i in range(13)]:
        with training.aside(0):  # the same latents at each temperature
            rows.append({"temperature": t} | measured(model.sample(n, t)))
        print(json.dumps(rows[-1]), flush=True)
    return {"samples": n, "split": "validation", "rows": rows, "real training images": measured(dataset.train_images[:n])}


def classify(device) -> dict:
    """realnvp-conditional-mnist on all 10,000 test images: its bits given the label, and by its own mixture of the ten labels; and the label
    y with the highest log p(x|y) as a classifier."""
    dataset = data.load("mnist", device=device)
    model, _ = weights.load_model("realnvp-conditional-mnist", device)
    images, labels = dataset.test_images, dataset.test_labels
    with training.aside(0):
        log_p = measures.class_log_probs(model, images, progress=True).double()
    given = log_p.gather(1, labels[:, None])[:, 0]
    own = log_p.logsumexp(1) - math.log(10)  # every digit equally likely beforehand
    found = log_p.argmax(1)
    table = torch.zeros(10, 10, dtype=torch.long)
    table.index_put_((labels.cpu(), found.cpu()), torch.tensor(1), accumulate=True)

    def bits(nats):
        values = -nats / (images[0].numel() * math.log(2))
        return {"bits_per_dim": values.mean().item(), "standard_error": (values.std() / len(values) ** 0.5).item()}

    likelihoods = {"given the label": bits(given), "own mixture of the ten labels": bits(own), "what the label saves": bits(given - own)}
    right = (found == labels).float().mean().item()
    return {"n": len(found), "split": "test", "accuracy": right, "confusion, a row a true class": table.tolist(), "likelihoods": likelihoods}


def surprise(device) -> dict:
    """Bits per dimension of 2,000 test images of each data set under the flow of each, their rank correlation with what zlib
    makes of each image, and those of a black and a grey sheet."""
    n, rows = 2_000, []
    sheets = {name: torch.full((64, 1, 28, 28), level, dtype=torch.uint8, device=device) for name, level in (("black sheet", 0), ("grey sheet", 128))}
    sets = {name: data.load(name, device=device).test_images[:n] for name in ("fashion", "mnist")} | sheets
    for trained_on in ("fashion", "mnist"):
        model, _ = weights.load_model(f"realnvp-{trained_on}", device)
        for name, images in sets.items():
            with training.aside(0):
                nats = torch.cat([-model.log_prob(part) for part in images.split(100)]).double()
            bits = nats / (images[0].numel() * math.log(2))
            found = {"bits_per_dim": bits.mean().item(), "standard_error": (bits.std() / len(bits) ** 0.5).item()}
            if name not in sheets:
                zipped = [len(zlib.compress(image.cpu().numpy().tobytes(), 9)) for image in images]
                found["rank correlation with zlib"] = spearmanr(bits.cpu(), zipped).statistic.item()
            rows.append({"flow": f"realnvp-{trained_on}", "images": name, "n": len(images)} | found)
    return {"images": n, "split": "test", "rows": rows}


MEASUREMENTS = {"temperature": temperature, "classify": classify, "surprise": surprise}
