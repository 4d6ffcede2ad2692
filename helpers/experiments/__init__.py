"""The recorded experiments: what the notebooks compare with what, under which budget, and what is measured.

The rows of notebook 01 are in flows.py, those of 02 in autoencoders.py, of 03 in latents.py, of 04 in gans.py, of 05 in matching.py,
of 06 in autoregressive.py.

`python -m helpers experiment NAME` trains every row with every seed and writes results/NAME.json, and where samples are
looked at, the first of seed 0 into results/NAME.png. A row that is already there under the same configuration is not
trained again, so a run that was cut off goes on, and a changed row is measured anew. What is compared is measured on the
validation images, since a comparison is a choice; each row says so. The experiments in MEASUREMENTS measure
shipped weights, or train in more than one stage; on the images that their records name.
"""

import copy
import json
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from helpers import UserError, data, measures, take, training, weights
from helpers.experiments import autoencoders, autoregressive, flows, gans, latents, matching
from helpers.experiments.row import SEEDS, Row
from helpers.models.layers import levels
from helpers.models.model import Model
from helpers.recipes import check_seed
from helpers.runs import Run
from helpers.show import plots

NOTEBOOKS = (flows, autoencoders, latents, gans, matching, autoregressive)
EXPERIMENTS = {name: found for notebook in NOTEBOOKS for name, found in notebook.EXPERIMENTS.items()}
MEASUREMENTS = {name: found for notebook in NOTEBOOKS for name, found in notebook.MEASUREMENTS.items()}
SPLIT = "validation"  # of the images that rows are measured on
ASKED = {"samples": "pictures", "names": "attributes", "factors": "factors"}  # what of a model's measures only some rows ask for, and how
PICTURED = {"legibility", "pixels", "pictures"}  # what is measured of samples: they are kept
SAMPLES = 1_000  # of which legibility is measured


# --------------------------------------------------------------------------------------------- training and measuring


def rows_of(name: str, only: str | None = None) -> dict[str, Row]:
    """The rows of an experiment, or the one of that label. UserError for names that there are not."""
    if name not in EXPERIMENTS:
        raise UserError(f"There is no experiment {name!r}: {take(name, [*EXPERIMENTS, *MEASUREMENTS])}.")
    rows = EXPERIMENTS[name][0]()
    if only is not None and only not in rows:
        raise UserError(f"There is no row {only!r} in {name}: {take(only, rows, '; ')}.")
    return {only: rows[only]} if only is not None else rows


def build(row: Row, seed: int = 0):
    """The untrained model of a row; its first weights depend on the seed alone."""
    torch.manual_seed(seed)
    return Model.of[type(row.config)](row.config)


def run(name: str, only: str | None = None, seed: int | None = None) -> dict:
    """Train and measure what is missing of an experiment; return its record, {"what", "command", "rows": [...]}.

    only, seed: no more than the row of this label, the runs of this seed.
    """
    if name in MEASUREMENTS:
        return measure_shipped(name)
    rows = rows_of(name, only)
    seeds = EXPERIMENTS[name][1] if seed is None else (check_seed(seed),)
    path, device = weights.RESULTS / f"{name}.json", training.pick_device()
    record = load(name) if path.exists() else {"rows": []}
    record |= {"what": EXPERIMENTS[name][0].__doc__.strip(), "command": f"python -m helpers experiment {name}"}
    record["rows"] = [done for done in record["rows"] if done["label"] in rows_of(name)]  # not those that no longer exist
    sets = {row.dataset: data.load(row.dataset, device=device) for row in rows.values()}
    for seed in seeds:
        for label, row in rows.items():
            row = replace(row, train=replace(row.train, seed=seed))
            identity = plain(row)
            same = [done for done in record["rows"] if (done["label"], known(done, row)) == (label, identity)]
            if any(done["metrics"].get("split", SPLIT) == SPLIT for done in same):
                continue
            print(f"== {name}: {label}, seed {seed}", flush=True)
            kept = Path("runs") / name / label.replace(": ", "-").replace(" ", "-") if seed == SEEDS[0] and "weights" in row.measure else None
            model, found = train_row(row, sets[row.dataset], device, kept, record["command"])
            result = {"label": label, "seed": seed, "row": identity, "parameters": training.count_parameters(model)} | found
            print(json.dumps({k: v for k, v in result.items() if k in ("seconds", "metrics")}), flush=True)
            if seed == SEEDS[0] and PICTURED & set(row.measure):
                keep_pictures(name, label, model, sets[row.dataset])
            rows_ = load(name)["rows"] if path.exists() else []  # another process may have added some meanwhile
            record["rows"] = [done for done in rows_ if done["label"] in rows_of(name) and (done["label"], done["seed"]) != (label, seed)] + [result]
            record["rows"].sort(key=lambda done: (done["seed"], list(rows_of(name)).index(done["label"])))  # whenever each was run
            training.write_json(path, record)
    return record


def plain(row) -> dict:
    """A dataclass as JSON gives it back."""
    return json.loads(json.dumps(asdict(row)))


def known(done: dict, row: Row) -> dict:
    """What a record says of its row: settings that came after it at their defaults, without those that went because nothing read them; a
    precision left to the machine as the one that ran."""
    found = {"start": None} | done["row"]
    for part in ("config", "train"):
        today = plain(type(getattr(row, part))())
        found[part] = today | {name: value for name, value in done["row"][part].items() if name in today}
    if row.train.precision != "auto" and found["train"]["precision"] == "auto":
        found["train"]["precision"] = done["precision"]
    return found


def measure_shipped(name: str) -> dict:
    device, started = training.pick_device(), time.perf_counter()
    record = {"what": MEASUREMENTS[name].__doc__, "command": f"python -m helpers experiment {name}"} | MEASUREMENTS[name](device)
    record |= {"device": training.device_name(device), "seconds": round(time.perf_counter() - started, 1)}
    training.write_json(weights.RESULTS / f"{name}.json", record)
    return record


def train_row(row: Row, dataset, device, folder=None, command: str | None = None):
    """Train a row and measure it on the validation images; a loss that is not finite is a result too. folder: where its weights are to be."""
    torch.compiler.reset()
    model = build(row, row.train.seed).to(device)
    start = weights.start_from(model, row.start) if row.start else None
    run = Run(model, dataset, row.train, start=start, folder=folder, command=command)
    where = {"device": training.device_name(device), "versions": {"python": platform.python_version(), "torch": torch.__version__}}
    started = time.perf_counter()
    game = len(model.players()) > 1  # only what is played can collapse
    watch = measures.CollapseWatch(measures.judge(dataset), dataset.part(SPLIT)[0]) if game else None
    try:
        record = run.train(progress=False, on_report=watch)
    except training.NonFiniteLoss as error:
        return model.eval(), where | {"seconds": round(time.perf_counter() - started, 1), "stopped": str(error), "metrics": {}}
    found = {key: record[key] for key in ("seconds", "compile_seconds", "compiled", "precision", "epochs", "alarms") if key in record}
    if watch:
        found["variety"] = [{key: round(value, 4) for key, value in row.items()} for row in watch.rows]
    found["metrics"] = measure(row, model, dataset)
    run.measured({key: value for key, value in found["metrics"].items() if not isinstance(value, list | dict)})
    return model, where | found


def measure(row: Row, model, dataset) -> dict:
    """What the model measures of itself and what `row` asks for, on the validation images."""
    images, _ = dataset.part(SPLIT)
    asked = [name for name in model.measures if name not in ASKED or ASKED[name] in row.measure]
    found = measures.evaluate(model, dataset, SPLIT, only=asked, floor=False)  # the floor is the same for every row
    if any("BatchNorm" in type(module).__name__ for module in model.modules()) and "bits" in asked:
        by_batch = copy.deepcopy(model).train()  # the running statistics of the copy are moved, not those of the model
        found["bits_per_dim_training_mode"] = measures.bits_per_dim(by_batch, images)["bits_per_dim"]
    if "names" in model.measures:  # the KL of single latents is known
        use = measures.latent_use(model, images)["kl"]
        found["kl_of_latents"] = [round(nats, 4) for nats in use.sort(descending=True).values.tolist()]
    if "attributes" in row.measure:
        found["explained"] = measures.named_latents(model, images)[1]  # each latent in the order of kl_of_latents
    if "nll" in row.measure:
        found |= likelihood_of_some(model, images)
    if "legibility" in row.measure:
        for temperature in (0.8, 1.0):
            with training.aside(0):
                drawn = model.sample(SAMPLES, temperature, measures.in_turn(model, SAMPLES)).nan_to_num(0)
            parts = torch.cat(drawn.chunk(dataset.parts, dim=3))
            found[f"legibility_at_{temperature}"] = measures.legibility(measures.predict(measures.judge(dataset), parts))
    if "pixels" in row.measure:
        found |= pixels(model, images)
    return found


NLL = {"samples": 5_000, "images": 250}  # importance samples, and of how many images: all of them would take a processor hours


def likelihood_of_some(model, images) -> dict:
    """NLL by importance sampling of some images, the same binary copies for every row, and the ELBO of these."""
    with training.aside(0):
        some = model.observed(images[:: max(1, len(images) // NLL["images"])][: NLL["images"]])
    half = measures.nll(model, some, NLL["samples"] // 2)["nll"]  # whether as many are enough
    found = measures.nll(model, some, NLL["samples"]) | {"nll_images": len(some), "nll_of_half_the_samples": half}
    return found | {"neg_elbo_of_nll_images": measures.elbo(model, some.repeat(20, 1, 1, 1))["neg_elbo"]}


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


def keep_pictures(name: str, label: str, model, dataset, n: int = 12) -> None:
    """A row of images for each label into results/NAME.png: the first n samples at temperatures 1 and 0.8, or of an autoencoder
    the first n validation images as it rebuilds them. All of one size, grey or all in colour."""
    path = weights.RESULTS / f"{name}.png"
    kept = pictures(name) if path.exists() else {}
    for kind in ("rebuilt",) if "reconstruction" in model.measures else (1.0, 0.8):
        with training.aside(0):  # the same latents at both temperatures
            images = (
                model.decode(model.encode(dataset.part(SPLIT)[0][:n])) if kind == "rebuilt" else model.sample(n, kind, measures.in_turn(model, n))
            )
        kept[f"{label} @ {kind}"] = levels(images.nan_to_num(0)).cpu().permute(0, 2, 3, 1)
    order = {row: i for i, row in enumerate(rows_of(name))}  # whenever each was run, and without rows that no longer exist
    kept = {key: kept[key] for key in sorted(kept, key=lambda key: order.get(key.split(" @ ")[0], -1)) if key.split(" @ ")[0] in order}
    rows = torch.cat([images.transpose(0, 1).flatten(1, 2) for images in kept.values()]).squeeze(-1)
    labels = PngImagePlugin.PngInfo()
    labels.add_text("rows", json.dumps(list(kept)))
    training.write_atomically(path, lambda file: Image.fromarray(rows.numpy()).save(file, format="PNG", pnginfo=labels))


# ---------------------------------------------------------------------------------------------------------- reading


def load(name: str) -> dict:
    """The record of an experiment."""
    path = weights.RESULTS / f"{name}.json"
    if not path.exists():
        raise UserError(f"There is no record {path.name}: make it with `python -m helpers experiment {name}`.")
    return json.loads(path.read_text())


def pictures(name: str) -> dict[str, torch.Tensor]:
    """ "label @ temperature" -> recorded images, uint8 (12, H, W, C)."""
    with Image.open(weights.RESULTS / f"{name}.png") as picture:
        labels = json.loads(picture.text["rows"])
        pixels = torch.from_numpy(np.array(picture))
    pixels = pixels.view(*pixels.shape[:2], -1)
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


def splits(record: dict) -> str:
    """On which images the rows were measured; where they differ, of which data sets those and those."""
    found = {}
    for row in record["rows"]:
        if "split" in row["metrics"]:
            found.setdefault(row["metrics"]["split"], set()).add(row["row"]["dataset"])
    if len(found) == 1:
        return next(iter(found))
    return " and ".join(f"{split} ({', '.join(sorted(found[split]))})" for split in sorted(found))


def show(name: str, columns: dict[str, str], digits: int = 3) -> None:
    """A table of a recorded experiment, a row a label; `columns`: heading -> metric, as mean ± half the range of the seeds."""
    record, rows = load(name), []

    def text(entry, key):
        mean, spread = entry[key]
        return f"{mean:.{digits}f}" + f" ± {spread:.{digits}f}" * (entry["seeds"] > 1)

    for label, entry in summary(record, tuple(columns.values())).items():
        cells = ["-" if entry[key] is None else text(entry, key) for key in columns.values()]
        rows.append([label, *cells, f"{entry['parameters']:,}", f"{entry['seconds']:.0f}"])
    seeds = max(entry["seeds"] for entry in summary(record, ()).values())
    devices = " and ".join(sorted({row["device"] for row in record["rows"]}))
    caption = f"Measured on the {splits(record)} images, recorded on {devices}, {seeds} seed{'s' * (seeds > 1)} a row. Remake it: {record['command']}"
    plots.table([name, *columns, "parameters", "seconds"], rows, caption)


def effects(names: tuple[str, ...], changes: dict[str, tuple[str, str]], metric: str = "bits_per_dim", unit: str = "bits/dim") -> None:
    """A table of what single changes did, seed by seed: `changes`, what was changed -> (row before, row after) of the records `names`."""
    rows, values = [], {}
    for name in names:
        values |= {(row["label"], row["seed"]): row["metrics"][metric] for row in load(name)["rows"] if metric in row["metrics"]}
    for what, (before, after) in changes.items():
        both = [(value, values[after, seed]) for (label, seed), value in values.items() if label == before and (after, seed) in values]
        change = [new - old for old, new in both]
        verdict = "better" if max(change) < 0 else "worse" if min(change) > 0 else "undecided"
        means = [f"{sum(side) / len(both):.3f}" for side in zip(*both, strict=True)]
        rows.append([what, *means, f"{sum(change) / len(change):+.3f} ({min(change):+.3f} to {max(change):+.3f})", verdict])
    header = ["what was changed", "before", "after", "change: mean (from, to)", "with every seed"]
    on = " and ".join(sorted({splits(load(name)) for name in names}))
    plots.table(header, rows, f"{unit} of the {on} images, lower is better; from the records {' and '.join(names)}")


def show_pictures(name: str, kind: float | str = 0.8):
    """A figure of the recorded images of seed 0, a row a label: samples at temperature 0.8 or 1.0, or images "rebuilt"."""
    strips = {label.split(" @ ")[0]: images.permute(0, 3, 1, 2) for label, images in pictures(name).items() if label.endswith(f"@ {kind}")}
    what = f"{splits(load(name))} images, rebuilt" if kind == "rebuilt" else f"recorded samples of seed 0 at temperature {kind}, unselected"
    return plots.rows(strips, f"{name}: {what}")
