"""The exercises of notebook 01: flows."""

import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, logdet, same, two


@exercise(1, 1)
def bits_per_dim(answer):
    """`f(loss, dims)`: a flow was trained on grey levels with noise in their bins, divided by 256. Its `loss`, (N,), is minus the
    log-density of an image of `dims` pixels, in nats. Return bits per dimension of the 8-bit image, (N,)."""
    for dims in (784, 3072):
        found = given(answer(torch.tensor([0.0, -dims * math.log(256), dims * math.log(2)]), dims), (3,))
        if abs(found[0]) < 1e-4:
            raise Wrong("A loss of 0 is a density of 1 on all of [0, 1]: it knows nothing, and that costs 8 bits a pixel. Yours says 0 bits.")
        if abs(found[0] - 8 / dims) < 1e-3:
            raise Wrong("Each of the pixels was divided by 256, not the image once: 8 bits a pixel, and yours adds 8 bits an image.")
        if abs(found[1] - (8 - math.log(256))) < 1e-3:
            raise Wrong("The loss is still in nats: divide it by log 2, too, before the 8 bits are added.")
        if abs(found[0] - 8 * math.log(2)) < 1e-3:
            raise Wrong("A loss of 0 should cost 8 bits a pixel; yours says 5.545, which are nats.")
        same(
            found[:1], torch.tensor([8.0]), f"A loss of 0, a density that knows nothing, should cost 8 bits a pixel, and yours costs {found[0]:.3f}."
        )
        why = f"A density of 256 a pixel is sure of the bin: that should cost 0 bits, and yours costs {found[1]:.3f} for {dims} pixels."
        same(found[1:2], torch.tensor([0.0]), why, 1e-3)
        same(
            found[2:],
            torch.tensor([9.0]),
            f"A density of one half a pixel should cost 9 bits, and yours costs {found[2]:.3f} for {dims} pixels.",
            1e-3,
        )


@exercise(1, 2)
def coupling(answer):
    """`f(z, mask, network)`: undo z = mask x + (1 - mask) (x + t) e^s with s, t = network(mask x), for z (N, D); return x and the
    log-determinant (N,) of the way back."""
    weight = torch.randn(5, 10)

    def network(x):
        s, t = (x @ weight.to(x.dtype)).tanh().chunk(2, dim=1)
        return s, t

    for mask in (torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])):

        def forward(x, mask=mask):
            s, t = network(mask * x)
            return mask * x + (1 - mask) * (x + t) * s.exp()

        x = torch.randn(6, 5)
        back, log_det = two(answer(forward(x), mask.clone(), network), ((6, 5), (6,)), ("x", "the log-determinant"))
        same(back * mask, x * mask, "The part that the mask leaves alone should come back as it was.")
        same(back, x, "It does not undo the coupling. In which order were the shift and the scale applied, and of what does the network see s and t?")
        truth = -logdet(forward, x)
        why = f"The log-determinant of the first row is {truth[0]:.3f} by autograd, yours is {log_det[0]:.3f}. Sign? Sum? Which elements?"
        same(log_det, truth, why)


@exercise(1, 2)
def bound(answer):
    """`f(log_p, dims, share)`: somebody fills only a share of each bin: y = (x + u) / 256 with u uniform in [0, share). A part of a bin has at most
    the mass of the whole, so this is a bound, too, if it is counted right. Given log_p, (N,), the log-density log p(y) of images of `dims` pixels,
    return the lower bound on log P(x), (N,), in nats."""
    log_p = torch.tensor([0.0, 3.0])
    for share, dims in ((1.0, 10), (0.5, 10), (0.25, 4)):
        found = given(answer(log_p.clone(), dims, share), (2,))
        truth = log_p - dims * math.log(256 / share)
        if torch.allclose(found, log_p + dims * math.log(256 / share)):
            raise Wrong("The sign: the bound is log p(y) less log q(y | x), and q is a high density in a small box.")
        if share == 1.0:
            why = f"With bins filled, a density of 1 gives each of {dims} values 1/256: {truth[0]:.3f} nats. Yours says {found[0]:.3f}."
        else:
            why = (
                f"In {share:g} of a bin a density of 1 has {share:g} of its mass: {truth[0]:.3f} nats for {dims} values. Yours says {found[0]:.3f}. "
                "How dense is noise that has less room?"
            )
        same(found, truth, why)


RADIUS, WIDTH, ENOUGH = 1.5, 0.12, 1.65  # of the ring, and the nats a point that an answer may need; its entropy is 1.54


def points_on_a_ring(n: int, seed: int = 0) -> torch.Tensor:
    """n points (n, 2) near a circle of radius 1.5: the angle uniform, the radius with a standard deviation of 0.12."""
    generator = torch.Generator().manual_seed(seed)
    radius, angle = RADIUS + WIDTH * torch.randn(n, generator=generator), 2 * math.pi * torch.rand(n, generator=generator)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


@exercise(1, 2)
def ring(answer):
    """`f(x)`: the log-density, (N,), at points x (N, 2), of a flow of your own of `exercises.points_on_a_ring(4_000)`. It should integrate to 1,
    and need at most 1.65 nats for a new point. The training above is not enough: take more couplings, or more steps. (Or no network, and the
    right change of variables.)"""
    fresh, line = points_on_a_ring(2_000, seed=1), torch.linspace(-3, 3, 181)
    found = answer(fresh.clone())
    if isinstance(found, torch.Tensor) and found.shape == (2_000,):
        found = found.detach().clamp(min=-1e4)  # a density may be 0 off the ring
    found = given(found, (2_000,))
    if not torch.allclose(found[:7], torch.as_tensor(answer(fresh[:7].clone())).detach().float().clamp(min=-1e4), atol=1e-3):
        raise Wrong("The log-density of a point should not depend on which others are asked for with it.")
    mass = answer(torch.cartesian_prod(line, line) + 1e-4).detach().double().exp().sum().item() * (6 / 180) ** 2
    if abs(mass - 1) > 0.03:
        raise Wrong(f"It integrates to {mass:.3f} over the square from -3 to 3: a density should to 1. Is the log-determinant in it, with its sign?")
    nats = -found.mean().item()
    if nats > ENOUGH:
        raise Wrong(f"It needs {nats:.3f} nats a point. Train for longer, or take more couplings: a Gaussian is in one piece and has no hole.")
