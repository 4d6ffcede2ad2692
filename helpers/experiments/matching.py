"""The comparisons of notebook 05: what makes a velocity better, and how it is best solved."""

import json
import math
from dataclasses import replace

import torch

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.measures.disentanglement import attributes
from helpers.models import diffusion
from helpers.models.flow_map import FlowMapConfig
from helpers.models.judged import JudgedMapConfig
from helpers.models.layers import at_once, unit
from helpers.models.matching import MatchingConfig, evaluations
from helpers.recipes import recipe
from helpers.runs import Run
from helpers.training import TrainConfig

TRAIN = TrainConfig(epochs=2, batch_size=128, learning_rate=8e-3, optimizer="muon", average=0.999, reports_per_epoch=1)
IMAGES = 48_000  # an epoch of `as it is`; slower rows see fewer, so that all take as long


def velocity() -> dict[str, Row]:
    """Flow matching of clothes without labels, one change at a time, about as many seconds each."""
    ways = {  # changes of the model, of its training, and its speed beside that of the first
        "as it is": ({}, {}, 1.0),
        "AdamW": ({}, {"optimizer": "adamw", "learning_rate": 2e-3}, 1.0),
        "times drawn uniformly": ({"times": "uniform"}, {}, 1.0),
        "self-attention at 7x7": ({"attention": True}, {}, 0.68),
        "minibatch optimal transport": ({"pairing": "optimal"}, {}, 1.0),
        "a transformer": ({"network": "transformer"}, {}, 0.6),
    }
    rows = {}
    for way, (model, how, speed) in ways.items():
        train = replace(TRAIN, train_images=round(IMAGES * speed), **how)
        rows[way] = Row(replace(MatchingConfig(), **model), train, "fashion", measure=("pictures",))
    return rows


def few_steps() -> dict[str, Row]:
    """Three ways from the velocity of clothes to samples in few steps, about five minutes each with the walking of the teacher's paths."""
    config = FlowMapConfig(classes=10, guidance=0.75, fine=1, walks=10_000)  # else as matching-fashion
    train = replace(TRAIN, learning_rate=4e-3)
    ways = {  # what is learned, the minutes beside the walking, the learning rate
        "chords of the teacher's paths": ("chords", 3.0, 4e-3),
        "straight lines to their ends (reflow)": ("reflow", 3.0, 4e-3),
        "the identity of the mean velocity (MeanFlow)": ("identity", 5.0, 5e-4),
    }
    rows = {}
    for way, (lesson, minutes, rate) in ways.items():
        rows[way] = Row(replace(config, lesson=lesson), replace(train, minutes=minutes, learning_rate=rate), "fashion", "matching-fashion", ())
    return rows


def judge() -> dict[str, Row]:
    """The shipped flow map of clothes goes on for 187 steps: by chords and its judge, as it was trained, or by chords alone."""
    config = JudgedMapConfig(classes=10, guidance=0.75, fine=1, walks=2_000)  # else as flow-map-fashion
    train = replace(TRAIN, epochs=1, learning_rate=3e-4, train_images=IMAGES // 2)
    ways = {"with its judge": config.judged, "chords alone": 0.0}
    return {way: Row(replace(config, judged=weight), train, "fashion", "flow-map-fashion", ()) for way, weight in ways.items()}


EXPERIMENTS = {"velocity": (velocity, SEEDS), "few-steps": (few_steps, SEEDS[:1]), "judge": (judge, SEEDS)}


# ----------------------------------------------------------------------------------------------- of shipped weights

SOME = 2_000  # images, drawn and real, of each distance
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)


class Ruler:
    """Samples of a model against the first SOME validation images: distance, precision, recall, and obedience to labels."""

    def __init__(self, name: str, device):
        self.dataset = data.load(weights.shipped()[name]["dataset"], device=device)
        self.model, _ = weights.load_model(name, device)
        self.reference = measures.Reference(self.dataset, "validation", SOME)

    def __call__(self, labels=None, **how) -> dict:
        size = at_once(self.model.device)
        with training.aside():  # the same noise however it is solved
            noise = self.model.prior(SOME).split(size)
            told = [None] * len(noise) if labels is None else labels.split(size)
            drawn = torch.cat([self.model.decode(z, y, **how) for z, y in zip(noise, told, strict=True)])
        found = measures.beside(drawn, self.reference, labels)
        print(json.dumps(how | found), flush=True)
        return how | found

    def real(self) -> dict:
        """As many training images instead of samples: what a perfect model would reach, with as few."""
        return measures.beside(self.dataset.train_images[:SOME], self.reference)


def solver(device) -> dict:
    """matching-fashion without labels: evaluations of the network an image against distance, by Euler's method, by Heun's, and
    by Heun's with a look at time 1 in its last step."""
    ruler, rows = Ruler("matching-fashion", device), []
    for steps in (1, 2, 3, 5, 10, 20):
        rows.append({"way": "Heun", "evaluations": evaluations(steps)} | ruler(steps=steps))
        rows.append({"way": "Heun, looking at time 1", "evaluations": 2 * steps} | ruler(steps=steps, look_at_1=True))
    for steps in (1, 2, 3, 5, 10, 20, 40):
        rows.append({"way": "Euler", "evaluations": steps} | ruler(steps=steps, solver="euler"))
    return {"n": SOME, "split": "validation", "rows": rows, "real training images": ruler.real()}


def guided(names: tuple[str, ...], strengths: tuple[float, ...], device) -> dict:
    rows, real = [], {}
    for name in names:
        ruler = Ruler(name, device)
        rows.append({"weights": name, "labels": False} | ruler())
        rows += [{"weights": name, "labels": True} | ruler(ruler.reference.labels, guidance=strength) for strength in strengths]
        real[name] = ruler.real()
    return {"n": SOME, "split": "validation", "rows": rows, "real training images": real}


def guidance(device) -> dict:
    """matching-fashion and matching-mnist told the labels, at several strengths of guidance, and without any label."""
    return guided(("matching-fashion", "matching-mnist"), STRENGTHS, device)


def guidance_colour(device) -> dict:
    """matching-cifar10 told the labels, at several strengths of guidance, and without any label."""
    return guided(("matching-cifar10",), STRENGTHS[:5], device)


def ode_likelihood(device) -> dict:
    """Bits per dimension of 200 test images by the ODE of the matching weights, at several numbers of steps, beside the RealNVP's."""
    rows, n = [], 200
    for dataset in ("fashion", "mnist"):
        images = data.load(dataset, device=device).test_images[:n]
        found = measures.bits_per_dim(weights.load_model(f"realnvp-{dataset}", device)[0], images)
        rows.append({"weights": f"realnvp-{dataset}", "steps": None} | found)
        model, _ = weights.load_model(f"matching-{dataset}", device)
        for steps in (10, 25, 50, 100):
            with training.aside(0):
                bits = -model.log_prob(images, steps=steps).double() / (images[0].numel() * math.log(2))
            found = {"bits_per_dim": bits.mean().item(), "standard_error": (bits.std() / n**0.5).item()}
            rows.append({"weights": f"matching-{dataset}", "steps": steps} | found)
            print(json.dumps(rows[-1]), flush=True)
    return {"n": n, "split": "test", "rows": rows}


def stirred(device) -> dict:
    """matching-fashion without labels, solved with noise on the way: the strength of the noise and the steps against the distance."""
    ruler, rows = Ruler("matching-fashion", device), []
    size, shape = at_once(device), ruler.model.config.image_shape
    for strength in (0.0, 0.5, 1.0, 2.0):
        for steps in (5, 10, 20, 50):
            with training.aside():
                noise = ruler.model.prior(SOME).view(SOME, *shape).split(size)
                drawn = [diffusion.stochastic(ruler.model.field(n=len(z)), z, steps, strength)[-1] for z in noise]
            rows.append({"strength": strength, "steps": steps} | measures.beside(ruler.model.images(torch.cat(drawn)), ruler.reference))
            print(json.dumps(rows[-1]), flush=True)
    return {"n": SOME, "split": "validation", "rows": rows, "real training images": ruler.real()}


def filled(device) -> dict:
    """The right half of 500 images filled in by the velocity told nothing, twice: whether the judge still reads the class, and how far
    the two fillings are apart, as a share of how far two images of the same class are."""
    n, rows = 500, []
    for name in ("mnist", "fashion"):
        ruler = Ruler(f"matching-{name}", device)
        model, (images, labels) = ruler.model, (part[:n] for part in ruler.dataset.part("validation"))
        mask = diffusion.hidden_side(model.config.image_shape, "right", 0.5, device)
        known, judge = model.points(images, noise=0.5), ruler.reference.classifier
        seen = model.images(torch.where(mask, known, -1.0))
        rows.append({"images": name, "way": "the whole image", "read": measures.accuracy(judge, model.images(known), labels)})
        rows.append({"images": name, "way": "its left half alone", "read": measures.accuracy(judge, seen, labels)})
        other = torch.cat([images[labels == c].roll(1, 0) for c in range(10)])
        same = torch.cat([images[labels == c] for c in range(10)])
        apart = ((unit(same) - unit(other)).abs() * ~mask).mean()
        for repeats in (1, 2, 4, 8):
            with training.aside(), torch.no_grad():
                pairs = zip(known.repeat(2, 1, 1, 1).split(100), strict=True)
                found = torch.cat([model.images(diffusion.inpaint(model.field(n=len(x)), x, mask, 20, repeats)) for (x,) in pairs])
            one, two = found.chunk(2)
            rows.append({"images": name, "way": "filled in", "repeats": repeats, "evaluations": 20 * repeats})
            rows[-1] |= {"read": measures.accuracy(judge, one, labels), "apart": (((one - two).abs() * ~mask).mean() / apart).item()}
            print(json.dumps(rows[-1]), flush=True)
    return {"n": n, "split": "validation", "rows": rows}


def slanted(device) -> dict:
    """A velocity told the slant of a digit instead of its class, one of ten bins of as many training images each: asked and drawn."""
    found, bins = data.load("mnist", device=device), 10
    degrees = {split: attributes(found.part(split)[0], ("slant",))["slant"] for split in ("train", "validation", "test")}
    edges = degrees["train"].quantile(torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    told = {f"{split}_labels": torch.bucketize(values, edges).to(device) for split, values in degrees.items()}
    dataset = replace(found, classes=tuple(f"bin {i}" for i in range(bins)), **told)
    model, train = recipe("matching-conditional", "quick", dataset)
    record = Run(model.to(device), dataset, train).train(progress=False)
    rows = []
    for i in range(bins):
        with training.aside():
            drawn = model.sample(200, labels=torch.full((200,), i, device=device))
        drawn = attributes(drawn.clamp(min=1e-4), ("slant",))["slant"]
        asked = degrees["validation"][told["validation_labels"].cpu() == i]
        rows.append({"bin": i, "asked": asked.mean().item(), "drawn": drawn.mean().item(), "spread asked": asked.std().item()})
        rows[-1] |= {"spread drawn": drawn.std().item()}
        print(json.dumps(rows[-1]), flush=True)
    return {"n": 200, "split": "validation", "seconds of training": record["seconds"], "seed": train.seed, "rows": rows}


MEASUREMENTS = {
    "solver": solver,
    "guidance": guidance,
    "guidance-colour": guidance_colour,
    "ode-likelihood": ode_likelihood,
    "stirred": stirred,
    "filled": filled,
    "slanted": slanted,
}
