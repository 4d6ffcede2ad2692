"""The comparisons of notebook 05: what makes a velocity better, and how it is best solved."""

import json
import math
from dataclasses import replace

import torch

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.models.layers import at_once
from helpers.models.matching import MatchingConfig, evaluations
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
    }
    rows = {}
    for way, (model, how, speed) in ways.items():
        train = replace(TRAIN, train_images=round(IMAGES * speed), **how)
        rows[way] = Row(replace(MatchingConfig(), **model), train, "fashion", measure=("pictures",))
    return rows


EXPERIMENTS = {"velocity": (velocity, SEEDS)}


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


MEASUREMENTS = {"solver": solver, "guidance": guidance, "guidance-colour": guidance_colour, "ode-likelihood": ode_likelihood}
