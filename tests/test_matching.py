"""Flow matching: its three parts against cases with known answers, then the model made of them."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal

from helpers import UserError
from helpers.models import matching
from helpers.models.layers import Attention
from helpers.models.matching import FlowMatching, MatchingConfig

MEAN, WIDTH = 0.7, 0.3  # of the Gaussian data whose marginal velocity is known


def marginal_velocity(x, t):
    """E[data - noise | x_t = x] where noise is N(0, 1) and data are N(MEAN, WIDTH²): both and x_t are jointly normal."""
    t = t.view(-1, *[1] * (x.ndim - 1))
    variance = (1 - t) ** 2 + (t * WIDTH) ** 2
    return MEAN + (t * WIDTH**2 - (1 - t)) / variance * (x - t * MEAN)


def tiny(image_shape=(1, 8, 8), **changes):
    """A small model in float64 whose weights are moved off their start at 0."""
    torch.manual_seed(0)
    model = FlowMatching(MatchingConfig(**{"image_shape": image_shape, "width": (8, 8), "blocks": 1} | changes)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


# ---------------------------------------------------------------------------------------------------------- path


def test_the_path_goes_from_noise_to_data_at_the_velocity_it_says():
    noise, data, t = torch.randn(4, 1, 3, 3), torch.randn(4, 1, 3, 3), torch.rand(4)
    assert torch.equal(matching.path(noise, data, torch.zeros(4))[0], noise)
    assert torch.equal(matching.path(noise, data, torch.ones(4))[0], data)
    _, moved = torch.autograd.functional.jvp(lambda t: matching.path(noise, data, t)[0], t, torch.ones(4))
    assert torch.allclose(moved, matching.path(noise, data, t)[1], atol=1e-6)


@pytest.mark.parametrize("kind", ["uniform", "logit-normal"])
def test_times_are_spread_evenly_over_their_distribution(kind):
    t = matching.draw_times(1_000, kind, "cpu").double()
    share = Normal(0, 1).cdf(t.logit()) if kind == "logit-normal" else t
    assert torch.equal((share * 1_000).long().sort().values, torch.arange(1_000))  # one in each thousandth
    assert not torch.equal(t.sort().values, t)


def test_pairs_are_those_of_least_cost():
    noise, data = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2)
    found = matching.pair(noise, data)
    best = min(itertools.permutations(range(5)), key=lambda order: (noise[list(order)] - data).square().sum())
    assert torch.equal(found, noise[list(best)])


@pytest.mark.parametrize("weight", [-1.3, 0.4, 2.0])
def test_the_conditional_loss_has_the_gradient_of_the_marginal_one(weight):
    """By quadrature over noise and data, for velocities weight * x + t: the two losses differ by what no velocity can change."""
    nodes = torch.linspace(-7, 7, 1_401, dtype=torch.float64)
    mass = Normal(0.0, 1.0).log_prob(nodes).exp() * 0.01
    noise, data = nodes[:, None], MEAN + WIDTH * nodes[None]
    joint, t = mass[:, None] * mass[None], 0.6
    x, target = (1 - t) * noise + t * data, data - noise
    known = marginal_velocity(x.flatten()[:, None], torch.full((x.numel(),), t, dtype=x.dtype)).view(x.shape)
    a = torch.tensor(weight, dtype=torch.float64, requires_grad=True)
    conditional = (joint * (a * x + t - target).square()).sum()
    marginal = (joint * (a * x + t - known).square()).sum()
    (ours,), (theirs,) = torch.autograd.grad(conditional, a), torch.autograd.grad(marginal, a)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert conditional.item() > marginal.item() + 0.1


def test_the_loss_of_a_perfect_velocity_is_what_is_left_to_chance():
    """Of the marginal velocity it is the variance of the velocity given x, which is known, and of any other it is more."""
    torch.manual_seed(0)
    data, t = MEAN + WIDTH * torch.randn(100_000, 1), torch.full((100_000,), 0.5)
    left = (1 + WIDTH**2) - (0.5 * WIDTH**2 - 0.5) ** 2 / (0.25 + 0.25 * WIDTH**2)
    assert matching.matching_loss(marginal_velocity, data, t).item() == pytest.approx(left, rel=0.02)
    assert matching.matching_loss(lambda x, t: marginal_velocity(x, t) + 0.3, data, t).item() > left + 0.05


# -------------------------------------------------------------------------------------------------------- solver


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_solvers_are_of_their_order(solver, order):
    """dx/dt = x + t ends at 2e - 2 from 0: half the step, half the error, or a quarter."""

    def error(steps):
        found = matching.solve(lambda x, t: x + t[:, None], torch.zeros(1, 1, dtype=torch.float64), steps, solver=solver)
        return abs(found[-1].item() - (math.e - 2))

    assert error(64) / error(128) == pytest.approx(2**order, rel=0.05)


def test_particles_arrive_at_the_data_and_come_back():
    torch.manual_seed(0)
    noise = torch.randn(2_000, 1, dtype=torch.float64)
    arrived = matching.solve(marginal_velocity, noise, 100)[-1]
    assert torch.allclose(arrived, MEAN + WIDTH * noise, atol=2e-3)  # the monotone map between two Gaussians
    assert torch.allclose(matching.solve(marginal_velocity, arrived, 100, 1.0, 0.0)[-1], noise, atol=2e-3)


@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_evaluations_are_counted(solver):
    asked = []
    matching.solve(lambda x, t: asked.append(t) or x, torch.zeros(1, 1), 7, solver=solver)
    assert len(asked) == matching.evaluations(7, solver)


def test_who_looks_at_time_1_leaves_half_of_the_noise():
    """Of data without any width the velocity sees all the noise until time 1, and none of it there: (m - x) / (1 - t), and m at 1."""

    def velocity(x, t):
        return MEAN + 0 * x if t[0] == 1 else (MEAN - x) / (1 - t[:, None])

    torch.manual_seed(0)
    noise = torch.randn(1_000, 1, dtype=torch.float64)
    assert (matching.solve(velocity, noise, 10)[-1] - MEAN).abs().max() < 1e-12
    assert matching.solve(velocity, noise, 10, look_at_1=True)[-1].std().item() == pytest.approx(0.05, rel=0.1)


def test_straight_paths_are_told_from_bent_ones():
    """At velocity v(t) = 2t the chord's is 1, and the mean of (2t - 1)² over t is 1/3; one velocity for all is straight."""
    noise = torch.randn(3, 1, dtype=torch.float64)
    assert matching.straightness(lambda x, t: 2 * t[:, None].expand_as(x), noise, 200) == pytest.approx([1 / 3] * 3, rel=1e-3)
    assert matching.straightness(lambda x, t: torch.ones_like(x), noise).abs().max() < 1e-12


def test_the_divergence_is_the_trace_of_the_jacobian_and_probes_are_right_on_average():
    model = tiny((1, 8, 8))
    x, t = torch.randn(1, 1, 8, 8, dtype=torch.float64), torch.tensor([0.3], dtype=torch.float64)
    field = model.field()
    jacobian = torch.autograd.functional.jacobian(lambda x: field(x, t), x).view(64, 64)
    v, exact = matching.divergence(field, x, t)
    assert torch.allclose(v, field(x, t)) and exact.item() == pytest.approx(jacobian.trace().item())
    basis = 8 * torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8)  # of variance 1 each, if one is drawn at random
    probed = matching.divergence(model.field(n=64), x.expand(64, -1, -1, -1), t.expand(64), basis)[1]
    assert probed.mean().item() == pytest.approx(exact.item())


@pytest.mark.parametrize("probe", [None, "signs"])
def test_the_density_is_that_of_the_data(probe):
    x = MEAN + WIDTH * torch.linspace(-3, 3, 13, dtype=torch.float64)[:, None].expand(-1, 2)
    signs = torch.tensor([[1.0, -1.0]], dtype=torch.float64).expand(13, 2) if probe else None  # exact for a diagonal Jacobian
    found, noise = matching.log_density(marginal_velocity, x, 200, signs)
    assert torch.allclose(found, Normal(MEAN, WIDTH).log_prob(x).sum(1), atol=2e-3)
    assert torch.allclose(noise, (x - MEAN) / WIDTH, atol=2e-3)


# --------------------------------------------------------------------------------------------------------- model


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 28, 56), (3, 32, 32)])
@pytest.mark.parametrize("how", [{}, {"attention": True}, {"network": "transformer"}], ids=["plain", "attention", "transformer"])
def test_it_starts_at_rest_and_goes_both_ways(shape, how):
    model = FlowMatching(MatchingConfig(shape, width=(8, 8), blocks=1, **how)).eval()
    x = torch.randn(2, *shape)
    assert torch.equal(model.field(n=2)(x, torch.rand(2)), torch.zeros_like(x))
    model = tiny(shape, **how)
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    codes = model.encode(images, steps=20)
    assert codes.shape == (2, math.prod(shape))
    assert torch.equal((model.decode(codes, steps=20) * 256).floor().to(torch.uint8), images)


def test_attention_does_not_care_where_a_position_is():
    torch.manual_seed(0)
    layer, x = Attention(8), torch.randn(2, 8, 3, 4)
    assert torch.equal(layer(x), x)
    torch.nn.init.normal_(layer.tell.weight)
    order = torch.randperm(12)
    moved = layer(x.flatten(2)[:, :, order].view(2, 8, 3, 4))
    assert torch.allclose(moved, layer(x).flatten(2)[:, :, order].view(2, 8, 3, 4), atol=1e-5)


def test_guidance_goes_beyond_the_label_away_from_none():
    model = tiny(classes=3)
    x, t, labels = torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.rand(4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    told, free = model.field(labels, 4, 0.0)(x, t), model.field(n=4)(x, t)
    assert not torch.allclose(told, free)
    assert torch.allclose(model.field(labels, 4, 2.0)(x, t), 3 * told - 2 * free)
    assert torch.equal(model.field(n=4, guidance=2.0)(x, t), free)  # without a label there is nothing to go beyond
    assert tiny(classes=3, guidance=1.0, steps=5).passes == 18 and tiny(guidance=1.0, steps=5).passes == 9


def test_labels_are_hidden_in_training_only():
    images, labels = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8), torch.arange(64) % 3

    def loss(hidden, given, train=True):
        torch.manual_seed(1)
        model = tiny(classes=3, hidden_labels=hidden).train(train)
        torch.manual_seed(2)
        return model.loss(images, given)["loss"].item()

    assert loss(1.0, labels) == loss(1.0, labels.flip(0)) != loss(0.0, labels)
    assert loss(1.0, labels, train=False) == loss(0.0, labels, train=False)


def test_at_rest_its_likelihood_is_that_of_the_noise():
    model = FlowMatching(MatchingConfig((1, 8, 8), width=(8, 8), blocks=1)).double().eval()
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    torch.manual_seed(0)
    found = model.log_prob(images, steps=2)
    torch.manual_seed(0)
    y = (images + torch.rand(3, 1, 8, 8, dtype=torch.float64)) / 128 - 1
    assert torch.allclose(found, Normal(0, 1).log_prob(y).flatten(1).sum(1) - 64 * math.log(128))


def test_its_samples_follow_the_seed_and_need_no_label():
    model = tiny(classes=3)
    torch.manual_seed(0)
    first = model.sample(3)
    torch.manual_seed(0)
    assert torch.equal(model.sample(3), first) and first.min() >= 0 and first.max() <= 1
    torch.manual_seed(0)
    assert not torch.equal(model.sample(3, labels=torch.tensor([0, 1, 2])), first)
    shown = model.trajectory(model.prior(2), steps=4)
    assert len(shown) == 5 and shown[-1].shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"image_shape": (1, 30, 28)}, "divisible by 4"),
        ({"width": (12, 16)}, "multiples of 8"),
        ({"times": "evening"}, "logit-normal, uniform"),
        ({"pairing": "best"}, "random, optimal"),
        ({"pairing": "optimal", "classes": 10}, "labels"),
        ({"steps": 0}, "from 1 up"),
    ],
)
def test_settings_that_make_no_model_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        FlowMatching(replace(MatchingConfig(), **settings))


def test_labels_that_it_does_not_know_are_refused():
    with pytest.raises(UserError, match="from 0 to 2"):
        tiny(classes=3).sample(2, labels=torch.tensor([0, 3]))
    with pytest.raises(UserError, match="knows none"):
        tiny().sample(2, labels=torch.tensor([0, 1]))
