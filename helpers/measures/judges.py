"""Who looks at samples: the shipped classifier of a data set; for one's own pictures one that is trained on them, once."""

import math

import torch
from torch import nn

from helpers import UserError, data, recipes
from helpers.models.layers import at_once
from helpers.runs import WEIGHTS, Run, finished
from helpers.training import aside
from helpers.weights import load_model, shipped

STEPS = {"smoke": 50, "quick": 1_000, "full": 1_000}  # of the training of a judge of one's own: a minute or two of a processor


class Judge(nn.Module):
    """Features of images (N, F), and where they come from a classifier, what it reads. `name` belongs beside every number that depends on it."""

    def __init__(self, model, name: str):
        super().__init__()
        self.model, self.name = model, name
        self.reads = hasattr(model, "features")

    def features(self, images) -> torch.Tensor:
        return self.model.features(images) if self.reads else self.model.encode(images)

    def head(self, features) -> torch.Tensor:
        """Logits (N, classes) of features."""
        return self.model.head(features)

    def forward(self, images) -> torch.Tensor:
        return self.model(images)


def judge(dataset, profile: str | None = None) -> Judge | None:
    """The judge of a data set, or None where there is none for images of this name and shape.

    Of the data sets that have a name it is the shipped classifier. Of one's own it is a classifier trained on the training images, or
    where they are of one class an autoencoder, whose codes are then the features; it is kept beside the data.
    """
    device = dataset.train_images.device
    if dataset.name not in data.NAMES:
        return trained(dataset, recipes.pick_profile(profile)).to(device)
    if dataset.judge not in shipped():
        return None
    classifier, _ = load_model(dataset.judge, device)
    channels, height, width = dataset.image_shape
    return Judge(classifier, dataset.judge) if classifier.config.image_shape == (channels, height, width // dataset.parts) else None


def trained(dataset, profile: str) -> Judge:
    """A judge for pictures that nobody has seen before: found under data/judges, or trained and put there, if anything can be put there."""
    kind = "classifier" if len(dataset.classes) > 1 else "autoencoder"
    images = len(dataset.train_images)
    batch = min(64, max(8, images // 8))
    how = {"epochs": max(1, math.ceil(STEPS[profile] * batch / images)), "batch_size": batch, "compile": False, "train_images": None}
    with aside():
        model, config = recipes.recipe(kind, "smoke" if profile == "smoke" else "quick", dataset, **how)
        run = Run(model.to(dataset.train_images.device), dataset, config, kind, profile, under=data.data_dir() / "judges")
        try:
            record = finished(run.folder)
            model, _ = load_model(run.folder / WEIGHTS, dataset.train_images.device)
        except UserError:
            record = train(run)
            model = run.model
    if kind == "autoencoder":
        return Judge(model, f"the codes of an autoencoder of its own, {model.latent_dim} numbers")
    return Judge(model, f"a classifier of its own, right about {record['metrics']['accuracy']:.0%} of validation images")


def train(run: Run) -> dict:
    """Train a judge, whatever other processes there are; its record. One that can't be kept serves all the same, and is trained again next time."""
    images = len(run.dataset.train_images)
    print(f"There is no judge for {run.dataset.name}: the {run.name} that looks at samples is trained on its {images:,} training images.")
    with torch.enable_grad():
        try:
            run.train(alone=True)
        except UserError as error:
            if run.folder is None:
                raise
            print(f"The judge is not kept: {error}")
            run.folder = None
            if not run.record:  # else it is trained, and could not be written
                run.train(alone=True)
    run.model.requires_grad_(False)
    run.measured({"split": "validation"} | ({"accuracy": read_rightly(run.model, run.dataset)} if run.name == "classifier" else {}))
    return run.record


@torch.no_grad()
def read_rightly(classifier, dataset) -> float:
    images, labels = dataset.part("validation")
    read = torch.cat([classifier(part).argmax(1) for part in images.split(at_once(images.device))])
    return (read == labels).float().mean().item()
