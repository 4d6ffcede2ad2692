"""A flow map: from one time of a flow to another in a single evaluation, so that an image takes one, two or four of them.

A velocity says where a path goes on here and now. The mean velocity u(x, t, s) says it of the whole way from t to s,

    x_s = x_t + (s - t) u(x_t, t, s),

which is the chord of the path (Geng et al. 2025, equation 3; Boffi et al. 2024). A trained velocity, the teacher, walks the
paths with all its small steps; u learns their chords, by a regression as plain as the teacher's own. Of the whole way alone,
t = 0 and s = 1, this is the distillation of Luhman & Luhman (2021).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.layers import at_once, check_labels, check_latents
from helpers.models.matching import FlowMatching, MatchingConfig, path, solve
from helpers.models.model import Player
from helpers.models.settings import Size, Weight, Within
from helpers.models.velocities import UNet
from helpers.progress import bar


@dataclass(frozen=True)
class FlowMapConfig(MatchingConfig):
    """The teacher's configuration, whose `guidance` goes into its paths; `steps` are those of a sample, each one evaluation."""

    steps: Size = 2
    grid: Size = 8  # places of a path that are kept, a power of 2: a sample takes as many steps at most
    fine: Size = 2  # Heun steps of the teacher from one place to the next
    walks: Annotated[int, Within(40)] = 40_000  # paths of the teacher, of which a 20th is for validation
    hops: tuple[Weight, ...] = (0.4, 0.3, 0.2, 0.1)  # share of the batch that goes the whole way at once, half of it, a quarter, ...
    lesson: Literal["chords", "identity", "reflow"] = "chords"  # what is learned: or identity, or reflow, see FlowMap


class MeanVelocity(UNet):
    """u(x, t, s, label): the teacher's network, told the end of the way as well; it starts as the teacher."""

    def __init__(self, config: FlowMapConfig):
        super().__init__(config)
        told = 2 * config.width[1]
        self.way = nn.Sequential(nn.Linear(2 * config.width[0], told), nn.SiLU(), nn.Linear(told, told))
        nn.init.zeros_(self.way[-1].weight)
        nn.init.zeros_(self.way[-1].bias)

    def forward(self, x, t, s, label):
        return self.network(x, F.silu(self.told(t, label) + self.way(self.angles(s - t))))


def chords(paths, start, length):
    """Points (N, ...) on paths (N, K + 1, ...), kept at K + 1 even times from 0 to 1, and the mean velocities (N, ...) from there.

    They are at place start (N,) of each path, and go over length (N,) places.
    """
    rows, grid = torch.arange(len(paths), device=paths.device), paths.shape[1] - 1
    x, way = paths[rows, start], (length / grid).view(-1, *[1] * (paths.ndim - 2))
    return x, (paths[rows, start + length] - x) / way


def hop(mean_velocity, x, steps: int) -> list[torch.Tensor]:
    """x (N, ...) at each of `steps` + 1 even times from noise to image, by mean_velocity(x, t, s): one evaluation each."""
    points = [x]
    for i in range(steps):
        t, s = (x.new_full((len(x),), place / steps) for place in (i, i + 1))
        points.append(points[-1] + mean_velocity(points[-1], t, s) / steps)
    return points


def jump(mean_velocity, noise, count: int) -> list[torch.Tensor]:
    """Data (N, ...) after each of `count` jumps from noise to the end, half as much noise being put in again before each but the first.

    Of times 0, 1/2, 3/4, 7/8 ... (Song et al. 2023, consistency models, algorithm 1): what an earlier jump has blurred is drawn anew.
    Gradients pass through each jump alone.
    """
    points, x, t = [], noise, 0.0
    for i in range(count):
        if i:
            t = (1 + t) / 2
            x = t * points[-1].detach() + (1 - t) * torch.randn_like(noise)
        start = x.new_full((len(x),), t)
        points.append(x + (1 - t) * mean_velocity(x, start, torch.ones_like(start)))
    return points


class FlowMap(FlowMatching):
    """A mean velocity of images, and the velocity that teaches it.

    A training starts from the weights of a FlowMatching model (`weights.start_from`). `encode` and `log_prob` are the teacher's.
    What is learned, config.lesson:
    chords: those of the teacher's paths. Of the images it is given it takes only how many they are.
    identity: what follows of the chord when x_t moves along the path, u = v + (s - t) du/dt, with the teacher's v (Geng et al.
        2025, equation 6). No path is walked; du/dt is that of the network as it is, a difference over a short time.
    reflow: the straight line from each noise to where its path ended (Liu et al. 2023, section 2.1): a velocity of paths that
        are nearly straight, so that few steps do. Whatever s, u is that velocity.
    """

    Config = FlowMapConfig
    measures = ("samples", "hops")

    def __init__(self, config: FlowMapConfig):
        super().__init__(config)
        if config.grid < 1 or config.grid & (config.grid - 1):
            raise UserError(f"A grid of {config.grid} places was given: take a power of 2.")
        if config.grid % config.steps:
            raise UserError(
                f"{config.steps} steps to an image were asked for: take one that divides {config.grid}, the places of the teacher's paths."
            )
        if len(config.hops) != config.grid.bit_length() or sum(config.hops) <= 0:
            raise UserError(f"{config.hops} were given as shares of the ways: {config.grid.bit_length()} are needed, not all of them 0.")
        self.velocity.requires_grad_(False)
        self.mean_velocity = MeanVelocity(config)
        self.mean_velocity.first.started = False  # by weights of another flow map

    @classmethod
    def settings_from(cls, kind: type, config) -> dict:
        own = ("grid", "fine", "hops", "steps") if issubclass(kind, FlowMap) else ()  # more of the same
        if not issubclass(kind, FlowMatching) or config.network != "unet":
            raise UserError(f"A flow map starts from the velocity of a U-Net, and these weights are of a {kind.__name__}.")
        return {name: getattr(config, name) for name in ("width", "blocks", "attention", "classes", "parts", "guidance", *own)}

    @property
    def passes(self) -> int:
        return self.config.steps

    def regions(self):
        return [self.velocity, self.mean_velocity]

    # ---- in training

    def players(self) -> list[Player]:
        return [Player("", self.mean_velocity, self.loss)]

    def averaged_part(self) -> nn.Module:
        return self.mean_velocity

    def initialize(self, images, labels=None) -> None:
        if not self.mean_velocity.first.started:
            self.mean_velocity.load_state_dict(self.velocity.state_dict(), strict=False)  # all but `way`

    @torch.no_grad()
    def walk(self, noise, label):
        """The teacher's paths from noise (N, C, H, W) told label (N,), at the places that are kept: (N, grid + 1, C, H, W)."""
        return torch.stack(solve(self.guided(label, self.config.guidance), noise, self.config.grid * self.config.fine)[:: self.config.fine], dim=1)

    def prepare(self) -> None:
        """Walk all paths that are learned from: the same in every process, and in one that goes on with a training."""
        if self.config.lesson == "identity":
            return
        config, chance, size = self.config, torch.Generator().manual_seed(0), at_once(self.device)
        label = torch.arange(config.walks) % max(1, self.velocity.labels)
        label[torch.rand(config.walks, generator=chance) < config.hidden_labels] = self.velocity.labels
        label = label.to(self.device)
        paths = torch.empty(config.walks, config.grid + 1, *config.image_shape, dtype=torch.float16, device=self.device)  # they are many
        parts = zip(paths.split(size), label.split(size), strict=True)
        for kept, told in bar(parts, desc="the teacher's paths", unit_scale=size, unit="path", total=-(-len(paths) // size), leave=False):
            noise = torch.randn(len(told), *config.image_shape, generator=chance).to(self.device, self.dtype)
            kept.copy_(self.walk(noise, told))
        self.paths = paths, label

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean squared error a dimension against what the lesson says the mean velocity should be."""
        label = self.hidden(self._label(labels, len(images)))
        x, t, s, label, target = self.identity(images, label) if self.config.lesson == "identity" else self.taught(len(images))
        return {"loss": F.mse_loss(self.mean_velocity(x, t, s, label), target)}

    def taught(self, n: int):
        """Points x on n of the teacher's paths at times t, the ends s of a way from there, the label, and the mean velocity."""
        (paths, label), grid = self.paths, self.config.grid
        held_out = max(1, len(paths) // 20)
        first, last = (held_out, len(paths)) if self.training else (0, held_out)
        index = torch.randint(first, last, (n,), device=self.device)
        length = grid >> torch.multinomial(torch.tensor(self.config.hops), n, replacement=True).to(self.device)
        start = (torch.rand(n, device=self.device) * (grid // length)).long() * length
        some, t, s = paths[index].to(self.dtype), start / grid, (start + length) / grid
        if self.config.lesson == "reflow":
            t, way = torch.rand(n, device=self.device), s - t
            x, target = path(some[:, 0], some[:, -1], t)
            return x, t, t + way, label[index], target
        x, target = chords(some, start, length)
        return x, t, s, label[index], target

    @torch.no_grad()
    def identity(self, images, label, short: float = 0.02):
        """The same without a path: from the velocity at a point, and from how u changes along it."""
        data, n = self.points(images), len(images)
        t = torch.rand(n, device=self.device) * (torch.rand(n, device=self.device) > 0.25)  # a quarter of the ways begin at noise
        s = t + (1 - t) * torch.rand(n, device=self.device)
        s = torch.where(torch.rand(n, device=self.device) < 0.25, torch.ones_like(s), s)
        x, _ = path(torch.randn_like(data), data, t)
        dt = (s - t).clamp(1e-3, short)
        step = dt.view(-1, 1, 1, 1)
        with torch.autocast(self.device.type, enabled=False):  # of a small difference half precision would leave nothing
            v = self.guided(label, self.config.guidance)(x, t)
            change = (self.mean_velocity(x + step * v, t + dt, s, label) - self.mean_velocity(x, t, s, label)) / step
        return x, t, s, label, v + (s - t).view(-1, 1, 1, 1) * change.clamp(-3, 3)

    # ---- drawing

    @torch.no_grad()
    def trajectory(self, latents, labels=None, steps: int | None = None) -> list[torch.Tensor]:
        """What `decode` passes through, from noise to image, each (N, C, H, W) in [0, 1]."""
        return [self.images(x) for x in self.solved(latents, labels, steps)]

    @torch.no_grad()
    def decode(self, latents, labels=None, steps: int | None = None, stir: bool = False) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D), in so many steps instead of the configuration's; stir: as `jump`."""
        return self.images(self.solved(latents, labels, steps, stir)[-1])

    def solved(self, latents, labels=None, steps: int | None = None, stir: bool = False) -> list[torch.Tensor]:
        steps, most = self.config.steps if steps is None else steps, self.config.grid.bit_length()
        if stir and not 1 <= steps <= most:
            raise UserError(f"{steps} jumps to an image were asked for: take 1 to {most}.")
        if not stir and (steps < 1 or self.config.grid % steps):
            raise UserError(f"{steps} steps to an image were asked for: take one that divides {self.config.grid}.")
        check_latents(latents, self.latent_dim)
        check_labels(self, labels, len(latents))
        label = self._label(labels, len(latents))
        return (jump if stir else hop)(lambda x, t, s: self.mean_velocity(x, t, s, label), latents.view(-1, *self.point_shape), steps)
