"""One pixel at a time: p(x) = product over i of p(x_i | x_<i) in reading order (van den Oord et al. 2016). Exact, with no latent at all.

In training all factors are computed at once: the image is known, and every network here is built so that pixel i sees only what comes
before it. Drawing can't be parallel: the next pixel waits for the last one. Two networks: a transformer over rows with a small
network for each pixel (after Yu et al. 2023, who do so with patches), and the gated PixelCNN.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.layers import Block, at_once, check_draw, check_images, check_labels, levels, pick, pixels
from helpers.models.model import Model
from helpers.models.settings import Count, Only, Rest, Size, Within


@dataclass(frozen=True)
class PixelConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    network: Literal["rows", "pixelcnn"] = "rows"
    levels: Literal[2, 256] = 256  # values of a pixel; 2: a binary image, drawn anew from the grey values whenever it is looked at
    width: Annotated[Size, Only("network", ("rows",))] = 192  # of the transformer over rows
    layers: Annotated[Size, Only("network", ("rows",))] = 3
    heads: Annotated[Size, Only("network", ("rows",))] = 4
    dropout: Annotated[Rest, Only("network", ("rows",))] = 0.0  # in the transformer
    near: Size = 128  # units of the network of a pixel; channels of a PixelCNN
    blocks: Size = 2  # its residual blocks; of a PixelCNN its gated layers
    reach: Annotated[int, Within(1), Only("network", ("rows",))] = 6  # pixels to the left, and to both sides in the rows above
    above: Annotated[Size, Only("network", ("rows",))] = 3  # such rows; these pixels it sees as they are
    flat: Annotated[float, Within(0.01, 1)] = 0.0625  # of the pixels amid equal ones, the share that a step of training looks at
    classes: Count = 0  # above 0 the networks are told the label
    parts: Size = 1  # always 1


class Values(nn.Embedding):
    """Values of pixels (...) as vectors (..., 8): 1 + a whole number, and 0 where there is no pixel.

    It starts as waves of the value, so that like values look alike.
    """

    def __init__(self, levels: int):
        super().__init__(levels + 1, 8)
        value = torch.linspace(0, 1, levels)[:, None]
        waves = torch.cat([torch.ones_like(value), value, value == 0, *((math.pi * k * value).cos() for k in range(1, 6))], dim=1)
        with torch.no_grad():
            self.weight.copy_(torch.cat([torch.zeros(1, 8), waves]))


class Last(nn.Linear):
    """The layer that says how likely each value is."""

    started = False  # from trained weights, which `Pixels.initialize` must leave as they are


class Residual(nn.Module):
    """x (..., W) to the same, plus what two layers make of it."""

    def __init__(self, width: int):
        super().__init__()
        self.think = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x):
        return x + self.think(x)


class Rows(nn.Module):
    """A transformer tells every pixel about all rows above; a small network adds the pixels nearby, and says which value comes next.

    Of its own row a pixel sees no more than `reach` others.

    lines (N, H, V) whole numbers, a colour's channels side by side in each row; label (N,). forward: logits (M, levels) of the pixels
    at `index` (M,) of lines.flatten().
    """

    def __init__(self, config: PixelConfig):
        super().__init__()
        channels, height, across = config.image_shape
        self.across, self.above, self.reach = across * channels, config.above, config.reach * channels
        self.label, self.value = nn.Embedding(max(1, config.classes), config.width), Values(config.levels)
        self.first = nn.Linear(8 * self.across, config.width)
        self.place = nn.Parameter(0.02 * torch.randn(height, config.width))
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.dropout) for _ in range(config.layers))
        self.tell = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, self.across * (config.near // 4)))
        self.heard = nn.Linear(config.near // 4, config.near)
        seen = self.above * (2 * self.reach + 1) + self.reach
        self.seen = nn.Linear(8 * seen, config.near)
        self.thoughts = nn.Sequential(*(Residual(config.near) for _ in range(config.blocks)), nn.LayerNorm(config.near))
        self.last = Last(config.near, config.levels)
        wide = self.across + 2 * self.reach  # a row with its margins
        window = [wide * (dy - self.above) + dx for dy in range(self.above) for dx in range(-self.reach, self.reach + 1)]
        self.register_buffer("window", torch.tensor(window + list(range(-self.reach, 0))), persistent=False)

    def told(self, lines, label):
        """What the transformer says to each pixel, (N, H, V, near / 4), of the rows above its own."""
        rows = self.first(self.value(lines[:, :-1] + 1).flatten(2))
        x = torch.cat([self.label(label)[:, None], rows], dim=1) + self.place
        for block in self.blocks:
            x, _ = block(x)
        return self.tell(x).unflatten(2, (self.across, -1))

    def around(self, lines, row, column, image):
        """The pixels near those at image, row and column (M,) each, as far as they come before: (M, 8 * so many)."""
        margins = self.reach, self.reach, self.above, 0
        padded = F.pad(lines + 1, margins)  # 0: there is none
        middle = (image * padded.shape[1] + row + self.above) * padded.shape[2] + column + self.reach
        return self.value(padded.flatten()[middle[:, None] + self.window]).flatten(1)

    def answer(self, told, around):
        return self.last(self.thoughts(self.heard(told) + self.seen(around)))

    def forward(self, lines, label, index):
        height = lines.shape[1]
        row, column, image = index // self.across % height, index % self.across, index // (self.across * height)
        return self.answer(self.told(lines, label).flatten(0, 2)[index], self.around(lines, row, column, image))

    def next(self, lines, label, row: int, column: int, kept: dict):
        """Logits (N, levels) of one pixel of each image; `kept` from the pixels before, {} for the first: what need not be computed again."""
        if column == 0:
            x = self.label(label) if row == 0 else self.first(self.value(lines[:, row - 1] + 1).flatten(1))
            x = (x + self.place[row])[:, None]
            for i, block in enumerate(self.blocks):
                x, kept[i] = block(x, kept.get(i))
            kept["told"] = self.tell(x)[:, 0].unflatten(1, (self.across, -1))
        image = torch.arange(len(lines), device=lines.device)
        rows = lines[:, max(0, row - self.above) : row + 1]
        place = torch.full_like(image, rows.shape[1] - 1), torch.full_like(image, column)
        return self.answer(kept["told"][:, column], self.around(rows, *place, image))


class Gated(nn.Module):
    """A layer of the gated PixelCNN (van den Oord et al. 2016b, figure 2): one stack reads the rows above, the other the row itself.

    above, beside (N, W, H, V) to the same: what a pixel knows of the rows above its own; and of these and of its own row before it.
    """

    def __init__(self, width: int, dilation: int, labels: int):
        super().__init__()
        self.dilation = dilation
        self.above = nn.Conv2d(width, 2 * width, (2, 3), dilation=dilation)
        self.beside = nn.Conv2d(width, 2 * width, (1, 2), dilation=dilation)
        self.down, self.out = nn.Conv2d(2 * width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.label = nn.Embedding(labels, 2 * width)

    def forward(self, above, beside, label):
        far = self.dilation
        told = self.label(label)[:, :, None, None]
        higher = self.above(F.pad(above, (far, far, far, 0)))
        seen = self.beside(F.pad(beside, (far, 0, 0, 0))) + self.down(higher)
        return gate(higher + told), beside + self.out(gate(seen + told))


def gate(x):
    value, opening = x.chunk(2, dim=1)
    return value.tanh() * opening.sigmoid()


class PixelCNN(nn.Module):
    """The gated PixelCNN: no weight is masked, the image is shifted once at the entrance, and after that nothing looks down or right.

    Takes and gives what `Rows` does. It keeps nothing: each pixel drawn costs a pass over all rows so far.
    """

    def __init__(self, config: PixelConfig):
        super().__init__()
        self.value = Values(config.levels)
        self.above, self.beside = nn.Conv2d(8, config.near, (2, 3)), nn.Conv2d(8, config.near, (1, 2))
        distances = [(1, 2, 1, 4)[i % 4] for i in range(config.blocks)]
        self.layers = nn.ModuleList(Gated(config.near, distance, max(1, config.classes)) for distance in distances)
        self.last = Last(config.near, config.levels)

    def forward(self, lines, label, index):
        x = self.value(lines + 1).permute(0, 3, 1, 2)
        above = self.above(F.pad(x, (1, 1, 2, -1)))  # the two rows above
        beside = self.beside(F.pad(x, (2, -1, 0, 0))) + above  # the two pixels to the left
        for layer in self.layers:
            above, beside = layer(above, beside, label)
        return self.last(F.elu(beside.permute(0, 2, 3, 1).flatten(0, 2)[index]))

    def next(self, lines, label, row: int, column: int, kept: dict):
        """As `Rows.next`."""
        some, across = lines[:, : row + 1], lines.shape[2]
        return self(some, label, torch.arange(len(lines), device=lines.device) * (row + 1) * across + row * across + column)


NETWORKS = {"rows": Rows, "pixelcnn": PixelCNN}


class Pixels(Model):
    """Images (N, C, H, W), their pixels one after the other in reading order, a colour's channels in turn.

    Its likelihood is exact: that of the 8-bit image in bits/dim, or with 2 levels that of a binary image in nats.
    Raises UserError where images, labels or settings are not what they should be.
    """

    Config = PixelConfig
    measures, exact = ("bits", "samples"), True

    def __init__(self, config: PixelConfig):
        super().__init__(config)
        if config.width % config.heads:
            raise UserError(f"{config.heads} heads can't share a width of {config.width}: take a multiple of them.")
        if config.parts != 1:
            raise UserError("The networks of pixels know one label an image: train them on mnist rather than on pairs.")
        self.network = NETWORKS[config.network](config)

    @property
    def likelihood(self):
        return "nats" if self.config.levels == 2 else "bits/dim"

    @property
    def passes(self) -> int:
        return math.prod(self.config.image_shape)

    def lines(self, images):
        """Images as rows of whole numbers (N, H, W * C)."""
        if self.config.levels == 2:
            found = torch.bernoulli(pixels(self, images))
        else:
            check_images(images, self.config.image_shape)
            found = levels(images)
        return found.permute(0, 2, 3, 1).flatten(2).long()

    def images(self, lines):
        """And back, in [0, 1]."""
        channels = self.config.image_shape[0]
        return lines.unflatten(2, (-1, channels)).permute(0, 3, 1, 2).to(self.dtype) / (self.config.levels - 1)

    @torch.no_grad()
    def initialize(self, images, labels=None) -> None:
        """The last layer starts with how often each value occurs."""
        if self.network.last.started:
            return
        count = torch.bincount(self.lines(images).flatten(), minlength=self.config.levels) + 1
        self.network.last.bias.copy_((count / count.sum()).log())
        nn.init.zeros_(self.network.last.weight)

    def looked_at(self, lines):
        """Which pixels a step of training looks at, as an index of lines.flatten(), and how much each counts.

        Whatever is in doubt: all, but those whose surroundings of 3x3 pixels are alike. Most of an image is empty, and
        learned soon: of that a share is enough, drawn at random and weighed by what it stands for.
        """
        high = F.max_pool2d(lines[:, None].float(), 3, stride=1, padding=1)
        low = -F.max_pool2d(-lines[:, None].float(), 3, stride=1, padding=1)
        chance = torch.where(high == low, self.config.flat, 1.0).flatten()
        index = (torch.rand_like(chance) < chance).nonzero()[:, 0]
        return index, 1 / chance[index]

    def nats(self, lines, label, index):
        """-log p of the pixels at `index` of lines.flatten(), given all before each."""
        logits = self.network(lines, label, index)
        return F.cross_entropy(logits.to(self.dtype), lines.flatten()[index], reduction="none")

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """-log p(x) in bits a dimension; in training by a fair sample of the pixels."""
        lines = self.lines(images)
        index, weight = self.looked_at(lines) if self.training else (torch.arange(lines.numel(), device=lines.device), 1.0)
        nats = self.nats(lines, self._label(labels, len(lines)), index)
        return {"loss": (weight * nats).sum() / (lines.numel() * math.log(2))}

    @torch.no_grad()
    def log_prob(self, images, labels=None, samples: int = 1) -> torch.Tensor:
        """log p(x) in nats, (N,), of the 8-bit or binary image itself: exact, whatever the number of samples."""
        lines, found = self.lines(images), []
        for part, label in zip(lines.split(100), self._label(labels, len(lines)).split(100), strict=True):  # a window a pixel is much memory
            found.append(-self.nats(part, label, torch.arange(part.numel(), device=part.device)).view(len(part), -1).sum(1))
        return torch.cat(found)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None, start=None, known=None) -> torch.Tensor:
        """n images in [0, 1]. start (n, C, H, W) and known (H, W): those pixels are as given; one drawn knows of them what comes before it."""
        check_draw(n, temperature)
        check_labels(self, labels, n)
        if (start is None) != (known is None):
            raise UserError("start and known go together: the pixels, and which of them are known.")
        label, parts, size = self._label(labels, n), [], at_once(self.device, 250)
        given = None if start is None else self.lines(start)
        known = torch.zeros(self.config.image_shape[1:], dtype=torch.bool) if known is None else known.cpu()
        for low in range(0, n, size):
            some = slice(low, low + size)
            parts.append(self.images(self._draw(label[some], temperature, None if given is None else given[some], known)))
        return torch.cat(parts)

    def _draw(self, label, temperature, given, known):
        channels, height, across = self.config.image_shape
        lines, kept = torch.zeros(len(label), height, across * channels, dtype=torch.long, device=self.device), {}
        for row in range(height):
            for column in range(across * channels):
                there = known[row, column // channels]
                if there:
                    lines[:, row, column] = given[:, row, column]
                if there and column:  # at the start of a row the network reads the row before
                    continue
                logits = self.network.next(lines, label, row, column, kept)
                if not there:
                    lines[:, row, column] = pick(logits, temperature)
        return lines
