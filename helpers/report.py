"""REPORT.md, out of its text (report.md, a Jinja template) and the records in results/ and weights/: `make report`.

Whatever is a number of ours in the report is a call in the text: `w` of shipped weights, `x` of an experiment, `table` and
`models` for whole tables. A number that has no record is an error, not a blank.
"""

import inspect
import json
from pathlib import Path

import jinja2

from helpers import UserError, data, experiments, speedrun, weights
from helpers.measures.disentanglement import CARRIES, gap_ceiling
from helpers.models.matching import FlowMatching
from helpers.recipes import RECIPES
from helpers.training import write_atomically

TEXT = Path(__file__).with_name("report.md")
REPORT = weights.ROOT / "REPORT.md"


def number(value, digits: int = 2) -> str:
    return f"{round(value, digits) + 0.0:,.{digits}f}" if isinstance(value, float) else f"{value:,}"  # + 0.0: no minus before zero


def w(name: str, key: str, digits: int = 2) -> str:
    """A metric of shipped weights, or their `seconds`, `parameters` or `device`. UserError where it was not measured."""
    entry = weights.shipped().get(name, {})
    found = entry.get("metrics", {}).get(key, entry.get(key))
    if found is None:
        raise UserError(f"The report names {key} of {name}, which has no record: `python -m helpers evaluate {name} --record`.")
    return found if isinstance(found, str) else number(found, digits)


def percent(name: str, key: str, digits: int = 1) -> str:
    return f"{100 * weights.shipped()[name]['metrics'][key]:.{digits}f} %"


def minutes(name: str) -> str:
    seconds = weights.shipped()[name]["seconds"]
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def minutes_of(name: str) -> str:
    """Of the last training of shipped weights, without what they started from."""
    return f"{weights.record(name)['seconds'] / 60:.0f} minutes"


def quick(model: str) -> str:
    """What the quick profile of a VAE reaches on MNIST: "98.9 in 1.3 minutes"."""
    record = weights.record(f"{model}-mnist-quick")
    return f"{number(record['metrics']['neg_elbo'], 1)} in {record['seconds'] / 60:.1f} minutes"


def ratio(name: str, key: str, other: str, other_key: str | None = None, digits: int = 1) -> str:
    found = weights.shipped()
    return f"{found[name]['metrics'][key] / found[other]['metrics'][other_key or key]:.{digits}f}"


def cell(entry, key: str, digits: int) -> str:
    if entry.get(key) is None:
        return "–"
    mean, spread = entry[key]
    return f"{mean:,.{digits}f}" + f" ± {spread:.{digits}f}" * (entry["seeds"] > 1)


def x(name: str, label: str, key: str, digits: int = 2) -> str:
    """Mean ± half the range over the seeds of a metric of one row of an experiment."""
    table = experiments.summary(experiments.load(name), (key,))
    if label not in table or table[label][key] is None:
        raise UserError(f"The report names {key} of {label!r} in {name}, which has no record: `python -m helpers experiment {name}`.")
    return cell(table[label], key, digits)


def change(name: str, before: str, after: str, key: str, digits: int = 1) -> str:
    """Mean and range, over the seeds, of what a metric gains from one row of an experiment to another."""
    values = {(row["label"], row["seed"]): row["metrics"][key] for row in experiments.load(name)["rows"] if row["label"] in (before, after)}
    gains = [values[after, seed] - found for (label, seed), found in values.items() if label == before]
    return f"{sum(gains) / len(gains):+.{digits}f} ({min(gains):+.{digits}f} to {max(gains):+.{digits}f})"


def lowest(name: str, label: str, epochs: int, digits: int = 1) -> str:
    """The lowest loss of the discriminator in any step of the last epochs of any seed of a row."""
    runs = [row["epochs"][-epochs:] for row in experiments.load(name)["rows"] if row["label"] == label]
    return f"{min(epoch['lowest_discriminator_loss'] for run in runs for epoch in run):.{digits}f}"


def each(name: str, label: str, key: str, digits: int = 2) -> str:
    """A metric of a row in each of its seeds: "1, 0 and 0"."""
    found = [number(row["metrics"][key], digits) for row in experiments.load(name)["rows"] if row["label"] == label]
    return f"{', '.join(found[:-1])} and {found[-1]}"


def shared(name: str, quantity: str, but: str) -> str:
    """In how many runs, of the rows but one, a second latent that carries something explains more than half as much as the first: "4 of 18"."""
    runs = []
    for metrics in (row["metrics"] for row in experiments.load(name)["rows"] if row["label"] != but):
        shares = zip(metrics["explained"][quantity], metrics["kl_of_latents"], strict=True)
        runs.append(sorted((share for share, nats in shares if nats > CARRIES), reverse=True))
    return f"{sum(len(run) > 1 and run[1] > run[0] / 2 for run in runs)} of {len(runs)}"


def measured(name: str, where: dict, key: str, digits: int = 2) -> str:
    """A number of the row of a measurement of shipped weights in which `where` holds."""
    rows = [row for row in experiments.load(name)["rows"] if where.items() <= row.items()]
    return number(float(rows[0][key]), digits)


def sources(name: str, kind: str) -> str:
    """The record `priors` or `texts` as a table: a row a decoder, a column where its codes or words come from."""
    found = experiments.load(name)["rows"]
    kinds, names = (list(dict.fromkeys(row[key] for row in found)) for key in (kind, "weights"))
    cells = {(row["weights"], row[kind]): f"{row['frechet_distance']:.2f} ({100 * row['legibility']:.0f} %)" for row in found}
    return rows(["Fréchet distance (legible)", *kinds], [[f"`{name}`", *(cells[name, kind] for kind in kinds)] for name in names])


def mean_and_range(values: list[float], digits: int = 1) -> str:
    return f"{sum(values) / len(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def frozen(trained_with: str) -> str:
    """How much better the bound of a frozen decoder is with a fresh encoder of eight couplings than with a fresh Gaussian."""
    found = {
        (row["encoder"], row["seed"]): row["neg_elbo"] for row in experiments.load("frozen")["rows"] if row["decoder trained with"] == trained_with
    }
    return mean_and_range([value - found["fresh, eight couplings", seed] for (encoder, seed), value in found.items() if encoder == "fresh, no flow"])


def lost(encoder: str, epochs: int | None = None, of: str = "mean") -> str:
    """What an encoder of `amortisation` loses in the mean, or the median, of the images."""
    rows = experiments.load("amortisation")["rows"]
    return mean_and_range([row[of] for row in rows if (row["encoder"], row.get("epochs")) == (encoder, epochs)], 2)


def sampled_on() -> str:
    """Where the samples a second were measured, the models of all devices but the most frequent one named."""
    names = {}
    for name, entry in weights.shipped().items():
        if "sampled_on" in entry["metrics"]:
            names.setdefault(entry["metrics"]["sampled_on"], []).append(f"`{name}`")
    usual, *others = sorted(names, key=lambda device: -len(names[device]))
    return usual + "".join(f" (of {', '.join(names[device])}: {device})" for device in others)


def trained_on_gpu() -> str:
    """The names of the shipped weights whose training, or its first part, was on NVIDIA's."""
    *first, last = (f"`{name}`" for name, entry in weights.shipped().items() if entry["device"].startswith("NVIDIA"))
    return f"{', '.join(first)} and {last}"


def half(metric: str, digits: int) -> str:
    """By how much a metric of any shipped weights changed at most when they were stored in half precision."""
    found = [abs(row["float16"] - row["float32"]) for row in experiments.load("half-precision")["rows"] if row["metric"] == metric]
    return f"{max(found):.{digits}f}"


def ceiling() -> float:
    """How far the mutual information gap of the sprites can go."""
    return gap_ceiling(data.load("sprites").test_factors)


def rows(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ["---"] * len(header), *lines))


def table(name: str, columns: dict[str, str], digits: int = 2, only: str = "", keep: tuple[str, ...] = ()) -> str:
    """An experiment as a table: `columns` heading -> metric; `only`: the rows whose label begins so, without that beginning; `keep`: of
    these the ones named, the note saying how many there are."""
    record, lines = experiments.load(name), []
    found = {label: entry for label, entry in experiments.summary(record, tuple(columns.values())).items() if label.startswith(only)}
    for label in keep or found:
        cells = [cell(found[label], key, digits) for key in columns.values()]
        lines.append(
            [label.removeprefix(only), *cells, str(found[label]["seeds"]), f"{found[label]['parameters']:,}", f"{found[label]['seconds']:.0f}"]
        )
    shown = [row for row in record["rows"] if row["label"] in (keep or found)]
    names, devices = (sorted(set(found)) for found in ((row["row"]["dataset"] for row in shown), (row["device"] for row in shown)))
    where = f"{', '.join(names)}: on the {experiments.splits({'rows': shown})} images; mean ± half the range of the seeds, on {' and '.join(devices)}"
    of = f"; {len(keep)} of its {len(found)} rows, the others in the notebook" if keep else ""
    return rows(["", *columns, "seeds", "parameters", "seconds"], lines) + f"\n\n`python -m helpers experiment {name}`, {where}{of}."


COLUMNS = {  # heading -> metric and digits, in the table of all models
    "Fréchet": ("frechet_distance", 2),
    "kernel": ("kernel_distance", 3),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "classes": ("classes_covered", 0),
    "control": ("control_accuracy", 3),
}


def likelihood(name: str, metrics, recipe) -> str:
    """What a model says of the probability of a test image, in the unit of its family."""
    if "bits_per_dim" in metrics:
        return f"≤ {metrics['bits_per_dim']:.3f} bits/dim" + ", given the label" * recipe.labelled
    if "nll" in metrics:
        return f"≤ {metrics['nll']:.2f} nats, binary ({metrics['importance_samples']:,} samples)"
    if "neg_elbo" in metrics:
        return f"≤ {metrics['neg_elbo']:.2f} nats, binary (ELBO)"
    solved = experiments.load("ode-likelihood")
    bits = [row["bits_per_dim"] for row in solved["rows"] if row["weights"] == name]  # the most steps are last
    if bits:
        return f"≤ {bits[-1]:.2f} bits/dim, by its equation ({solved['n']} images)"
    return "not measured" if recipe.kind is FlowMatching else "none"


def models(dataset: str) -> str:
    """Every shipped generative model of a data set but the β-VAEs, nearest to real images first, and real training images as the last row."""
    lines, floor = [], None
    entries = {name: entry for name, entry in weights.shipped().items() if entry["dataset"] == dataset and not name.startswith("betavae-")}
    entries = {name: entry for name, entry in entries.items() if "samples_per_second" in entry["metrics"]}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["metrics"]["frechet_distance"]):
        found = entry["metrics"]
        values = [number(found[key], digits) if key in found else "–" for key, digits in COLUMNS.values()]
        cost = [f"{entry['parameters']:,}", f"{entry['seconds'] / 60:.1f} min, {entry['device']}", f"{found['samples_per_second']:,.0f}"]
        lines.append([f"`{name}`", likelihood(name, found, RECIPES[entry["model"]]), *values, *cost])
        floor = found if "kernel_floor" in found else floor
    if floor:
        values = [number(floor[key], digits) for key, digits in (("kernel_floor", 3), ("precision_of_real", 2), ("recall_of_real", 2))]
        distance = f"{number(floor['frechet_floor'])} ({number(floor['frechet_floor_low'], 3)} to {number(floor['frechet_floor_high'], 3)})"
        lines.append(["real training images", "", distance, *values, *[""] * 5])
    return rows(["", "likelihood", *COLUMNS, "parameters", "training", "samples/s"], lines)


def against_the_clock() -> str:
    """The goals of the speedrun: what each seed reached, in which time; a goal that no recipe has met has no record and says so."""
    met, lines = json.loads((weights.RESULTS / "speedrun.json").read_text())["goals"], []
    for name, goal in speedrun.GOALS.items():
        runs = met[name]["runs"] if name in met else []
        reached = ", ".join(number(run["value"], 2 if run["value"] >= 10 else 3) for run in runs) or "no recipe has met it yet"
        size = f"{runs[0]['parameters']:,}" if runs else "–"
        lines.append([name, f"`{goal.model}`", size, f"{goal.minutes:g}", reached, ", ".join(f"{run['seconds']:.0f}" for run in runs) or "–"])
    devices = " and ".join(sorted({run["device"] for goal in met.values() for run in goal["runs"]}))
    header = ["goal", "model", "parameters", "minutes given", "reached, by seed", "seconds taken"]
    return rows(header, lines) + f"\n\n`make speedrun`, on {devices}; on all test images, once, at the end."


def render() -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    names = {name: function for name, function in globals().items() if inspect.isfunction(function) and function.__module__ == __name__}
    bench = json.loads((weights.RESULTS / "bench.json").read_text())
    values = {"shipped": weights.shipped(), "bench": bench, "load": experiments.load, "record": weights.record}
    return environment.from_string(TEXT.read_text(encoding="utf-8")).render(names | values)


def write() -> None:
    write_atomically(REPORT, lambda file: file.write(render().encode()))
