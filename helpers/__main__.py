"""python -m helpers: train, evaluate, sample and list models; run the notebooks."""

import argparse
import contextlib
import csv
import difflib
import importlib.util
import json
import sys
import textwrap
import time
from pathlib import Path

import torch

from helpers import UserError, data, measures, recipes, runs, take, training, weights
from helpers.runs import Run
from helpers.show import plots
from helpers.training import Team

WIDTH = 80  # columns of a terminal


def whole_grid(model) -> tuple[int, int]:
    """How many samples fill a grid, and in how many columns: of a model that is told few classes, each in a column of its own."""
    classes = model.config.classes if model.labelled and model.config.parts == 1 else 0
    return (8 * classes, classes) if 1 < classes <= 12 else (64, 8)


def keep_samples(model, path) -> None:
    """The first samples of a trained model, unselected, into its folder."""
    count, columns = whole_grid(model)
    with training.aside():
        images = model.sample(count, model.drawn_at, measures.in_turn(model, count))
    training.write_atomically(path, lambda file: file.write(plots.png(plots.grid(images, columns))))
    print(f"{count} samples in {path}")


def train(args):
    profile = recipes.pick_profile(args.profile)
    changes = {
        "epochs": args.epochs,
        "train_images": args.images,
        "batch_size": args.batch_size,
        "minutes": args.minutes,
        "learning_rate": args.learning_rate,
    }
    changes = {name: value for name, value in changes.items() if value is not None}
    for name, value in changes.items():
        if name in ("minutes", "learning_rate"):  # the loop looks at them
            continue
        least = 2 if name == "train_images" else 1  # one image has no spread to start from
        if value < least:
            raise UserError(f"{value} {name.replace('_', ' ')} were asked for: ask for at least {least}.")
    changes["seed"] = args.seed
    settings = weights.settings_from(args.model, args.start) | recipes.settings_of(args.model, args.set)
    device = training.pick_device()
    dataset = data.load(args.dataset, device=device, size=args.size)
    if dataset.name not in data.NAMES and Team().first:
        print(f"{dataset.name}: {data.described(dataset)}.")
    model, config = recipes.recipe(args.model, profile, dataset, settings, **changes)
    start = weights.start_from(model, args.start) if args.start else None
    where = {"folder": args.folder} if args.folder else {"under": "runs"}
    run = Run(model.to(device), dataset, config, args.model, profile, start, command=runs.command_line(), **where)
    if Team().first:
        length = f"{config.minutes:g} minutes" if config.minutes else f"{config.epochs} epoch{'s' * (config.epochs > 1)}"
        print(f"{args.model} on {dataset.name}, profile {profile}: {training.count_parameters(model):,} parameters, {length}")
        print(f"on {training.device_name(device)}, in {run.folder}.")
    try:
        run.train(args.resume)
        if Team().first:
            found = measures.measure(run, progress=True)
            show(found)
            print(f"test images, after {run.record['seconds']:.0f} s of training; {run.folder / runs.WEIGHTS}")
            if run.model.draws:
                keep_samples(run.model, run.folder / "samples.png")
    except KeyboardInterrupt:
        print(f"\nStopped: {run.left()}.", file=sys.stderr)
        return 130
    return 0


def evaluate(args):
    device = training.pick_device()
    if args.samples < 1:
        raise UserError(f"{args.samples} importance samples were asked for: ask for at least 1.")
    if args.weights == "all":
        if args.json or args.dataset or args.inception or args.samples > 1:
            raise UserError("`evaluate all` takes --data and --record alone: for the rest name one model.")
        return evaluate_all(args, device)
    with contextlib.redirect_stdout(sys.stderr):  # with --json, standard output belongs to the object alone
        folder = Path(args.weights) if Path(args.weights).is_dir() else None  # of a run
        model, info = weights.load_model(folder / runs.WEIGHTS if folder else args.weights, device)
        try:
            dataset = data.load(args.dataset or info["dataset"], args.data, device, size=model.config.image_shape[1])
        except UserError as error:
            if args.dataset or info["dataset"] in data.NAMES:
                raise
            raise UserError(f"{str(error).rstrip('.')}; if these pictures have moved, say where to with --dataset.") from None
        if args.inception and not (model.draws and importlib.util.find_spec("torch_fidelity")):
            raise UserError("Inception's distance needs a model that draws, and the package torch-fidelity: pip install torch-fidelity.")
        if args.record and ((args.weights not in weights.shipped() and not folder) or dataset.name != info["dataset"]):
            raise UserError("--record keeps what was measured on a model's own data set: give the name of shipped weights, or a run's folder, alone.")
        started = time.perf_counter()
        found = measures.evaluate(model, dataset, samples=args.samples, progress=True)
        if args.inception:
            images = dataset.test_images
            with training.aside():
                drawn = model.sample(len(images), labels=dataset.test_labels if model.labelled else None)
            found["inception_distance"] = measures.inception_distance(drawn, images)
        if args.record and folder:
            runs.keep_metrics(folder, found)
        elif args.record:
            weights.keep_metrics(args.weights, found | (speed(model) if model.draws else {}))
    result = {
        "name": args.weights,
        "dataset": dataset.name,
        "parameters": training.count_parameters(model),
        "seconds": round(time.perf_counter() - started, 1),
        "device": training.device_name(device),
    } | found
    if args.json:
        print(json.dumps(result))
    else:
        show(result)


def evaluate_all(args, device):
    """Measure all shipped weights again, and say what differs from the record; 1 if anything does by more than its tolerance."""
    sets, references, wrong, compared, started = {}, {}, [], 0, time.perf_counter()
    for name, entry in weights.shipped().items():
        recorded, begun = entry["metrics"], time.perf_counter()
        model, info = weights.load_model(name, device)
        if info["dataset"] not in sets:
            sets[info["dataset"]] = data.load(info["dataset"], args.data, device)
        dataset = sets[info["dataset"]]
        if model.draws and dataset.name not in references:
            references[dataset.name] = measures.Reference(dataset)
        samples = recorded.get("importance_samples", 1)
        long = samples >= measures.LONG
        found = measures.evaluate(model, dataset, samples=1 if long else samples, reference=references.get(dataset.name))
        if long:  # the likelihood of all images would take hours
            found = {key: value for key, value in found.items() if key not in measures.BY_SAMPLES}
            found |= measures.nll_of_some(model, dataset.test_images, samples)
        found |= speed(model) if model.draws else {}
        differs = [key for key in recorded if key in found and key not in UNLIKE and not measures.metric(key).agrees(found[key], recorded[key])]
        left = [key for key in recorded if key not in found]
        compared += sum(isinstance(recorded[key], float | int) and key not in UNLIKE for key in recorded.keys() - left)
        wrong += [f"{name}: {key} is {found[key]}, recorded {recorded[key]}" for key in differs]
        if model.draws and "frechet_distance" in left:
            wrong.append(f"{name}: its samples were not measured: there is no judge for {dataset.name}")
        rest = f"; not measured again: {', '.join(left)}" + f" ({samples:,} importance samples an image)" * long if left else ""
        verdict = "DIFFERS: " + ", ".join(differs) if differs else "as recorded"
        print(f"{name:26} {time.perf_counter() - begun:4.0f} s  {verdict}{rest}", flush=True)
        if args.record:
            weights.keep_metrics(name, found)
    print(f"{compared} metrics of {len(weights.shipped())} models in {time.perf_counter() - started:.0f} s on {training.device_name(device)}")
    for line in wrong:
        print(line)
    return 1 if wrong and not args.record else 0


UNLIKE = ("samples_per_second", "sampled_on")  # of the machine, not of the model


def speed(model) -> dict:
    """How fast it draws, and where: for the record."""
    return {"samples_per_second": round(measures.samples_per_second(model), 1), "sampled_on": training.device_name(model.device)}


def sample(args):
    device = training.pick_device()
    model, info = weights.load_model(args.weights, device)
    if not model.draws:
        raise UserError(f"{args.weights} is a {info['dataset']} classifier and draws nothing: take the weights of a generative model.")
    if Path(args.out).suffix.lower() != ".png":
        raise UserError(f"{args.out} was given as --out: give the name of a .png file.")
    torch.manual_seed(recipes.check_seed(args.seed))
    known = info.get("classes") or ()
    asked = [] if args.labels is None else [args.labels] if args.labels in known else next(csv.reader([args.labels], skipinitialspace=True))
    asked = [name.strip() for name in asked]
    whole, columns = whole_grid(model)
    count = args.count if args.count is not None else len(asked) if len(asked) > 1 else whole
    if count < 1:
        raise UserError(f"{count} samples were asked for: ask for at least 1.")
    labels = measures.in_turn(model, count)
    if asked:
        if labels is None:
            raise UserError(f"The label {args.labels!r} was given, but {args.weights} knows no labels: leave it out.")
        if len(asked) not in (1, count):
            raise UserError(f"{len(asked)} labels were given for {count} samples: give one for all, or one each.")
        names = tuple(info.get("classes") or data.CLASSES.get(info["dataset"]) or map(str, range(model.config.classes**model.config.parts)))
        labels = torch.tensor([data.label(name, names) for name in asked], device=device).expand(count)
    if args.steps is not None and not hasattr(model.config, "steps"):
        raise UserError(f"{args.steps} steps were asked for, but {args.weights} takes none to draw an image: leave them out.")
    images = model.sample(count, args.temperature, labels, **({} if args.steps is None else {"steps": args.steps}))
    training.write_atomically(args.out, lambda file: file.write(plots.png(plots.grid(images, columns if count == whole else None))))
    print(f"{count} samples at temperature {args.temperature} in {args.out}")


def list_(args):
    found = weights.shipped()
    names = {"models": list(recipes.RECIPES), "datasets": list(data.NAMES), "profiles": list(recipes.PROFILES), "weights": found}
    if args.name is not None and args.name not in found:
        near = [f" did you mean {name}?" for name in difflib.get_close_matches(args.name, found, n=1)]
        raise UserError(f"There are no shipped weights {args.name!r}:{''.join(near)} `python -m helpers list` names them.")
    if args.json:
        print(json.dumps(names if args.name is None else found[args.name]))
    elif args.name is not None:
        entry = found[args.name]
        show(entry | {"minutes": round(entry["seconds"] / 60, 1)} | entry["metrics"], without=("metrics", "seconds"))
    else:
        for kind in ("models", "datasets", "profiles"):
            print(textwrap.fill(f"{kind:9} {', '.join(names[kind])}", WIDTH, subsequent_indent=" " * 10))
        print(f"\n{'weights':26}{'millions':>8}{'minutes':>8}  on the test images")
        for name, entry in found.items():
            said = textwrap.wrap(measures.headline(entry["metrics"]), WIDTH - 44)
            print(f"{name:26}{entry['parameters'] / 1e6:8.2f}{entry['seconds'] / 60:8.1f}  " + f"\n{'':44}".join(said))
        print("\n`python -m helpers list NAME` tells all that was measured of one.")


def show(values: dict, without: tuple[str, ...] = ()) -> None:
    """One number a line, by the heading that tables have for it."""
    for key, value in values.items():
        if key not in without:
            known = measures.metric(key)
            how = {float: f".{known.digits if known.heading else 4}f", int: ","}.get(type(value), "")
            print(f"{known.heading or key.replace('_', ' '):26} {format(value, how)}")


def ship(args):
    runs.ship(args.folder, args.name, args.set)


def experiment(args):
    from helpers import experiments

    if args.name == "list":
        said = {name: "; ".join(experiments.rows_of(name)) for name in experiments.EXPERIMENTS}
        said |= {name: " ".join(measurement.__doc__.split()) for name, measurement in experiments.MEASUREMENTS.items()}
        for name, text in said.items():
            print(textwrap.fill(f"{name:18} {text}", WIDTH, subsequent_indent=" " * 19))
    else:
        experiments.run(args.name, args.only, args.seed)


def run(args):
    from helpers import notebooks  # only this command needs Jupyter

    notebooks.run(args.notebook, args.profile)


def report(args):
    from helpers import report as report_

    report_.write()
    print(f"Written from the records: {', '.join(str(page.relative_to(weights.ROOT)) for page in report_.PAGES)}.")


def speedrun(args):
    from helpers import speedrun as speedrun_

    if args.goal not in (None, *speedrun_.GOALS):
        raise UserError(f"There is no goal {args.goal!r}: {take(args.goal, speedrun_.GOALS, '; ')}.")
    speedrun_.run(args.goal)


def classroom(args):
    from helpers import classroom as classroom_  # only this command needs Jupyter

    print(classroom_.write(args.tool, args.out, args.notebook))


def page(args):
    from helpers import page as page_

    size = page_.build(args.out)
    print(f"{args.out}: {size / 2**20:.1f} MB; open it in a browser.")


def train_options(command) -> None:
    command.add_argument("model", help=", ".join(recipes.RECIPES))
    command.add_argument("--dataset", required=True, help=f"{', '.join(data.NAMES)}, a folder of pictures, or an .npz file")
    command.add_argument("--size", type=int, help="what the pictures of a folder are made to measure: 28, 32 or 64 (default: SIZE, else 28)")
    command.add_argument("--profile", help=f"{', '.join(recipes.PROFILES)} (default: what the hardware suggests)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--epochs", type=int, help="instead of the profile's")
    command.add_argument("--minutes", type=float, help="end after so many instead: the schedule is made to fit what a step takes here")
    command.add_argument("--images", type=int, help="how many training images, instead of the profile's")
    command.add_argument("--batch-size", type=int, help="instead of the profile's: lower it where the memory does not suffice")
    command.add_argument("--learning-rate", type=float, help="instead of the profile's: a smaller one to go on from trained weights")
    command.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings of the model instead of the profile's: width=16 objective=hinge",
    )
    command.add_argument("--start", metavar="WEIGHTS", help="start from trained weights, as far as they fit, instead of at random")
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint of this run")
    command.add_argument("--folder", help="where to keep checkpoint, weights and record")
    command.set_defaults(call=train)


def parser() -> tuple[argparse.ArgumentParser, list[str]]:
    """What reads the command line, and the commands that it knows."""
    main = argparse.ArgumentParser(prog="python -m helpers", description=__doc__)
    commands = main.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("list", help="models, data sets, profiles and shipped weights")
    command.add_argument("name", nargs="?", help="shipped weights: all that was measured of them")
    command.add_argument("--json", action="store_true")
    command.set_defaults(call=list_)

    train_options(commands.add_parser("train", help="train a model; leaves weights and a record under runs/"))

    command = commands.add_parser("evaluate", help="measure trained weights on the test set")
    command.add_argument("weights", help="a shipped name, a .safetensors file, a run's folder, or all: each shipped one against its record")
    command.add_argument("--data", metavar="ROOT", help="the folder that holds the data sets (default: DATA_DIR, else data)")
    command.add_argument("--dataset", help="another data set than the one trained on")
    command.add_argument("--samples", type=int, default=1, help="importance samples an image (default 1)")
    command.add_argument("--inception", action="store_true", help="the literature's FID too; downloads Inception's weights (91 MB) once")
    command.add_argument("--record", action="store_true", help="keep what was measured in the record of these shipped weights, or of this run")
    command.add_argument("--json", action="store_true", help="one JSON object on standard output and nothing else")
    command.set_defaults(call=evaluate)

    command = commands.add_parser("sample", help="draw samples into a PNG")
    command.add_argument("weights", help="a shipped name such as realnvp-mnist, or a .safetensors file")
    command.add_argument("--count", type=int, help="how many (default: as many as labels, else 64)")
    command.add_argument("--temperature", type=float, default=1.0)
    command.add_argument(
        "--labels", "--label", help="of a conditional model: a class for all, such as 3, Sandal or 37, or one each, 7,7,1 (default: all in turn)"
    )
    command.add_argument("--steps", type=int, help="from noise to image, of a model that takes some (default: its own)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", required=True, metavar="FILE.png")
    command.set_defaults(call=sample)

    command = commands.add_parser("ship", help="enter a finished run into weights/ and results/")
    command.add_argument("folder")
    command.add_argument("name")
    command.add_argument("--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE", help="settings that are no weights: guidance=1.0")
    command.set_defaults(call=ship)

    command = commands.add_parser("experiment", help="train and measure a comparison into results/ (`list` names them)")
    command.add_argument("name")
    command.add_argument("--only", metavar="ROW", help="one row of it")
    command.add_argument("--seed", type=int, help="one seed (default: all of the experiment's)")
    command.set_defaults(call=experiment)

    command = commands.add_parser("report", help="write README.md, REPORT.md and the lab book, results/README.md, from the records")
    command.set_defaults(call=report)

    command = commands.add_parser("page", help="write one HTML file in which shipped models move under sliders (needs npm, once)")
    command.add_argument("--out", default="docs/index.html", metavar="FILE.html")
    command.set_defaults(call=page)

    command = commands.add_parser("classroom", help="write the exercises as graded homework, for nbgrader or Otter")
    command.add_argument("notebook", nargs="?", metavar="LESSON.ipynb", help="of this lesson alone (default: all)")
    command.add_argument("--for", dest="tool", default="nbgrader", help="nbgrader (default) or otter")
    command.add_argument("--out", required=True, metavar="FOLDER")
    command.set_defaults(call=classroom)

    command = commands.add_parser("speedrun", help="train to fixed goals, three seeds each, against the clock (110 minutes on 2 cores)")
    command.add_argument("goal", nargs="?", help="one of them (default: all)")
    command.set_defaults(call=speedrun)

    command = commands.add_parser("run", help="execute the notebooks; leaves copies and HTML under runs/")
    command.add_argument("notebook", nargs="*", help="which (default: all)")
    command.add_argument("--profile")
    command.set_defaults(call=run)
    return main, list(commands.choices)


def main() -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # β on a console that has no such letter
    known, commands = parser()
    try:
        if sys.argv[1:] and sys.argv[1] not in commands and not sys.argv[1].startswith("-"):
            raise UserError(f"There is no command {sys.argv[1]!r}: {take(sys.argv[1], commands)}.")
        args = known.parse_args()
        return args.call(args) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
