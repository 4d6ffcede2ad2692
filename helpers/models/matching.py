"""Flow matching: a flow with infinitely many layers, each of which moves every image a little.

A velocity v(x, t) moves noise at time 0 to images at time 1 along dx/dt = v(x, t). Where the paths of training are straight
lines from a noise to an image, v has only to predict the direction of the line, a regression without any determinant (Lipman
et al. 2023; Liu et al. 2023; Albergo & Vanden-Eijnden 2023). Three small things make it up: the path, the velocity, the solver.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import nn

from helpers import UserError
from helpers.models.layers import at_once, check_images, check_labels, check_latents
from helpers.models.model import Model
from helpers.models.settings import Count, Only, Share, Size
from helpers.models.velocities import NETWORKS


@dataclass(frozen=True)
class PathConfig:
    """How a velocity is trained and solved, whatever moves along it."""

    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    classes: Count = 0  # above 0 the velocity sees the label, or none
    parts: Size = 1
    hidden_labels: Annotated[Share, Only("classes")] = 0.1  # share of labels hidden in training, for the velocity without one
    times: Literal["logit-normal", "uniform"] = "logit-normal"  # how t is drawn in training, or uniform
    pairing: Literal["random", "optimal"] = "random"  # of noises and images in a batch, or optimal: by minibatch optimal transport
    steps: Size = 10  # Heun steps of a sample, each of two evaluations
    guidance: Annotated[float, Only("classes")] = 0.0  # how far beyond the velocity of a label a sample goes, away from that of none


@dataclass(frozen=True)
class MatchingConfig(PathConfig):
    """And a velocity network of two resolutions."""

    width: tuple[Size, Size] = (32, 64)  # channels at half and at a quarter of the image's sides
    blocks: Count = 2  # residual blocks at each resolution, on the way down and on the way up
    attention: bool = False  # self-attention at the coarser one
    network: Literal["unet", "transformer"] = "unet"  # or transformer: of twice the coarser width, and twice as many blocks


# ---------------------------------------------------------------------------------------------------------- path


def path(noise, data, t):
    """The point at time t, (N,), of the straight path from noise to data, both (N, ...), and its velocity, which is the same at every t.

    x_t = (1 - t) noise + t data; dx_t/dt = data - noise (Lipman et al. 2023, equations 20 to 23, with a width of 0 in the end).
    """
    t = t.view(-1, *[1] * (data.ndim - 1))
    return (1 - t) * noise + t * data, data - noise


def draw_times(n: int, kind: str, device) -> torch.Tensor:
    """n times in (0, 1), one in each n-th of the distribution, in random order: uniform, or logit-normal, sigmoid(N(0, 1)).

    The second looks more often at the middle, where the path is decided (Esser et al. 2024, equation 19); what that is worth
    is in the record `velocity`.
    """
    share = (torch.randperm(n, device=device) + torch.rand(n, device=device)) / n
    share = share.clamp(1e-6, 1 - 1e-6)
    return (2**0.5 * torch.erfinv(2 * share - 1)).sigmoid() if kind == "logit-normal" else share  # N(0, 1)'s quantiles; Apple's GPU has no ndtri


def pair(noise, data):
    """The noises in the order that brings each nearest to its image, by squared distance over the batch (Tong et al. 2024, section 3.2).

    Its paths seldom cross, so the velocity is nearly that of one path: straighter, and solved in fewer steps.
    """
    cost = torch.cdist(data.flatten(1), noise.flatten(1)).square()
    return noise[torch.as_tensor(linear_sum_assignment(cost.cpu().numpy())[1], device=noise.device)]


def matching_loss(velocity, data, t, noise=None):
    """Mean squared error of velocity(x, t) -> (N, ...) against that of the path; data (N, ...), t (N,).

    Its gradient is that of the distance to the marginal velocity, the mean over all paths through x at t, which is not known
    of data that one can only draw (Lipman et al. 2023, theorem 2).
    """
    x, target = path(torch.randn_like(data) if noise is None else noise, data, t)
    return F.mse_loss(velocity(x, t), target)


def exact_velocity(points, x, t):
    """The marginal velocity E[x_1 - x_0 | x_t = x], (N, D), of data that are the points (K, D) alone, at x (N, D) and t (N,) below 1.

    The line through x to point i began at the noise (x - t x_i) / (1 - t), so that noise's density is the weight of the line.
    """
    t = t[:, None]
    weight = (-(x[:, None] - t[..., None] * points).square().sum(2) / (2 * (1 - t) ** 2)).softmax(1)
    return (weight @ points - x) / (1 - t)


# -------------------------------------------------------------------------------------------------------- solver


def euler(velocity, x, t, dt):
    """x a step of dt later, by the velocity here: one evaluation, an error of dt^2."""
    return x + dt * velocity(x, t)


def heun(velocity, x, t, dt):
    """x a step of dt later, by the mean of the velocities here and there: two evaluations, an error of dt^3."""
    here = velocity(x, t)
    return x + dt / 2 * (here + velocity(x + dt * here, t + dt))


SOLVERS = {"euler": euler, "heun": heun}


def solve(velocity, x, steps: int, start: float = 0.0, end: float = 1.0, solver: str = "heun", look_at_1: bool = False):
    """x (N, ...) at each of `steps` + 1 times from start to end, a list; from 1 to 0 it goes back from images to noise.

    The last step to time 1 is Euler's (Karras et al. 2022, algorithm 1): at 1 no noise is left to be seen, so the velocity
    there is that of no noise at all, and half of what the step should take away would stay. look_at_1: let Heun look there.
    """
    if steps < 1:
        raise UserError(f"{steps} steps from noise to image were asked for: take at least 1.")
    dt, points = (end - start) / steps, [x]
    for i in range(steps):
        step = euler if i == steps - 1 and end == 1 and not look_at_1 else SOLVERS[solver]
        points.append(step(velocity, points[-1], points[-1].new_full((len(x),), start + i * dt), dt))
    return points


def evaluations(steps: int, solver: str = "heun") -> int:
    """How often `solve` asks for the velocity on its way to time 1."""
    return steps if solver == "euler" else 2 * steps - 1


def straightness(velocity, noise, steps: int = 20) -> torch.Tensor:
    """How far the velocity along each path is from that of its chord, squared, mean over times and dimensions, (N,): 0 is straight.

    Of straight paths one step is enough (Liu et al. 2023, section 2.2).
    """
    points = solve(velocity, noise, steps)
    chord = points[-1] - points[0]
    bends = [(steps * (after - before) - chord).square().flatten(1).mean(1) for before, after in itertools.pairwise(points)]
    return torch.stack(bends).mean(0)


def divergence(velocity, x, t, probe=None):
    """v(x, t) and the trace of its Jacobian dv/dx, (N,): exact, a backward pass a dimension, or its estimate probe' dv/dx probe.

    probe: of the shape of x, of independent entries of mean 0 and variance 1: the estimate is then right on average
    (Grathwohl et al. 2019, equation 8).
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        v = velocity(x, t)
        if probe is not None:
            trace = (torch.autograd.grad(v, x, probe)[0] * probe).flatten(1).sum(1)
        else:
            flat = v.flatten(1)
            columns = [torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i] for i in range(flat.shape[1])]
            trace = torch.stack(columns).sum(0)
    return v.detach(), trace.detach()


def log_density(velocity, x, steps: int, probe=None):
    """log p(x) of the density at time 1, (N,), in nats, and the noise that x came from; `probe` as in `divergence`.

    By the instantaneous change of variables, d log p / dt = -tr dv/dx along a path (Chen et al. 2018, theorem 1): x goes back
    to the noise in Heun steps, and what the trace adds up to goes with it.
    """
    dt, total = -1 / steps, x.new_zeros(len(x))
    for i in range(steps):
        t = x.new_full((len(x),), 1 + i * dt)
        here, trace = divergence(velocity, x, t, probe)
        there, trace_there = divergence(velocity, x + dt * here, t + dt, probe)
        x, total = x + dt / 2 * (here + there), total + dt / 2 * (trace + trace_there)
    return total - 0.5 * (x.square() + math.log(2 * math.pi)).flatten(1).sum(1), x


# ---------------------------------------------------------------------------------------------------------- model


class Matching(Model):
    """A velocity between noise and data, whatever the data are, trained by flow matching.

    A family says what moves: `velocity`, a network v(x, t, label) whose last of `labels` + 1 labels stands for none;
    `point_shape`, the shape of one point; `points` of images, and `images` of points. With config.classes labels (N,) may be
    given; None is the velocity without one, of all classes together. Latents (N, D) are the noise itself.
    Raises UserError where images, labels, counts or settings are not what they should be.
    """

    measures, free, halves = ("samples", "unlabelled"), True, True
    velocity: nn.Module

    def __init__(self, config: PathConfig):
        super().__init__(config)
        if config.pairing == "optimal" and config.classes:
            raise UserError("Optimal pairing was asked for with labels: it would send each class noise of its own, and none is drawn so; leave one.")

    @property
    def point_shape(self) -> tuple[int, ...]:
        return self.config.image_shape

    @property
    def latent_dim(self) -> int:
        return math.prod(self.point_shape)

    @property
    def passes(self) -> int:
        return evaluations(self.config.steps) * (2 if self.config.guidance and self.labelled else 1)

    def regions(self):
        return [self.velocity]

    # ---- in training

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean squared error of the velocity a dimension, at a random time of a random path to each image's point."""
        return self.loss_of(self.points(images), labels)

    def loss_of(self, data, labels=None) -> dict[str, torch.Tensor]:
        """The same of points (N, ...) themselves."""
        label = self.hidden(self._label(labels, len(data)))
        noise = torch.randn_like(data)
        if self.config.pairing == "optimal":
            noise = pair(noise, data)
        times = draw_times(len(data), self.config.times, data.device).to(data.dtype)
        return {"loss": matching_loss(lambda x, t: self.velocity(x, t, label), data, times, noise)}

    def hidden(self, label):
        """In training a share of the labels is none, so that the velocity without one is learned too."""
        if not (self.labelled and self.training):
            return label
        return label.masked_fill(torch.rand(len(label), device=label.device) < self.config.hidden_labels, self.velocity.labels)

    # ---- both ways

    def field(self, labels=None, n: int = 1, guidance: float | None = None):
        """The velocity as a function of (x, t) for labels (n,), or for none.

        guidance w leads away from what is likely without the label: (1 + w) v(x, t, label) - w v(x, t) (Ho & Salimans 2022,
        equation 6). None: the configuration's.
        """
        check_labels(self, labels, n)
        label, guidance = self._label(labels, n), self.config.guidance if guidance is None else guidance
        if labels is None or not guidance:
            return lambda x, t: self.velocity(x, t, label)
        return self.guided(label, guidance)

    def guided(self, label, guidance: float):
        """The same for labels (n,) of which some may stand for none, and of any guidance."""
        none = torch.full_like(label, self.velocity.labels)

        def velocity(x, t):
            told, free = self.velocity(torch.cat([x, x]), torch.cat([t, t]), torch.cat([label, none])).chunk(2)
            return told + guidance * (told - free)

        return velocity

    @torch.no_grad()
    def decode(self, latents, labels=None, steps: int | None = None, guidance: float | None = None, **how) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D). steps, guidance: instead of the configuration's; `how` as in `solve`."""
        return self.images(self.solved(latents, labels, steps, guidance, **how)[-1])

    @torch.no_grad()
    def trajectory(self, latents, labels=None, steps: int | None = None, guidance: float | None = None, **how) -> list[torch.Tensor]:
        """What `decode` passes through, from noise to image, each (N, C, H, W) in [0, 1]."""
        return [self.images(x) for x in self.solved(latents, labels, steps, guidance, **how)]

    def solved(self, latents, labels=None, steps: int | None = None, guidance: float | None = None, **how) -> list[torch.Tensor]:
        """The points that latents (N, D) pass through, from noise to data."""
        check_latents(latents, self.latent_dim)
        noise = latents.view(-1, *self.point_shape)
        return solve(self.field(labels, len(noise), guidance), noise, self.config.steps if steps is None else steps, **how)

    def noise_of(self, points, labels=None, steps: int | None = None) -> torch.Tensor:
        """The way back: the noise (N, D) that points come from, at guidance 0."""
        return solve(self.field(labels, len(points), 0.0), points, self.config.steps if steps is None else steps, 1.0, 0.0)[-1].flatten(1)

    def _label(self, labels, n):
        return torch.full((n,), self.velocity.labels, device=self.device) if labels is None or not self.labelled else labels


class FlowMatching(Matching):
    """Flow matching of images themselves, which lie in [-1, 1] inside.

    Images are uint8, or floats in [0, 1] that stand for the bin they fall into. encode and decode follow the same paths both
    ways, as exactly as the steps are small (with a label: at guidance 0, which is what encode takes; decode takes the
    configuration's unless it is told).
    """

    Config = MatchingConfig
    measures = ("samples", "unlabelled", "straightness")

    def __init__(self, config: MatchingConfig):
        super().__init__(config)
        _, height, width = config.image_shape
        if height % 4 or width % 4:
            raise UserError(f"Images of {height}x{width} can't be halved twice: both sides must be divisible by 4; pad the images.")
        if any(size % 8 for size in config.width):
            raise UserError(f"Widths of {config.width} were given: their channels are normalised in 8 groups, so take multiples of 8.")
        self.velocity = NETWORKS[config.network](config)

    def points(self, images, noise: float | None = None):
        """Images with noise in their bins, in [-1, 1]: at random, or all with the same."""
        check_images(images, self.config.image_shape)
        bins = images.to(self.dtype) if images.dtype == torch.uint8 else (images.to(self.dtype) * 256).floor().clamp(max=255)
        return (bins + (torch.rand_like(bins) if noise is None else noise)) / 128 - 1

    def images(self, points):
        return ((points + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def encode(self, images, labels=None, steps: int | None = None) -> torch.Tensor:
        """The noise (N, D) that images come from: the path back, from the middle of each bin."""
        return self.noise_of(self.points(images, noise=0.5), labels, steps)

    def log_prob(self, images, labels=None, samples: int = 1, steps: int = 50) -> torch.Tensor:
        """Lower bound on the log-probability of 8-bit images in nats, (N,), with uniform noise in the bins, as estimated by Hutchinson.

        samples: of noise and probe together; the estimate is their mean, and unbiased but for the size of the steps.
        """
        if samples < 1:
            raise UserError(f"{samples} samples of noise and probe were asked for: ask for at least 1.")
        size = at_once(images.device)
        found = []
        for i in range(0, len(images), size):
            part = slice(i, i + size)
            field = self.field(None if labels is None else labels[part], len(images[part]), 0.0)
            estimates = []
            for _ in range(samples):
                data = self.points(images[part])
                probe = torch.randint_like(data, 2) * 2 - 1
                estimates.append(log_density(field, data, steps, probe)[0])
            found.append(torch.stack(estimates).mean(0))
        return torch.cat(found) - self.latent_dim * math.log(128)  # of densities on [-1, 1], where a bin is 1/128 wide
