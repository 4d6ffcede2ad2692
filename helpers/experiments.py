"""The recorded experiments of notebook 01: what is compared with what, under which budget, and what is measured.

`python -m helpers experiment NAME` trains every row with every seed and writes results/NAME.json, and where samples are
looked at, the first of seed 0 into results/NAME.png. A row that is already there under the same configuration is not
trained again, so a run that was cut off goes on, and a changed row is measured anew. The experiments in MEASUREMENTS
train nothing: they measure shipped weights.
"""

import copy
import json
import platform
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from helpers import UserError, data, metrics, plots, training
from helpers.ladder import FlatConfig, FlatFlow, LadderConfig, LadderRealNVP
from helpers.training import TrainConfig

# The budget of a comparison: each row sees these many training images once, in this order of magnitude a minute of two
# cores. Rows differ in parameters and seconds, which are therefore stated beside the result.
BUDGET = TrainConfig(epochs=1, learning_rate=1e-2, train_images=16_000, reports_per_epoch=4)
SAMPLES = 1_000  # of which legibility is measured
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a configuration, how to train it, on what."""

    config: LadderConfig | FlatConfig
    train: TrainConfig = BUDGET
    dataset: str = "mnist"
    measure: tuple[str, ...] = ("legibility",)  # besides bits/dim: legibility, pixels, or steps (the loss after so many)


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
    "static": (static, SEEDS),
    "flat": (flat, (0,)),
    "pairs": (pairs, (0,)),
}


# ----------------------------------------------------------------------------------------------- of shipped weights


def temperature(device) -> dict:
    """realnvp-mnist at temperatures 0 to 1.2: legibility, diversity and Fréchet distance of 2,000 samples each."""
    n, dataset = 2_000, data.load("mnist", device=device)
    model, _ = training.load_model("realnvp-mnist", device)
    judge = metrics.judge("mnist", device)

    def measured(images):
        return {
            "legibility": metrics.legibility(judge, images),
            "diversity": metrics.diversity(judge, images),
            "frechet_distance": metrics.frechet_distance(judge, images, dataset.test_images),
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
    model, _ = training.load_model("realnvp-conditional-mnist", device)
    found = metrics.classify(model, dataset.test_images, progress=True)
    table = torch.zeros(10, 10, dtype=torch.long)
    table.index_put_((dataset.test_labels.cpu(), found.cpu()), torch.tensor(1), accumulate=True)
    right = (found == dataset.test_labels).float().mean().item()
    return {"n": len(found), "accuracy": right, "confusion, a row a true class": table.tolist()}


MEASUREMENTS = {"temperature": temperature, "classify": classify}


# --------------------------------------------------------------------------------------------- training and measuring


def rows_of(name: str, only: str | None = None) -> dict[str, Row]:
    """The rows of an experiment, or the one of that label. UserError for names that there are not."""
    if name not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}: take one of {', '.join([*EXPERIMENTS, *MEASUREMENTS])}.")
    rows = EXPERIMENTS[name][0]()
    if only is not None and only not in rows:
        raise UserError(f"There is no row {only!r} in {name}: take one of {'; '.join(rows)}.")
    return {only: rows[only]} if only is not None else rows


def build(row: Row, seed: int = 0):
    """The untrained model of a row; its first weights depend on the seed alone."""
    torch.manual_seed(seed)
    return (FlatFlow if isinstance(row.config, FlatConfig) else LadderRealNVP)(row.config)


def run(name: str, only: str | None = None, seed: int | None = None) -> dict:
    """Train and measure what is missing of an experiment; return its record, {"what", "command", "rows": [...]}.

    only, seed: no more than the row of this label, the runs of this seed.
    """
    if name in MEASUREMENTS:
        return measure_shipped(name)
    rows = rows_of(name, only)
    seeds = EXPERIMENTS[name][1] if seed is None else (training.check_seed(seed),)
    path, device = training.RESULTS / f"{name}.json", training.pick_device()
    record = load(name) if path.exists() else {"what": EXPERIMENTS[name][0].__doc__.strip(), "rows": []}
    record["command"] = f"python -m helpers experiment {name}"
    record["rows"] = [done for done in record["rows"] if done["label"] in rows_of(name)]  # not those that no longer exist
    sets = {row.dataset: data.load(row.dataset, device=device) for row in rows.values()}
    for seed in seeds:
        for label, row in rows.items():
            row = replace(row, train=replace(row.train, seed=seed))
            identity = json.loads(json.dumps(asdict(row)))
            if any(done["label"] == label and done["row"] == identity for done in record["rows"]):
                continue
            print(f"== {name}: {label}, seed {seed}", flush=True)
            model, found = train_row(row, sets[row.dataset], device)
            result = {"label": label, "seed": seed, "row": identity, "parameters": training.count_parameters(model)} | found
            print(json.dumps({k: v for k, v in result.items() if k in ("seconds", "metrics")}), flush=True)
            if seed == SEEDS[0] and row.measure:
                keep_samples(name, label, model)
            record["rows"] = [done for done in record["rows"] if (done["label"], done["seed"]) != (label, seed)] + [result]
            training.write_json(path, record)
    return record


def measure_shipped(name: str) -> dict:
    device, started = training.pick_device(), time.perf_counter()
    record = {"what": MEASUREMENTS[name].__doc__, "command": f"python -m helpers experiment {name}"} | MEASUREMENTS[name](device)
    record |= {"device": training.device_name(device), "seconds": round(time.perf_counter() - started, 1)}
    training.write_json(training.RESULTS / f"{name}.json", record)
    return record


def train_row(row: Row, dataset, device):
    """Train a row and measure it on the whole test set; a loss that is not finite is a result too."""
    torch.compiler.reset()
    model = build(row, row.train.seed).to(device)
    where = {"device": training.device_name(device), "versions": {"python": platform.python_version(), "torch": torch.__version__}}
    started = time.perf_counter()
    try:
        record = training.fit(model, dataset, row.train, progress=False)
    except training.NonFiniteLoss as error:
        return model.eval(), where | {"seconds": round(time.perf_counter() - started, 1), "stopped": str(error), "metrics": {}}
    found = {key: record[key] for key in ("seconds", "compile_seconds", "compiled", "precision", "epochs")}
    return model.eval(), where | found | {"metrics": measure(row, model, dataset)}


def measure(row: Row, model, dataset) -> dict:
    """bits/dim on the test set in evaluation mode, where batch norm is involved in training mode, and what `row` asks."""
    judge = metrics.judge(dataset.name, dataset.test_images.device)
    labels = dataset.test_labels if model.config.classes else None
    found = {"n": len(dataset.test_images)} | metrics.bits_per_dim(model, dataset.test_images, labels)
    if model.config.classes:
        found["control_accuracy"] = metrics.control_accuracy(model, judge)
    if any("BatchNorm" in type(module).__name__ for module in model.modules()):
        by_batch = copy.deepcopy(model).train()  # the running statistics of the copy are moved, not those of the model
        found["bits_per_dim_training_mode"] = metrics.bits_per_dim(by_batch, dataset.test_images)["bits_per_dim"]
    if "legibility" in row.measure:
        for temperature in (0.8, 1.0):
            with training.aside(0):
                images = model.sample(SAMPLES, temperature, every_label(model, SAMPLES)).nan_to_num(0)
            parts = torch.cat(images.chunk(dataset.parts, dim=3))
            found[f"legibility_at_{temperature}"] = metrics.legibility(judge, parts)
    if "pixels" in row.measure:
        found |= pixels(model, dataset.test_images)
    return found


def every_label(model, n: int):
    """Labels (n,) of a conditional model, each in turn; None for one that takes none."""
    count = model.config.classes**model.config.parts
    return torch.arange(n, device=next(model.parameters()).device) * 37 % count if model.config.classes else None


EDGES = (-0.5, 1.5, 80)  # of the histogram of pixel values: lowest, highest, bins


def pixels(model, images, n: int = 500) -> dict:
    """Where the mass of the samples sits before they are clamped to [0, 1], and that of n real images beside it."""
    with training.aside(0):
        samples = model.flow.inverse(torch.randn(n, model.latent_dim, device=images.device))[0]
        real = model.dequantization(images[:n].float())[0]
    share = {"outside": ((samples < 0) | (samples > 1)).float().mean().item()}
    both = {"samples": samples.float().cpu(), "real": real.float().cpu()}
    counts = {name: torch.histc(values, EDGES[2], *EDGES[:2]) / values.numel() for name, values in both.items()}
    return share | {f"histogram_{name}": [round(v, 6) for v in values.tolist()] for name, values in counts.items()}


def keep_samples(name: str, label: str, model, n: int = 12) -> None:
    """The first n samples at temperatures 1 and 0.8 into results/NAME.png, a row of images for each label @ temperature."""
    path = training.RESULTS / f"{name}.png"
    kept = samples(name) if path.exists() else {}
    for temperature in (1.0, 0.8):
        with training.aside(0):
            images = model.sample(n, temperature, every_label(model, n)).nan_to_num(0)
        kept[f"{label} @ {temperature}"] = torch.from_numpy(plots.to_uint8(images))[..., 0]
    rows = torch.cat([images.transpose(0, 1).flatten(1) for images in kept.values()])
    labels = PngImagePlugin.PngInfo()
    labels.add_text("rows", json.dumps(list(kept)))
    training.write_atomically(path, lambda file: Image.fromarray(rows.numpy()).save(file, format="PNG", pnginfo=labels))


# ---------------------------------------------------------------------------------------------------------- reading


def load(name: str) -> dict:
    """The record of an experiment."""
    path = training.RESULTS / f"{name}.json"
    if not path.exists():
        raise UserError(f"There is no record {path.name}: make it with `python -m helpers experiment {name}`.")
    return json.loads(path.read_text())


def samples(name: str) -> dict[str, torch.Tensor]:
    """ "label @ temperature" -> recorded grey samples, uint8 (12, H, W)."""
    with Image.open(training.RESULTS / f"{name}.png") as picture:
        labels = json.loads(picture.text["rows"])
        pixels = torch.from_numpy(np.array(picture))
    return {label: row.unflatten(1, (12, -1)).transpose(0, 1) for label, row in zip(labels, pixels.chunk(len(labels)), strict=True)}


def summary(record: dict, keys: tuple[str, ...]) -> dict[str, dict]:
    """label -> mean and spread (half the range over the seeds) of the metrics named, parameters, seconds, seeds."""
    table = {}
    for label in dict.fromkeys(row["label"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["label"] == label]
        entry = {"seeds": len(rows), "parameters": rows[0]["parameters"], "seconds": sum(row["seconds"] for row in rows) / len(rows)}
        for key in keys:
            values = [row["metrics"][key] for row in rows if key in row["metrics"]]
            entry[key] = (sum(values) / len(values), (max(values) - min(values)) / 2) if len(values) == len(rows) else None
        table[label] = entry
    return table


def show(name: str, columns: dict[str, str]) -> None:
    """A table of a recorded experiment, a row a label; `columns`: heading -> metric, as mean ± half the range of the seeds."""
    record = load(name)
    rows = []
    for label, entry in summary(record, tuple(columns.values())).items():
        cells = ["-" if entry[key] is None else f"{entry[key][0]:.3f}" + f" ± {entry[key][1]:.3f}" * (entry["seeds"] > 1) for key in columns.values()]
        rows.append([label, *cells, f"{entry['parameters']:,}", f"{entry['seconds']:.0f}"])
    seeds = max(entry["seeds"] for entry in summary(record, ()).values())
    devices = " and ".join(sorted({row["device"] for row in record["rows"]}))
    caption = f"Recorded on {devices}, {seeds} seed{'s' * (seeds > 1)} a row. Remake it: {record['command']}"
    plots.table([name, *columns, "parameters", "seconds"], rows, caption)


def show_samples(name: str, temperature: float = 0.8):
    """A figure of the recorded samples of seed 0, a row a label."""
    strips = {label.split(" @ ")[0]: images[:, None] for label, images in samples(name).items() if label.endswith(f"@ {temperature}")}
    return plots.rows(strips, f"{name}: recorded samples of seed 0 at temperature {temperature}, unselected")
