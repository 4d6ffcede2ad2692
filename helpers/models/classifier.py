"""The judge: a small classifier that reads samples and whose features measure how far two sets of images are apart."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.layers import pixels
from helpers.models.model import Model
from helpers.models.settings import Count, Size


@dataclass(frozen=True)
class ClassifierConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; both sides at least 8
    classes: Size = 10
    parts: Size = 1  # always 1: pairs are judged half by half
    width: Size = 32
    shift: Count = 2  # pixels by which training images are moved at random, in each direction


class Classifier(Model):
    """Three convolutional stages, the mean over positions, a linear layer: images (N, C, H, W) to logits (N, classes).

    Images are uint8, or floats in [0, 1]. `features` is what the linear layer reads. A classifier that has only ever seen
    digits is sure of noise too; so this one is also shown `broken` images and taught to be sure of none (Hendrycks et al.
    2019). Its record says how many of either it still accepts.
    """

    Config = ClassifierConfig
    measures, draws = ("reading",), False

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        if config.parts != 1:
            raise UserError("A classifier reads one image at a time: train it on mnist rather than on pairs.")
        width = config.width
        stages, channels = [], config.image_shape[0]
        for out in (width, 2 * width, 4 * width):
            for stride in (1, 2):
                stages += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(channels, config.classes))

    def features(self, images) -> torch.Tensor:
        """(N, 4 * width) features of images; UserError where they are no images, or not of the trained shape."""
        return self._features(pixels(self, images))

    def forward(self, images) -> torch.Tensor:
        return self.head(self.features(images))

    def _features(self, x):
        return self.stages(x).mean(dim=(2, 3))

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean cross entropy in nats, that of broken images with all classes equally likely, and the error rate."""
        images = pixels(self, images)
        wrecks = broken(images, labels)
        if self.training and self.config.shift:
            images = shifted(images, self.config.shift)
        logits, unsure = self.head(self._features(torch.cat([images, wrecks]))).split([len(images), len(wrecks)])
        cross_entropy = F.cross_entropy(logits, labels)
        doubt = (unsure.logsumexp(1) - unsure.mean(1)).mean()
        error = (logits.argmax(1) != labels).float().mean()
        return {"loss": cross_entropy + 0.5 * doubt, "cross_entropy": cross_entropy, "doubt": doubt, "error": error}

    def regions(self):
        return [self.stages]


def shifted(images, most: int):
    """Each image moved by up to `most` pixels in both directions, at random, with 0 moving in."""
    n, _, height, width = images.shape
    padded = F.pad(images, (most,) * 4)
    down, right = torch.randint(0, 2 * most + 1, (2, n, 1), device=images.device)
    rows = down + torch.arange(height, device=images.device)
    columns = right + torch.arange(width, device=images.device)
    every = torch.arange(n, device=images.device)[:, None, None]
    return padded[every, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def broken(images, labels):
    """What is no image of any class, made of float images (N, C, H, W), a quarter each: pixels in random places, patches in
    random places, two images of different classes on top of each other, and smooth random blobs."""
    n, channels, height, width = images.shape
    scattered = images.flatten(2)[:, :, torch.randperm(height * width, device=images.device)].view_as(images)
    rows, columns = (math.gcd(side, 4) for side in (height, width))
    patches = images.view(n, channels, rows, height // rows, columns, width // columns).transpose(3, 4).flatten(2, 3)
    patches = patches[:, :, torch.randperm(rows * columns, device=images.device)].unflatten(2, (rows, columns)).transpose(3, 4).reshape(images.shape)
    different = (labels != labels.roll(1))[:, None, None, None]
    doubled = torch.where(different, torch.maximum(images, images.roll(1, 0)), scattered)
    coarse = torch.rand(n, channels, math.ceil(height / 4), math.ceil(width / 4), device=images.device, dtype=images.dtype)
    blobs = torch.sigmoid(16 * (F.interpolate(coarse, size=(height, width), mode="bicubic") - 0.6))
    kind = torch.arange(n, device=images.device)[:, None, None, None] % 4
    return torch.where(kind == 0, scattered, torch.where(kind == 1, patches, torch.where(kind == 2, doubled, blobs)))
