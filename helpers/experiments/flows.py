"""The comparisons of notebook 01: flows."""

import json
from dataclasses import replace

import torch

from helpers import data, measures, training, weights
from helpers.experiments.ladder import FlatConfig, LadderConfig
from helpers.experiments.row import BUDGET, SEEDS, Row
from helpers.training import TrainConfig

# ------------------------------------------------------------------------------------------------------ the ladder

BASIC = LadderConfig(
    checkerboard=4, couplings=(4,), width=(16,), blocks=1, network="plain", norm="none", mixing="reverse",
    learned_range=False, learned_base=False, dequantization_couplings=0,
)  # fmt: skip
CONSTANT = replace(BUDGET, schedule="constant")


def ladder() -> dict[str, Row]:
    """Four rungs of an earlier attempt (constant learning rate but for the last), then one change at a time."""
    batch_norm = replace(BASIC, norm="batch")
    scaled = replace(batch_norm, checkerboard=6, couplings=(6,), width=(24,), weight_norm=True, learned_range=True, mixing="shuffle")
    residual = replace(scaled, network="residual", blocks=3)
    gated = replace(residual, network="gated", blocks=2, norm="channel", weight_norm=False)
    squeezed = replace(gated, checkerboard=0, couplings=(6, 6), width=(24, 24))
    mixed = replace(squeezed, mixing="1x1")
    base = replace(mixed, learned_base=True)
    noise = replace(base, dequantization_couplings=4, dequantization_width=24)
    return {
        "basic": Row(BASIC, CONSTANT),
        "+ batch norm": Row(batch_norm, CONSTANT),
        "scaled up": Row(scaled, CONSTANT),
        "residual, cosine": Row(residual),
        "gated blocks": Row(gated),
        "squeeze first": Row(squeezed),
        "1x1 convolutions": Row(mixed),
        "learned base": Row(base),
        "variational dequantisation": Row(noise),
    }


def contradictions() -> dict[str, Row]:
    """What earlier reports disagree about, one change at a time from a rung of the ladder."""
    rungs = {name: row.config for name, row in ladder().items()}
    residual, squeezed = rungs["residual, cosine"], rungs["squeeze first"]
    rows = {
        "batch norm: deep residual, none": Row(replace(residual, norm="none")),
        "batch norm: deep residual, over channels": Row(replace(residual, norm="channel")),
        "mixing: halves change places": Row(replace(squeezed, mixing="reverse")),
        "scales: 14x14 only": Row(replace(squeezed, couplings=(12,), width=(24,))),
        "network: plain": Row(replace(squeezed, network="plain", blocks=3, norm="none")),
        "network: plain, norm over channels": Row(replace(squeezed, network="plain", blocks=3)),
        "network: residual": Row(replace(squeezed, network="residual", norm="none")),
        "network: residual, norm over channels": Row(replace(squeezed, network="residual")),
        "network: gated, no norm": Row(replace(squeezed, norm="none")),
        "squeeze first, three epochs": Row(squeezed, replace(BUDGET, epochs=3)),  # about the seconds of the rung before it
    }
    for width in (16, 32, 64, 128):
        config = replace(squeezed, couplings=(4, 4), width=(width, width))
        rows[f"fashion: width {width}"] = Row(config, dataset="fashion", measure=())
    return rows


def batch_norm() -> dict[str, Row]:
    """Where and how to normalise, on one deep network; the gap between training and evaluation mode is the point."""
    config = replace(BASIC, checkerboard=0, couplings=(4, 4), width=(24, 24), blocks=2, network="residual", learned_range=True)
    return {
        "no norm": Row(config),
        "batch norm in the networks": Row(replace(config, norm="batch")),
        "batch norm between couplings": Row(replace(config, between="batch")),
        "actnorm between couplings": Row(replace(config, between="actnorm")),
        "norm over channels in the networks": Row(replace(config, norm="channel")),
    }


# -------------------------------------------------------------------------------------- the deadlock and the static


def deadlock() -> dict[str, Row]:
    """All combinations of what was blamed for a loss that does not move: gated networks, each trained on 32,768 images."""
    config = replace(BASIC, checkerboard=0, couplings=(3, 3), width=(16, 16), blocks=2, network="gated", norm="none")
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


def static() -> dict[str, Row]:
    """Three kinds of noise in the bins, with the logit and without."""
    top = ladder()["learned base"].config
    rows = {}
    for logit in (False, True):
        for noise, change in {
            "no noise": {"dequantize": "none"},
            "uniform noise": {},
            "variational noise": {"dequantization_couplings": 4, "dequantization_width": 24},
        }.items():
            config = replace(top, couplings=(4, 4), logit=logit, **change)
            rows[f"{'logit' if logit else '[0, 1]'}, {noise}"] = Row(config, measure=("legibility", "pixels"))
    return rows


def flat() -> dict[str, Row]:
    """The fully connected flow of an earlier attempt, and what its authors left out."""
    train = TrainConfig(epochs=8, batch_size=128, learning_rate=1e-3, compile=False, precision="float32")
    return {
        "halves": Row(FlatConfig(), train),
        "checkerboard": Row(FlatConfig(mask="checkerboard"), train),
        "checkerboard, batch norm": Row(FlatConfig(mask="checkerboard", batch_norm=True), train),
    }


def pairs() -> dict[str, Row]:
    """Pairs of digits, one epoch: six flat couplings of 512 units as in an earlier attempt, a multi-scale flow, and one that is told the pair."""
    flat_train = TrainConfig(batch_size=128, learning_rate=1e-3, compile=False, precision="float32", reports_per_epoch=4)
    config = replace(ladder()["learned base"].config, image_shape=(1, 28, 56), couplings=(4, 4))
    train = replace(BUDGET, train_images=None)
    return {
        "flattened": Row(FlatConfig((1, 28, 56), blocks=6, hidden=(512, 512)), flat_train, "pairs"),
        "multi-scale": Row(config, train, "pairs"),
        "multi-scale, told the pair": Row(replace(config, classes=10, parts=2), train, "pairs"),
    }


EXPERIMENTS = {
    "ladder": (ladder, SEEDS),
    "contradictions": (contradictions, SEEDS),
    "batch-norm": (batch_norm, SEEDS),
    "deadlock": (deadlock, (0,)),
    "static": (static, (0,)),
    "flat": (flat, (0,)),
    "pairs": (pairs, (0,)),
}


# ----------------------------------------------------------------------------------------------- of shipped weights


def temperature(device) -> dict:
    """realnvp-mnist at temperatures 0 to 1.2: legibility, diversity and Fréchet distance of 2,000 samples each."""
    n, dataset = 2_000, data.load("mnist", device=device)
    model, _ = weights.load_model("realnvp-mnist", device)
    reference = measures.Reference(dataset)

    def measured(images):
        ours, read = measures.features(reference.classifier, images), measures.predict(reference.classifier, images)
        return {
            "legibility": measures.legibility(read),
            "diversity": measures.diversity(ours),
            "frechet_distance": measures.frechet_distance(ours, reference.features),
        }

    rows = []
    for t in [round(0.1 * i, 1) for i in range(13)]:
        with training.aside(0):  # the same latents at each temperature
            rows.append({"temperature": t} | measured(model.sample(n, t)))
        print(json.dumps(rows[-1]), flush=True)
    return {"samples": n, "against": "the 10,000 test images", "rows": rows, "real training images": measured(dataset.train_images[:n])}


def classify(device) -> dict:
    """realnvp-conditional-mnist used backwards: the label y with the highest log p(x|y), on all 10,000 test images."""
    dataset = data.load("mnist", device=device)
    model, _ = weights.load_model("realnvp-conditional-mnist", device)
    found = measures.classify(model, dataset.test_images, progress=True)
    table = torch.zeros(10, 10, dtype=torch.long)
    table.index_put_((dataset.test_labels.cpu(), found.cpu()), torch.tensor(1), accumulate=True)
    right = (found == dataset.test_labels).float().mean().item()
    return {"n": len(found), "accuracy": right, "confusion, a row a true class": table.tolist()}


def surprise(device) -> dict:
    """Bits per dimension of 2,000 test images of each data set under the flow of each."""
    n, rows = 2_000, []
    for trained_on in ("fashion", "mnist"):
        model, _ = weights.load_model(f"realnvp-{trained_on}", device)
        for name in ("fashion", "mnist"):
            found = measures.bits_per_dim(model, data.load(name, device=device).test_images[:n])
            rows.append({"flow": f"realnvp-{trained_on}", "images": name} | found)
    return {"images": n, "rows": rows}


MEASUREMENTS = {"temperature": temperature, "classify": classify, "surprise": surprise}
