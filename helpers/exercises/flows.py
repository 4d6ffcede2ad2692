"""The exercises of notebook 01: flows."""

import math

import torch

from helpers.exercises.checks import Wrong, exercise, given, logdet, same, two


@exercise(1, 1)
def bits_per_dim(answer):
    """`f(nats, dims)`: what -log P(x) of images, nats (N,), each of `dims` values, is in bits per dimension, (N,)."""
    found = given(answer(torch.tensor([10 * math.log(256), 0.0]), 10), (2,))
    if torch.isclose(found[0], torch.tensor(math.log(256))):
        raise Wrong("A uniform choice among 256 levels should cost 8 bits a value; yours costs log 256: these are nats.")
    same(found, torch.tensor([8.0, 0.0]), f"A uniform choice among 256 levels should cost 8 bits a value, and yours costs {found[0]:.3f}.")


@exercise(1, 1)
def guided(answer):
    """`f(told, untold, w)`: the velocity of classifier-free guidance of strength w, of the velocities told the class and told nothing."""
    told, untold = torch.randn(2, 4, 3)
    same(given(answer(told, untold, 0.0), (4, 3)), told, "At strength 0 it should be the velocity that was told the class.")
    same(answer(told, untold, -1.0), untold, "At strength -1 it should be the velocity that was told nothing.")
    same(answer(told, untold, 2.0), 3 * told - 2 * untold, "Above 0 it should go beyond the class's velocity, away from that which was told nothing.")


@exercise(1, 2)
def coupling(answer):
    """`f(z, mask, network)`: undo z = mask x + (1 - mask) (x + t) e^s with s, t = network(mask x), for z (N, D); return x and the
    log-determinant (N,) of the way back."""
    mask, weight = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0]), torch.randn(5, 10)

    def network(x):
        s, t = (x @ weight).tanh().chunk(2, dim=1)
        return s, t

    def forward(x):
        s, t = network(mask * x)
        return mask * x + (1 - mask) * (x + t) * s.exp()

    x = torch.randn(6, 5)
    back, log_det = two(answer(forward(x), mask, network), ((6, 5), (6,)), ("x", "the log-determinant"))
    same(back * mask, x * mask, "The part that the mask leaves alone should come back as it was.")
    same(back, x, "It does not undo the coupling. In which order were the shift and the scale applied, and of what does the network see s and t?")
    truth = -logdet(forward, x)
    same(log_det, truth, f"The log-determinant of the first row is {truth[0]:.3f} by autograd, yours is {log_det[0]:.3f}. Sign? Sum? Which elements?")


@exercise(1, 2)
def dequantised(answer):
    """`f(x, u)`: whole numbers x (N, D) of 256 levels and noise u in [0, 1) to values y in [0, 1) that fill their bins, and the
    log-determinant (N,) of the map from x + u to y."""
    x, edges = torch.arange(256.0).view(2, 128), torch.zeros(2, 128)
    y, log_det = two(answer(x, edges), ((2, 128), (2,)), ("y", "the log-determinant"))
    same(y.flatten(), torch.arange(256) / 256, "Without noise the level k should lie at the lower edge of its bin, k / 256.")
    high = answer(x, edges + 1 - 1e-6)[0]
    same(
        high.flatten(),
        torch.arange(1, 257) / 256,
        "With the highest noise a value should reach the upper edge of its bin: the noise must fill all of it.",
    )
    same(log_det, -128 * math.log(256), "The log-determinant counts a factor of 1/256 for each of the D values.")


@exercise(1, 2)
def euler(answer):
    """`f(velocity, x, steps)`: follow velocity(x, t), t (N,), from time 0 to 1 by so many steps of Euler's; x (N, D), the end of the way."""
    times = []

    def velocity(x, t):
        times.append(t.flatten()[0].item())
        return x

    found = given(answer(velocity, torch.ones(3, 2), 4), (3, 2))
    if len(times) != 4:
        raise Wrong(f"4 steps should ask for the velocity 4 times, and yours asked {len(times)} times.")
    same(
        torch.tensor(times),
        torch.tensor([0, 0.25, 0.5, 0.75]),
        f"The velocity should be asked for at the start of each step; yours was asked at {times}.",
    )
    same(found, 1.25**4, f"With a velocity of x, 4 steps should make (1 + 1/4)^4 = 2.441 of 1, and yours made {found[0, 0]:.3f}.")


@exercise(1, 3)
def jacobian_trace(answer):
    """`f(v, x)`: the trace of the Jacobian of v, (N, D) to (N, D), at each row of x, (N,)."""
    weight = torch.randn(4, 4)
    same(given(answer(lambda x: x @ weight, torch.randn(5, 4)), (5,)), weight.trace(), "Of a linear map it should be the trace of its matrix.")
    x = torch.randn(5, 4)
    expected = (torch.cos(x @ weight) * weight.diagonal()).sum(1)
    same(
        answer(lambda x: torch.sin(x @ weight), x),
        expected,
        "Of a map that bends it is not the trace at each row. Is it the diagonal alone that you add up?",
    )
