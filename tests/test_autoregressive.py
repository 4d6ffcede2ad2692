"""Pixels one by one: what each sees, that probabilities sum to 1, and that drawing follows them."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import stir

from helpers import UserError, measures, recipes, weights
from helpers.models.autoregressive import NETWORKS, Gated, PixelConfig, Pixels

SMALL = PixelConfig((1, 6, 7), width=16, layers=2, heads=2, near=16, blocks=3, reach=2, above=2)


def small(**changes) -> Pixels:
    torch.manual_seed(0)
    model = Pixels(replace(SMALL, **changes))
    return stir(model).eval()


def lines_of(model, n: int = 2):
    channels, height, width = model.config.image_shape
    return torch.randint(model.config.levels, (n, height, width * channels), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [(1, 6, 7), (3, 4, 4)], ids=["grey", "colour"])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_pixel_sees_itself_or_what_comes_after(network, shape):
    model = small(network=network, image_shape=shape, classes=3)
    lines, label = lines_of(model), torch.tensor([0, 2])
    every = torch.arange(lines.numel())
    before = model.network(lines, label, every).view(2, -1, 256)
    for i in range(before.shape[1]):
        other = lines.clone()
        other.view(2, -1)[:, i] = (other.view(2, -1)[:, i] + 100) % 256
        changed = (model.network(other, label, every).view(2, -1, 256) != before).any(2).any(0)
        assert not changed[: i + 1].any()
        below = (i // lines.shape[2] + 1) * lines.shape[2]
        assert network == "pixelcnn" or changed[below:].all()  # and every pixel of a later row sees it


def test_no_layer_looks_down_or_right():
    torch.manual_seed(0)
    layer = Gated(8, 2, 1)
    above, beside = torch.randn(2, 1, 8, 7, 7).requires_grad_()
    outputs = layer(above[None][0], beside[None][0], torch.zeros(1, dtype=torch.long))
    for output, inputs in ((outputs[0], (above,)), (outputs[1], (above, beside))):
        found = torch.autograd.grad(output[0, :, 3, 3].sum(), inputs, retain_graph=True)
        for name, gradient in zip(("above", "beside"), found, strict=False):
            seen = gradient.abs().sum((0, 1)) > 0
            assert not seen[4:].any()
            assert seen[3, 3]
            if name == "beside":
                assert not seen[:, 4:].any() and not seen[:3].any()


@pytest.mark.parametrize("network", NETWORKS)
def test_drawing_with_what_is_kept_is_computing_anew(network):
    model = small(network=network, classes=3, image_shape=(1, 6, 7))
    lines, label, kept = lines_of(model), torch.tensor([0, 2]), {}
    every = model.network(lines, label, torch.arange(lines.numel())).view(*lines.shape, 256)
    for row, column in itertools.product(range(6), range(7)):
        known = lines.clone()  # of what is to come, nothing
        known[:, row, column:] = 0
        known[:, row + 1 :] = 0
        assert torch.allclose(model.network.next(known, label, row, column, kept), every[:, row, column], atol=1e-5)


@pytest.mark.parametrize("network", NETWORKS)
def test_probabilities_of_all_images_sum_to_1(network):
    every = torch.tensor(list(itertools.product((0, 255), repeat=6)), dtype=torch.uint8).view(-1, 1, 2, 3)
    model = small(network=network, image_shape=(1, 2, 3), levels=2)
    assert model.log_prob(every).exp().sum().item() == pytest.approx(1, abs=1e-5)
    pairs = torch.cartesian_prod(*2 * [torch.arange(256, dtype=torch.uint8)]).view(-1, 1, 1, 2)
    model = small(network=network, image_shape=(1, 1, 2))
    assert model.log_prob(pairs).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("network", NETWORKS)
def test_images_are_drawn_as_often_as_they_are_probable(network):
    every = torch.tensor(list(itertools.product((0, 255), repeat=4)), dtype=torch.uint8).view(-1, 1, 2, 2)
    model = small(network=network, image_shape=(1, 2, 2), levels=2)
    torch.manual_seed(0)
    drawn = model.sample(8_000).flatten(1) @ torch.tensor([8.0, 4.0, 2.0, 1.0])
    found, expected = torch.bincount(drawn.long(), minlength=16), 8_000 * model.log_prob(every).exp()
    assert ((found - expected).square() / expected).sum() < 37.7  # chi square of 15 degrees of freedom: once in a thousand


def test_temperature_0_takes_the_likeliest_and_known_pixels_stay():
    model = small()
    start, known = torch.randint(256, (3, 1, 6, 7), dtype=torch.uint8), torch.zeros(6, 7, dtype=torch.bool)
    known[:3] = True
    drawn = model.sample(3, 0.0, start=start, known=known)
    assert torch.equal((drawn[:, :, :3] * 255).round().to(torch.uint8), start[:, :, :3])
    lines = model.lines(drawn)
    likeliest = model.network(lines, torch.zeros(3, dtype=torch.long), torch.arange(lines.numel())).argmax(1).view_as(lines)
    assert torch.equal(likeliest[:, 3:], lines[:, 3:])


def test_a_step_looks_at_a_fair_sample_of_the_pixels():
    model = small(image_shape=(1, 12, 12))
    images = torch.zeros(2, 1, 12, 12, dtype=torch.uint8)
    images[:, :, :5, :4] = torch.randint(256, (2, 1, 5, 4), dtype=torch.uint8)
    whole = model.loss(images)["loss"].item()
    model.train()
    assert len(model.looked_at(model.lines(images))[0]) < 0.6 * 288
    some = torch.stack([model.loss(images)["loss"].detach() for _ in range(400)])
    assert abs(some.mean().item() - whole) < 4 * some.std().item() / 20
    assert some.std() > 0


def test_it_starts_with_how_often_each_value_occurs():
    model = Pixels(SMALL)
    images = torch.tensor([0, 0, 0, 9], dtype=torch.uint8).repeat(2_100).view(200, 1, 6, 7)
    model.initialize(images)
    nats = -model.log_prob(images).mean().item() / 42
    assert nats == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), abs=0.2)


def test_a_training_that_starts_from_trained_weights_keeps_the_last_layer(digits, tmp_path):
    trained, _ = recipes.recipe("pixels", "smoke", digits)
    weights.save_model(stir(trained), tmp_path / "trained.safetensors", {"dataset": "digits", "seconds": 1.0})
    model, _ = recipes.recipe("pixels", "smoke", digits)
    weights.start_from(model, tmp_path / "trained.safetensors")
    model.initialize(digits.train_images[:100])
    assert all(torch.equal(one, other) for one, other in zip(trained.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_binary_image_is_measured_in_nats_and_an_8_bit_image_in_bits(digits):
    for levels, name in ((2, "nll"), (256, "bits_per_dim")):
        model = small(levels=levels, image_shape=digits.image_shape)
        found = measures.evaluate(model, digits, only=("bits",))
        size = digits.test_images[0].numel()
        with torch.no_grad():
            torch.manual_seed(0)
            expected = -model.log_prob(digits.test_images).double().mean().item() / (1 if levels == 2 else size * math.log(2))
        assert found[name] == pytest.approx(expected, rel=0.01)


def test_a_float_image_is_put_into_its_bin():
    model = small()
    images = torch.randint(256, (4, 1, 6, 7), dtype=torch.uint8)
    assert torch.equal(model.lines(images), model.lines(images / 255))
    assert torch.equal(model.images(model.lines(images)), images / 255)


@pytest.mark.parametrize("asked", [{"n": 0}, {"temperature": -1.0}, {"known": torch.zeros(6, 7, dtype=torch.bool)}])
def test_a_drawing_that_there_is_not_is_a_sentence(asked):
    with pytest.raises(UserError):
        small().sample(**{"n": 2} | asked)


@pytest.mark.parametrize("changes", [{"heads": 3}, {"parts": 2, "classes": 2}, {"levels": 16}, {"near": 0}, {"network": "lstm"}])
def test_settings_that_make_no_model_are_a_sentence(changes):
    with pytest.raises(UserError):
        small(**changes)
