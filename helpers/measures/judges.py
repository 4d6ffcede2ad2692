"""Who looks at samples: the shipped classifier of a data set; for one's own pictures one that is trained on them, once."""

import math

import torch
from torch import nn

from helpers import data, recipes
from helpers.models.layers import at_once
from helpers.training import aside, fit
from helpers.weights import load_model, save_model, shipped

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


def judge(dataset) -> Judge | None:
    """The judge of a data set, or None where there is none for images of this name and shape.

    Of the data sets that have a name it is the shipped classifier. Of one's own it is a classifier trained on the training images, or
    where they are of one class an autoencoder, whose codes are then the features; it is kept beside the data.
    """
    device = dataset.train_images.device
    if dataset.name not in data.NAMES:
        return trained(dataset).to(device)
    if dataset.judge not in shipped():
        return None
    classifier, _ = load_model(dataset.judge, device)
    channels, height, width = dataset.image_shape
    return Judge(classifier, dataset.judge) if classifier.config.image_shape == (channels, height, width // dataset.parts) else None


def trained(dataset) -> Judge:
    """A judge for pictures that nobody has seen before: found under data/judges, or trained and put there."""
    kind = "classifier" if len(dataset.classes) > 1 else "autoencoder"
    profile = recipes.pick_profile()
    path = data.data_dir() / "judges" / f"{kind}-{profile}-{dataset.fingerprint()[:16]}.safetensors"
    if path.exists():
        model, info = load_model(path, dataset.train_images.device)
    else:
        images = len(dataset.train_images)
        batch = min(64, max(8, images // 8))
        epochs = max(1, math.ceil(STEPS[profile] * batch / images))
        model, config = recipes.recipe(
            kind, "smoke" if profile == "smoke" else "quick", dataset, epochs=epochs, batch_size=batch, compile=False, train_images=None
        )
        print(f"There is no judge for {dataset.name}: {'a' if kind == 'classifier' else 'an'} {kind} is trained on its {images:,} training images.")
        with aside():
            torch.set_grad_enabled(True)
            fit(model.to(dataset.train_images.device), dataset, config)
        model.eval().requires_grad_(False)
        info = {"dataset": dataset.name, "accuracy": read_rightly(model, dataset) if kind == "classifier" else None}
        save_model(model, path, info)
    if kind == "autoencoder":
        return Judge(model, f"the codes of an autoencoder of its own, {model.latent_dim} numbers")
    return Judge(model, f"a classifier of its own, right about {info['accuracy']:.0%} of validation images")


@torch.no_grad()
def read_rightly(classifier, dataset) -> float:
    images, labels = dataset.part("validation")
    read = torch.cat([classifier(part).argmax(1) for part in images.split(at_once(images.device))])
    return (read == labels).float().mean().item()
