"""The judge: a small classifier that reads samples and whose features measure how far two sets of images are apart."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError


@dataclass(frozen=True)
class ClassifierConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; both sides at least 8
    classes: int = 10
    parts: int = 1  # always 1: pairs are judged half by half
    width: int = 32
    shift: int = 2  # pixels by which training images are moved at random, in each direction


class Classifier(nn.Module):
    """Three convolutional stages, the mean over positions, a linear layer: images (N, C, H, W) to logits (N, classes).

    Images are uint8, or floats in [0, 1]. `features` is what the linear layer reads.
    """

    def __init__(self, config: ClassifierConfig):
        super().__init__()
        if config.parts != 1:
            raise UserError("A classifier reads one image at a time: train it on mnist rather than on pairs.")
        self.config = config
        width = config.width
        stages, channels = [], config.image_shape[0]
        for out in (width, 2 * width, 4 * width):
            for stride in (1, 2):
                stages += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
                channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(channels, config.classes))

    def features(self, images) -> torch.Tensor:
        """(N, 4 * width) features of images; UserError where the images are not of the trained shape."""
        if images.ndim != 4 or tuple(images.shape[1:]) != tuple(self.config.image_shape):
            expected = ", ".join(map(str, self.config.image_shape))
            raise UserError(f"Images of shape {tuple(images.shape)} were given: this classifier takes (N, {expected}).")
        x = images / 255 if images.dtype == torch.uint8 else images
        return self.stages(x.to(self.head[1].weight.dtype)).mean(dim=(2, 3))

    def forward(self, images) -> torch.Tensor:
        return self.head(self.features(images))

    def loss(self, images, labels) -> dict[str, torch.Tensor]:
        """Mean cross entropy in nats, and the error rate beside it."""
        if self.training and self.config.shift:
            images = shifted(images, self.config.shift)
        logits = self(images)
        return {"loss": F.cross_entropy(logits, labels), "error": (logits.argmax(1) != labels).float().mean()}

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
