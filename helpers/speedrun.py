"""How fast from scratch to a fixed goal: a recipe, the minutes that it is given, and what its weights must then be worth on the test images.

The rule. A recipe is a model and a data set of this project, settings, and a number of minutes, to which `training.fit` fits its schedule, so that
a run ends after them on whatever machine. It meets its goal if all of SEEDS do, each measured once, at the end. What counts is the training,
compilation included; neither loading nor measuring. Whoever has a faster recipe changes its entry in GOALS and runs `make speedrun`, alone on the
machine: if every seed meets the goal, its record takes the place of the old one in results/speedrun.json; if not, the entry goes back.
"""

import json
from dataclasses import asdict, dataclass, field

from helpers import data, measures, recipes, training, weights
from helpers.experiments.row import SEEDS
from helpers.runs import Run


@dataclass(frozen=True)
class Goal:
    metric: str  # of the model's measures on the test images
    limit: float
    model: str  # in RECIPES
    dataset: str
    minutes: float
    measure: str  # the one of measures.MEASURES that finds the metric
    profile: str = "quick"
    settings: dict = field(default_factory=dict)  # of the model's config
    train: dict = field(default_factory=dict)  # of its TrainConfig
    after: dict = field(default_factory=dict)  # settings of the trained model: how it is used
    at_least: bool = False  # the limit is a lower one

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


MATCHED = {"model": "matching-conditional", "measure": "samples", "train": {"train_images": None, "reports_per_epoch": 1}}
GOALS = {
    "digits in 1.20 bits/dim": Goal("bits_per_dim", 1.20, "realnvp", "mnist", 3.0, "bits", train={"train_images": None}),
    "clothes in 2.95 bits/dim": Goal("bits_per_dim", 2.95, "realnvp", "fashion", 10.0, "bits", train={"average": 0.998, "train_images": None}),
    "binary digits in 90 nats (ELBO)": Goal("neg_elbo", 90.0, "fvae", "mnist", 8.0, "elbo", settings={"width": 32}),
    "clothes at a Fréchet distance of 3": Goal("frechet_distance", 3.0, **MATCHED, dataset="fashion", minutes=4.0, after={"guidance": 1.0}),
    "95 % of digits as asked": Goal("control_accuracy", 0.95, **MATCHED, dataset="mnist", minutes=2.5, after={"guidance": 0.5}, at_least=True),
}


def attempt(goal: Goal, seed: int, progress: bool = True) -> dict:
    """One seed's run of a goal's recipe: what it reached, whether that will do, and the seconds that it took."""
    device = training.pick_device()
    dataset = data.load(goal.dataset, device=device)
    model, config = recipes.recipe(goal.model, goal.profile, dataset, goal.settings, seed=seed, minutes=goal.minutes, **goal.train)
    record = Run(model.to(device), dataset, config, goal.model, goal.profile).train(progress=progress)
    model.config = type(model.config)(**vars(model.config) | goal.after)
    value = measures.evaluate(model, dataset, only=(goal.measure,), floor=False)[goal.metric]
    seconds = round(record["seconds"] + record["compile_seconds"], 1)
    return {"seed": seed, "value": value, "met": goal.met(value), "seconds": seconds, "device": record["device"], "parameters": record["parameters"]}


def run(only: str | None = None, seeds: tuple[int, ...] = SEEDS) -> dict:
    """Run every goal, or one, with every seed; write results/speedrun.json with those goals that all seeds met."""
    path = weights.RESULTS / "speedrun.json"
    record = (
        json.loads(path.read_text()) if path.exists() else {"what": "minutes of training from scratch to fixed goals", "split": "test", "goals": {}}
    )
    for name, goal in GOALS.items():
        if only not in (None, name):
            continue
        runs = []
        for seed in seeds:
            print(f"== {name}, {goal.minutes:g} minutes, seed {seed}", flush=True)
            runs.append(attempt(goal, seed))
            print(f"{goal.metric} {runs[-1]['value']:.4f} after {runs[-1]['seconds']:.0f} s: {'met' if runs[-1]['met'] else 'not met'}", flush=True)
        if all(one["met"] for one in runs):
            record["goals"][name] = {"recipe": asdict(goal), "runs": runs}
            training.write_json(path, record | {"command": "make speedrun"})
    return record
