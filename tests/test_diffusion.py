"""The velocity as a diffusion model: against Gaussians and mixtures, of which everything is known."""

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from helpers import UserError
from helpers.models import diffusion, matching

POINTS = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.3, -1.1]], dtype=torch.float64)
WIDTH = 0.3  # of the Gaussian round each point


def mixture(t: float):
    """The density of x_t: noise of N(0, 1), data of equal Gaussians round POINTS."""
    width = math.hypot(1 - t, t * WIDTH)
    parts = Independent(Normal(t * POINTS, torch.full_like(POINTS, width)), 1)
    return MixtureSameFamily(Categorical(torch.ones(len(POINTS), dtype=torch.float64)), parts)


def velocity(x, t):
    """E[data - noise | x_t = x] of that mixture: of each Gaussian its own, weighted by how likely x is of it."""
    t = t[:, None, None]
    variance = (1 - t) ** 2 + (t * WIDTH) ** 2
    off = x[:, None] - t * POINTS
    weight = (-off.square().sum(2, keepdim=True) / (2 * variance)).softmax(1)
    return (weight * (POINTS + (t * WIDTH**2 - (1 - t)) / variance * off)).sum(1)


def at(t, n):
    return torch.full((n,), t, dtype=torch.float64)


def energy_distance(a, b):
    return 2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean()


@pytest.mark.parametrize("t", [0.0, 0.4, 0.9])
def test_the_score_is_the_gradient_of_the_density(t):
    torch.manual_seed(0)
    x = torch.randn(50, 2, dtype=torch.float64, requires_grad=True)
    (known,) = torch.autograd.grad(mixture(t).log_prob(x).sum(), x)
    assert torch.allclose(diffusion.score(x, velocity(x, at(t, 50)), at(t, 50)), known, atol=1e-10)


def test_noise_and_data_are_those_of_the_path():
    noise, data, t = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3), torch.rand(4)
    x, v = matching.path(noise, data, t)
    for found, known in zip(diffusion.endpoints(x, v, t), (noise, data), strict=True):
        assert torch.allclose(found, known, atol=1e-6)


def test_ddim_is_eulers_method():
    x, t, s = torch.randn(20, 2, dtype=torch.float64), torch.rand(20, dtype=torch.float64), torch.rand(20, dtype=torch.float64)
    step = matching.euler(velocity, x, t, (s - t)[:, None])
    assert torch.allclose(diffusion.ddim(velocity, x, t, s), step, atol=1e-12)


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_whatever_the_strength_of_the_noise_the_density_at_each_time_is_the_same(strength):
    torch.manual_seed(0)
    points = diffusion.stochastic(velocity, torch.randn(3_000, 2, dtype=torch.float64), 100, strength)
    for place in (30, 60, 99):
        known = mixture(place / 100).sample((3_000,))
        assert energy_distance(points[place], known) < 0.006
        assert energy_distance(points[place], 1.1 * known + 0.1) > 0.008  # what the test can tell apart


def test_without_noise_it_is_eulers_method():
    x = torch.randn(5, 2, dtype=torch.float64)
    for found, known in zip(diffusion.stochastic(velocity, x, 7, 0.0), matching.solve(velocity, x, 7, solver="euler"), strict=True):
        assert torch.allclose(found, known)


def test_noisier_points_have_the_density_of_the_earlier_time():
    torch.manual_seed(0)
    moved = diffusion.noisier(mixture(0.8).sample((4_000,)), 0.8, 0.3)
    assert energy_distance(moved, mixture(0.3).sample((4_000,))) < 0.002
    assert energy_distance(moved, mixture(0.5).sample((4_000,))) > 0.006


def test_what_is_filled_in_nears_the_conditional_law_as_steps_are_repeated():
    """The first coordinate is known: the second is then one of three Gaussians, whose weights are known."""
    torch.manual_seed(0)
    n, first = 2_000, 0.5
    known, mask = torch.tensor([[first, 0.0]], dtype=torch.float64).expand(n, 2), torch.tensor([[True, False]])
    weight = Normal(POINTS[:, 0], WIDTH).log_prob(torch.tensor(first)).softmax(0)
    part = torch.multinomial(weight, n, replacement=True)
    law = (POINTS[part, 1] + WIDTH * torch.randn(n, dtype=torch.float64))[:, None]
    far = []
    for repeats in (1, 8, 32):
        found = diffusion.inpaint(velocity, known, mask, 40, repeats)
        assert (found[:, 0] == first).all()
        far.append(energy_distance(found[:, 1:], law).item())
    assert far[0] > 0.3 and 0.03 < far[1] < 0.1 and far[2] < 0.01


def test_counts_and_strengths_below_their_least_are_refused():
    x = torch.zeros(1, 2, dtype=torch.float64)
    with pytest.raises(UserError, match="strength from 0 up"):
        diffusion.stochastic(velocity, x, 3, -1.0)
    with pytest.raises(UserError, match="at least 1 of both"):
        diffusion.inpaint(velocity, x, x > 0, 3, 0)
