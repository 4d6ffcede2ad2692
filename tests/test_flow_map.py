"""Flow maps: chords and hops against a Gaussian whose paths are known, then the model made of them."""

from dataclasses import replace

import pytest
import torch
from conftest import stir
from test_matching import MEAN, WIDTH, marginal_velocity

from helpers import UserError
from helpers.models import flow_map, matching
from helpers.models.autoencoders import VAE
from helpers.models.flow_map import FlowMap, FlowMapConfig
from helpers.models.judged import JudgedFlowMap, JudgedMapConfig
from helpers.models.matching import FlowMatching, MatchingConfig

SMALL = FlowMapConfig((1, 8, 8), width=(8, 8), blocks=1, walks=400, fine=8)


def moved(x, t, s):
    """Where the path through x at t is at s, for data that are N(MEAN, WIDTH²): each path keeps its place in the density."""
    t, s = (one.view(-1, *[1] * (x.ndim - 1)) for one in (t, s))
    spread = [((1 - one) ** 2 + (one * WIDTH) ** 2).sqrt() for one in (t, s)]
    return s * MEAN + spread[1] / spread[0] * (x - t * MEAN)


def mean_velocity(x, t, s):
    return (moved(x, t, s) - x) / (s - t).view(-1, *[1] * (x.ndim - 1))


class Known(torch.nn.Module):
    """A network in whose place stands what is known."""

    labels = 0

    def __init__(self, function):
        super().__init__()
        self.function, self.weight = function, torch.nn.Parameter(torch.zeros(()))

    def forward(self, x, *times_and_label):
        return self.function(x, *times_and_label[:-1])


def taught_by_the_known(**settings) -> FlowMap:
    model = FlowMap(replace(SMALL, **settings))
    model.velocity, model.mean_velocity = Known(marginal_velocity), Known(mean_velocity)
    return model.train()


def test_chords_are_those_of_the_places_asked_for():
    paths = torch.arange(5.0).square().view(1, 5, 1).repeat(3, 1, 2)  # at 0, 1, 4, 9, 16
    x, u = flow_map.chords(paths, torch.tensor([0, 1, 2]), torch.tensor([4, 2, 1]))
    assert x[:, 0].tolist() == [0, 1, 4] and u[:, 1].tolist() == [16, 16, 20]


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_with_the_exact_mean_velocity_any_number_of_hops_arrives(steps):
    noise = torch.randn(50, 1, dtype=torch.float64)
    points = flow_map.hop(mean_velocity, noise, steps)
    assert len(points) == steps + 1 and torch.allclose(points[-1], MEAN + WIDTH * noise)
    fine = matching.solve(marginal_velocity, noise, 400)
    assert torch.allclose(points[1], fine[400 // steps], atol=2e-2 if steps == 3 else 1e-3)  # 400 / 3 is no place of its own


def test_the_chords_of_the_teachers_paths_are_the_exact_mean_velocity():
    torch.manual_seed(0)
    model = taught_by_the_known()
    model.prepare()
    x, t, s, _, target = model.taught(500)
    assert {round(one, 3) for one in (s - t).tolist()} == {1.0, 0.5, 0.25, 0.125} and (s <= 1).all()
    assert torch.allclose(target, mean_velocity(x, t, s), atol=3e-2)  # of half precision, at short ways
    assert model.loss(torch.zeros(500, 1, 8, 8))["loss"] < 1e-4


def test_the_identity_holds_for_the_exact_mean_velocity_and_for_no_other():
    torch.manual_seed(0)
    model = taught_by_the_known(lesson="identity")
    images = torch.randint(0, 256, (500, 1, 8, 8), dtype=torch.uint8)
    x, t, s, label, target = model.identity(images, torch.zeros(500, dtype=torch.long), short=1e-3)
    way = (s - t).view(-1, 1, 1, 1)
    inside = (way > 0.05) & ((target - marginal_velocity(x, t)).abs() < 2.9 * way)  # beyond, the slope is cut off
    assert inside.float().mean() > 0.5 and torch.allclose(target[inside], mean_velocity(x, t, s)[inside], atol=2e-2)
    model.mean_velocity = Known(lambda x, t, s: mean_velocity(x, t, s) + 0.5 * t.view(-1, 1, 1, 1))
    _, t, s, _, other = model.identity(images, label, short=1e-3)
    assert (other - model.mean_velocity(x, t, s, None))[inside].abs().mean() > 0.05


def test_reflow_asks_for_the_line_to_where_the_path_ended():
    torch.manual_seed(0)
    model = taught_by_the_known(lesson="reflow")
    model.prepare()
    x, t, _, _, target = model.taught(100)
    t = t.view(-1, 1, 1, 1)
    noise = x - t * target
    assert torch.allclose(x + (1 - t) * target, MEAN + WIDTH * noise, atol=1e-2)


def test_it_starts_as_its_teacher():
    torch.manual_seed(0)
    model = stir(FlowMap(replace(SMALL, classes=3)))
    model.initialize(None)
    for way in (model.mean_velocity.way[-1].weight, model.mean_velocity.way[-1].bias):
        torch.nn.init.zeros_(way)
    x, t, label = torch.randn(4, 1, 8, 8), torch.rand(4), torch.tensor([0, 1, 2, 3])
    assert torch.equal(model.mean_velocity(x, t, t + 0.3, label), model.velocity(x, t, label))


def test_a_walk_follows_the_guided_velocity_and_is_the_same_every_time():
    torch.manual_seed(0)
    model = stir(FlowMap(replace(SMALL, classes=3, guidance=1.5, walks=40))).eval()
    noise, labels = torch.randn(3, 1, 8, 8), torch.tensor([0, 1, 2])
    walked = model.walk(noise, labels)
    known = matching.solve(model.field(labels, 3, 1.5), noise, 64)
    assert walked.shape == (3, 9, 1, 8, 8) and torch.allclose(walked, torch.stack(known[::8], 1), atol=1e-5)
    model.prepare()
    first = model.paths[0].clone()
    torch.manual_seed(5)
    model.prepare()
    assert torch.equal(model.paths[0], first)


def test_each_jump_has_the_density_of_the_data():
    torch.manual_seed(0)
    points = flow_map.jump(mean_velocity, torch.randn(20_000, 1, dtype=torch.float64), 4)
    for x in points:
        assert abs(x.mean() - MEAN) < 0.02 and abs(x.std() - WIDTH) < 0.02
    assert len(points) == 4 and abs(torch.corrcoef(torch.cat([points[0], points[-1]], 1).T)[0, 1]) < 0.9


def test_more_of_the_same_goes_on_from_where_it_was():
    other = FlowMap(SMALL)
    other.mean_velocity.first.started = True
    before = stir(other).mean_velocity.state_dict()["first.weight"].clone()
    other.initialize(None)
    assert torch.equal(other.mean_velocity.first.weight, before)
    assert FlowMap.settings_from(FlowMap, SMALL)["grid"] == 8


def test_samples_in_any_number_of_steps_that_divides_the_grid():
    torch.manual_seed(0)
    model = stir(FlowMap(replace(SMALL, classes=3))).eval()
    z, labels = model.prior(2), torch.tensor([0, 2])
    assert len(model.trajectory(z, labels, steps=4)) == 5 and model.passes == 2
    assert torch.equal(model.decode(z, labels), model.decode(z, labels, steps=2))
    assert not torch.equal(model.decode(z, labels), model.decode(z, labels, steps=8))
    with pytest.raises(UserError, match="divides 8"):
        model.decode(z, labels, steps=3)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid": 6}, "power of 2"),
        ({"steps": 3}, "divides 8"),
        ({"hops": (1.0,)}, "4 are needed"),
        ({"walks": 3}, "from 40 up"),
        ({"lesson": "manners"}, "chords, identity, reflow"),
    ],
)
def test_settings_that_make_no_model_are_named(settings, said):
    with pytest.raises(UserError, match=said):
        FlowMap(replace(SMALL, **settings))


def test_it_takes_the_settings_of_the_velocity_that_it_starts_from():
    teacher = MatchingConfig(width=(16, 24), blocks=3, classes=5, guidance=2.0)
    config = FlowMapConfig(**FlowMap.settings_from(FlowMatching, teacher))
    assert (config.width, config.blocks, config.classes, config.guidance, config.steps) == ((16, 24), 3, 5, 2.0, 2)
    with pytest.raises(UserError, match="of a VAE"):
        FlowMap.settings_from(VAE, VAE.Config())


def judged(**settings) -> JudgedFlowMap:
    return stir(
        JudgedFlowMap(JudgedMapConfig((1, 8, 8), **{"width": (8, 8), "blocks": 1, "walks": 40, "classes": 3, "judge_width": 8} | settings))
    ).double()


def test_the_judge_learns_of_images_alone_and_the_map_through_its_last_jump():
    model, images, labels = judged().train(), torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 3
    model.prepare()
    first, second = model.players()
    first.loss(images, labels)["loss"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.judge.parameters())
    assert all(p.grad is None for p in model.mean_velocity.parameters())
    model.zero_grad()
    second.loss(images, labels)["loss"].backward()
    assert all(p.grad is None for p in model.judge.parameters()) and any(p.grad.any() for p in model.mean_velocity.parameters() if p.grad is not None)
    noise = torch.randn(8, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    one, two = (flow_map.jump(lambda x, t, s: model.mean_velocity(x, t, s, labels), noise, count)[-1] for count in (1, 2))
    assert torch.autograd.grad(one.sum(), noise)[0].any()
    assert torch.autograd.grad(two.sum(), noise, allow_unused=True)[0] is None  # what came before the last is only where it begins


def test_the_losses_of_judge_and_map_are_those_of_the_relativistic_game():
    model = judged(r1=0.0, r2=0.0, mislabelled=0.0).eval()
    images, labels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 3
    model.prepare()
    seen = {}
    model.made = lambda told, n: seen.setdefault("made", torch.randn(n, 1, 8, 8, dtype=torch.float64))
    model.points = lambda images, noise=None: images.double() / 128 - 1
    terms = model.judge_terms(images, labels)
    gap = model.judge(seen["made"], labels[:4]) - model.judge(model.points(images[:4]), labels[:4])
    assert torch.allclose(terms["loss"], (1 + gap.exp()).log().mean()) and torch.equal(terms["loss"], terms["fooled"])
    found = model.loss(images, labels)
    assert torch.allclose(found["adversarial"], (1 + (-gap).exp()).log().mean())
    assert torch.allclose(found["loss"], found["chords"] + 0.5 * found["adversarial"])
    flat = judged(r1=2.0, r2=0.0, mislabelled=0.0).eval()
    flat.load_state_dict(model.state_dict())
    flat.made, flat.points = model.made, model.points
    x = model.points(images[:4]).requires_grad_()
    (slope,) = torch.autograd.grad(model.judge(x, labels[:4]).sum(), x)
    assert torch.allclose(flat.judge_terms(images, labels)["loss"], terms["loss"] + slope.square().flatten(1).sum(1).mean())


def test_a_judged_map_starts_from_a_flow_map_and_needs_no_labels():
    start = FlowMapConfig((1, 8, 8), width=(8, 8), blocks=1, grid=4, hops=(0.5, 0.25, 0.25), classes=3)
    assert JudgedFlowMap.settings_from(FlowMap, start)["grid"] == 4 and "judged" not in JudgedFlowMap.settings_from(FlowMap, start)
    assert JudgedFlowMap.settings_from(JudgedFlowMap, replace(judged().config, judged=0.3))["judged"] == 0.3
    model = judged(classes=0).train()
    model.prepare()
    images, labels = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8), torch.zeros(8, dtype=torch.long)
    assert model.judge_terms(images, labels)["loss"].isfinite() and model.loss(images, labels)["loss"].isfinite()
