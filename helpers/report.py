"""REPORT.md and the lab book, results/README.md, out of their texts (report.md, labbook.md: Jinja templates) and the records in
results/ and weights/: `make report`.

Whatever is a number of ours in the report is a call in the text: `w` of shipped weights, `x` of an experiment, `table` and
`models` for whole tables. A number that has no record is an error, not a blank.
"""

import inspect
import json
import math
from pathlib import Path

import jinja2
import matplotlib.pyplot as plt

from helpers import UserError, data, experiments, speedrun, weights
from helpers.address import badge, carry
from helpers.measures import metric
from helpers.measures.disentanglement import CARRIES, gap_ceiling
from helpers.models.matching import FlowMatching
from helpers.recipes import RECIPES
from helpers.show import plots
from helpers.training import write_atomically

PAGES = {  # what is written -> the text it is made of
    weights.ROOT / "README.md": Path(__file__).with_name("frontpage.md"),
    weights.ROOT / "REPORT.md": Path(__file__).with_name("report.md"),
    weights.RESULTS / "README.md": Path(__file__).with_name("labbook.md"),
}


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
    return signed([values[after, seed] - found for (label, seed), found in values.items() if label == before], digits)


def signed(gains: list[float], digits: int) -> str:
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


def table(name: str, columns: dict[str, str], digits: int = 2) -> str:
    """An experiment as a table: `columns` heading -> metric."""
    lines = []
    for label, entry in experiments.summary(experiments.load(name), tuple(columns.values())).items():
        cells = [cell(entry, key, digits) for key in columns.values()]
        lines.append([label, *cells, f"{entry['parameters']:,}", f"{entry['seconds']:.0f}"])
    return rows(["", *columns, "parameters", "seconds"], lines) + provenance(name)


# the metrics in the table of all models
COLUMNS = ("frechet_distance", "kernel_distance", "precision", "recall", "classes_covered", "control_accuracy")


def likelihood(name: str, metrics, recipe) -> str:
    """What a model says of the probability of a test image, in the unit of its family: a bound, or exactly."""
    if "bits_per_dim" in metrics:
        return "≤ " * (not recipe.kind.exact) + f"{metrics['bits_per_dim']:.3f} bits/dim" + ", given the label" * recipe.labelled
    if "nll" in metrics and recipe.kind.exact:
        return f"{metrics['nll']:.2f} nats, binary"
    if "nll" in metrics:
        return f"≤ {metrics['nll']:.2f} nats, binary ({metrics['importance_samples']:,} samples)"
    if "neg_elbo" in metrics:
        return f"≤ {metrics['neg_elbo']:.2f} nats, binary (ELBO)"
    solved = experiments.load("ode-likelihood")
    bits = [row["bits_per_dim"] for row in solved["rows"] if row["weights"] == name]  # the most steps are last
    if bits:
        return f"≤ {bits[-1]:.2f} bits/dim, by its equation ({solved['n']} images)"
    return "not measured" if issubclass(recipe.kind, FlowMatching) else "none"


def models(dataset: str) -> str:
    """Every shipped generative model of a data set but the β-VAEs, nearest to real images first, and real training images as the last row."""
    lines, floor = [], None
    entries = {name: entry for name, entry in weights.shipped().items() if entry["dataset"] == dataset and not name.startswith("betavae-")}
    entries = {name: entry for name, entry in entries.items() if "samples_per_second" in entry["metrics"]}
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["metrics"]["frechet_distance"]):
        found = entry["metrics"]
        values = [number(found[key], digits) if key in found else "–" for key, digits in ((key, metric(key).digits) for key in COLUMNS)]
        cost = [f"{entry['parameters']:,}", f"{entry['seconds'] / 60:.1f} min, {entry['device']}", f"{found['samples_per_second']:,.0f}"]
        lines.append([f"`{name}`", likelihood(name, found, RECIPES[entry["model"]]), *values, *cost])
        floor = found if "kernel_floor" in found else floor
    if floor:
        values = [number(floor[key], digits) for key, digits in (("kernel_floor", 3), ("precision_of_real", 2), ("recall_of_real", 2))]
        distance = f"{number(floor['frechet_floor'])} ({number(floor['frechet_floor_low'], 3)} to {number(floor['frechet_floor_high'], 3)})"
        lines.append(["real training images", "", distance, *values, *[""] * 5])
    return rows(["", "likelihood", *(metric(key).heading for key in COLUMNS), "parameters", "training", "samples/s"], lines)


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


# -------------------------------------------------------------------------------------------------- of the lab book


def contents(names: list[str]) -> str:
    return " · ".join(f"[{name}](#{name})" for name in names)


def seeded(name: str, metric: str) -> dict[str, dict[int, float]]:
    """label -> seed -> a metric of an experiment."""
    found = {}
    for row in experiments.load(name)["rows"]:
        if metric in row["metrics"]:
            found.setdefault(row["label"], {})[row["seed"]] = row["metrics"][metric]
    return found


def compared(name: str, base: str, metric: str, heading: str, digits: int, more: dict[str, tuple[str, int]], only: str = "") -> str:
    """An experiment as a table: each row beside row `base`, seed by seed, of a metric of which less is better; `more`: heading -> other metrics;
    only: the rows whose label begins so, without that beginning."""
    record, values, lines = experiments.load(name), seeded(name, metric), []
    table_ = experiments.summary(record, (metric, *(key for key, _ in more.values())))
    for label, entry in ((label, entry) for label, entry in table_.items() if label.startswith(only)):
        gains = [value - values[base][seed] for seed, value in values[label].items()]
        verdict = "better" if max(gains) < 0 else "worse" if min(gains) > 0 else "undecided"
        change_, said = (signed(gains, digits), verdict) if label != base else ("", "")
        others_ = [cell(entry, key, places) for key, places in more.values()]
        lines.append(
            [label.removeprefix(only), cell(entry, metric, digits), change_, said, *others_, f"{entry['parameters']:,}", f"{entry['seconds']:.0f}"]
        )
    header = ["", heading, f"change from *{base.removeprefix(only)}*", "with every seed", *more, "parameters", "seconds"]
    return rows(header, lines) + provenance(name, only)


def provenance(name: str, only: str = "") -> str:
    """The line under a table: command, images, seeds, device, precision; only: of the rows whose label begins so."""
    record = experiments.load(name)
    if only:
        record = record | {"rows": [row for row in record["rows"] if row["label"].startswith(only)]}
    if "row" not in record.get("rows", [{}])[0]:  # a measurement of shipped weights
        images = f"{record.get('n') or record.get('samples') or record['images']:,} {record.get('split', 'test')} images"
        return f"\n\n`{record['command']}`: {images}; on {record['device']}."

    def each(find):
        return " and ".join(sorted({find(row) for row in record["rows"]}))

    seeds = len({row["seed"] for row in record["rows"]})
    images, where = each(lambda row: row["row"]["dataset"]), each(lambda row: f"{row['device']}, {row.get('precision', 'float32')}")
    return f"\n\n`{record['command']}`: {images}, {experiments.splits(record)} images; {seeds} seed{'s' * (seeds > 1)}; on {where}."


def worse_with(name: str, base: str, metric: str, seed: int) -> int:
    """How many rows are worse than row `base` by one seed alone."""
    values = seeded(name, metric)
    return sum(found[seed] > values[base][seed] for label, found in values.items() if label != base)


def factors(name: str, changes: dict[str, tuple[str, str]], metric: str = "bits_per_dim") -> str:
    """What one factor alone changes, over all pairs of rows whose labels differ in it: what is said of it -> (before, after) in the label."""
    values, lines = {label: next(iter(found.values())) for label, found in seeded(name, metric).items()}, []
    for what, (before, after) in changes.items():
        found = [values[other] - value for label, value in values.items() if before in label and (other := label.replace(before, after)) in values]
        lines.append([what, str(len(found)), signed(found, 2)])
    return rows(["change of one factor alone", "pairs", "change of bits/dim: mean (from, to)"], lines) + provenance(name)


def listing(name: str, columns: dict[str, tuple[str, int]], **where) -> str:
    """A measurement of shipped weights as a table: `columns`, heading -> key and digits; `where`: only rows in which it holds."""
    found = [row for row in experiments.load(name)["rows"] if where.items() <= row.items()]

    def text(value, digits):
        return "–" if value is None else number(value, digits) if isinstance(value, float | int) else value

    lines = [[text(row.get(key), digits) for key, digits in columns.values()] for row in found]
    return rows(list(columns), lines) + provenance(name)


def losses(name: str, only: str) -> str:
    """How the games of an experiment ended: both losses of the last epoch by seed, and in how many seeds D won."""
    record, lines = [row for row in experiments.load(name)["rows"] if row["label"].startswith(only)], []
    for label in dict.fromkeys(row["label"] for row in record):
        seeds = [row for row in record if row["label"] == label]
        ends = [row["epochs"][-1] for row in seeds]
        both = ", ".join(f"{end['train_discriminator_loss']:.2f} / {end['train_generator_loss']:.2f}" for end in ends)
        lines.append([label.removeprefix(only), both, str(sum("alarms" in row for row in seeds))])
    return rows(["", "last epoch, by seed: D's loss / G's loss", "seeds in which D won"], lines)


def runs(names: list[str], columns: dict[str, tuple[str, int]]) -> str:
    """Single trainings as a table: `columns`, heading -> a metric or a setting of the model, and digits."""
    lines = []
    for name in names:
        entry = weights.record(name)
        found = entry["model_config"] | entry["metrics"]
        cells = ["–" if found.get(key) is None else number(found[key], digits) for key, digits in columns.values()]
        spent = (entry["seconds"] + entry.get("seconds_before", 0)) / 60
        lines.append([f"[{name}]({name}.json)", *cells, entry["metrics"].get("split", "test"), f"{spent:.0f} min, {entry['device']}"])
    return rows(["run", *columns, "images", "training"], lines)


def brief(dataset: str, names: list[str]) -> str:
    """Rows of six cells for shipped models of a data set, nearest to real images first, and one of real images."""
    found = {name: entry for name, entry in weights.shipped().items() if name in names}
    lines, floor = [], None
    for name, entry in sorted(found.items(), key=lambda item: item[1]["metrics"]["frechet_distance"]):
        metrics = entry["metrics"]
        asked = f"{100 * metrics['control_accuracy']:.1f} %" if "control_accuracy" in metrics else "–"
        speed, minutes = f"{metrics['samples_per_second']:,.0f}", f"{entry['seconds'] / 60:.0f}"
        lines.append([f"`{name}`", number(metrics["frechet_distance"]), number(metrics["recall"]), asked, speed, minutes])
        floor = metrics if "frechet_floor" in metrics else floor
    read = f"{100 * weights.shipped()[f'classifier-{dataset}']['metrics']['accuracy']:.1f} %"
    lines.append([f"*real images ({dataset})*", number(floor["frechet_floor"]), number(floor["recall_of_real"]), read, "", ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def chart():
    """A figure: every shipped model by the minutes that it was trained for, against its distance and against its bits."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(2, 1), layout="constrained")
    entries = {name: entry for name, entry in weights.shipped().items() if not name.startswith(("betavae", "classifier", "realnvp-conditional"))}
    colours = {"mnist": "#2171b5", "fashion": "#d94801", "cifar10": "#238b45"}
    for axis, key, what in zip(axes, ("frechet_distance", "bits_per_dim"), ("Fréchet distance", "bits per dimension"), strict=True):
        placed = []
        for name, entry in entries.items():
            family, _, dataset = name.rpartition("-")
            if key not in entry["metrics"] or dataset not in colours:
                continue
            place = entry["seconds"] / 60, entry["metrics"][key]
            axis.scatter(*place, s=22, marker="^" if entry["device"].startswith("NVIDIA") else "o", color=colours[dataset])
            below = any(abs(math.log(other[0] / place[0])) < 0.15 and abs(math.log(other[1] / place[1])) < 0.2 for other in placed)
            axis.annotate(family, place, (4, -9 if below else 2), textcoords="offset points", fontsize=7, color=colours[dataset])
            placed.append(place)
        axis.set(xscale="log", xlim=(1.7, 600), xlabel="minutes of training", ylabel=what)
        axis.set_xticks([2, 5, 10, 20, 50, 100, 200], ["2", "5", "10", "20", "50", "100", "200"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set(yscale="log")
    axes[0].set_yticks([0.02, 0.1, 0.5, 2, 10], ["0.02", "0.1", "0.5", "2", "10"])
    for dataset, colour in colours.items():
        floor = next(found for entry in entries.values() if entry["dataset"] == dataset and (found := entry["metrics"].get("frechet_floor")))
        axes[0].axhline(floor, color=colour, linestyle="--", linewidth=0.8, label=dataset)
    axes[0].legend(fontsize=8, loc="lower right")
    return figure


def dictionary(name: str, part: str, columns: dict[str, tuple[str, int]]) -> str:
    """A part of a record, label -> metrics, as a table."""
    lines = [[label, *(number(found[key], digits) for key, digits in columns.values())] for label, found in experiments.load(name)[part].items()]
    return rows(["", *columns], lines) + provenance(name)


def trouble() -> str:
    """What became of generated folders, arrays and settings, as a table."""
    found = experiments.load("trouble")["kinds"]
    lines = [[kind.replace("asked_for", "settings"), *(f"{row[key]:,}" for key in ("tried", "trained", "refused"))] for kind, row in found.items()]
    return rows(["", "tried", "trained", "refused in a sentence"], lines)


def best(name: str) -> str:
    """The least Fréchet distance of a record over temperatures, and the legible share there: two cells of a table."""
    row = min(experiments.load(name)["rows"], key=lambda row: row["frechet_distance"])
    return f"{number(row['frechet_distance'], 1)} at T = {row['temperature']} | {number(row['legibility'])}"


def strip(name: str) -> str:
    """The recorded samples of an experiment, with what the rows of the picture show."""
    kinds, labels = {}, {}
    for row in experiments.pictures(name):
        label, kind = row.split(" @ ")
        kinds[kind], labels[label] = None, None
    each = " and ".join(f"T = {kind}" for kind in kinds)
    listed = "; ".join(labels)
    return f"![Recorded samples of {name}, twelve in a row]({name}.png)\n\nSeed 0, unselected. From the top, each at {each}: {listed}."


# ------------------------------------------------------------------------------------------------------------- writing


def render(text: Path) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    names = {name: function for name, function in globals().items() if inspect.isfunction(function) and function.__module__ == __name__}
    bench = json.loads((weights.RESULTS / "bench.json").read_text())
    values = {"shipped": weights.shipped(), "bench": bench, "load": experiments.load, "record": weights.record}
    return environment.from_string(text.read_text(encoding="utf-8")).render(names | values | {"badge": badge})


def write() -> None:
    carry([*weights.ROOT.glob("0*.ipynb"), *weights.ROOT.glob("lab/*.ipynb")])
    (weights.ROOT / "imgs" / "minutes.png").write_bytes(plots.small_png(plots.rendered(chart(), 110)))
    for page, text in PAGES.items():
        made = render(text).encode()
        write_atomically(page, lambda file, made=made: file.write(made))
