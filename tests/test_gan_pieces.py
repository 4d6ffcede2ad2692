"""What the field has added to the game since, a piece at a time: each does what its paper says."""

import math

import pytest
import torch
from conftest import stir

from helpers import UserError, recipes, training, weights
from helpers.models.games import augmented, discriminator_loss, feature_matching, generator_loss, zero_centred_penalty
from helpers.models.gans import GAN, GANConfig

SMALL = {"image_shape": (1, 8, 8), "latent": 4, "width": 8}


def tiny(**changes):
    torch.manual_seed(0)
    return stir(GAN(GANConfig(**SMALL | changes))).double()


@pytest.fixture
def images():
    return torch.randint(0, 256, (24, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_relativistic_by_its_definition():
    real, fake = torch.randn(2, 50).double()
    torch.testing.assert_close(discriminator_loss("relativistic", real, fake), -torch.sigmoid(real - fake).log().mean())
    torch.testing.assert_close(generator_loss("relativistic", fake, real), -torch.sigmoid(fake - real).log().mean())
    assert discriminator_loss("relativistic", real, real).item() == pytest.approx(math.log(2))
    torch.testing.assert_close(discriminator_loss("relativistic", real + 3, fake + 3), discriminator_loss("relativistic", real, fake))


def test_zero_centred_penalty_of_a_linear_critic():
    weight = torch.randn(64).double().requires_grad_()
    penalty = zero_centred_penalty(lambda x: x.flatten(1) @ weight, torch.randn(7, 1, 8, 8).double())
    torch.testing.assert_close(penalty, weight.square().sum())
    torch.testing.assert_close(torch.autograd.grad(penalty, weight)[0], 2 * weight.detach())


@pytest.mark.parametrize("name", ["r1", "r2"])
def test_the_discriminator_pays_for_its_slope_where_it_is_asked_to(name, images):
    settings = {"objective": "relativistic", "generator_norm": False}  # what it makes is then the same in evaluation
    plain, taxed = tiny(**settings), tiny(**settings, **{name: 3.0})
    taxed.load_state_dict(plain.state_dict())
    terms = []
    for model in (plain, taxed):
        torch.manual_seed(1)
        terms.append(model.discriminator_terms(images))
    assert terms[1][name] > 0
    torch.testing.assert_close(terms[1]["loss"], terms[0]["loss"] + 1.5 * terms[1][name])
    with torch.no_grad():  # in validation too
        torch.manual_seed(1)
        torch.testing.assert_close(taxed.eval().discriminator_terms(images)["loss"], terms[1]["loss"].detach())
    assert taxed.discriminator.net not in taxed.regions() and plain.discriminator.net in plain.regions()


def test_unbiased_feature_matching_is_0_in_the_mean_where_both_are_of_one_distribution():
    torch.manual_seed(0)
    labels, found = torch.arange(10).repeat(3), {False: [], True: []}
    for _ in range(400):
        real, fake = torch.randn(2, 30, 20).double()
        for unbiased in found:
            found[unbiased].append(feature_matching(real, fake, labels, 10, unbiased).item())
    mean, error = (torch.tensor(found[True]).mean().item(), torch.tensor(found[True]).std().item() / 20)
    assert abs(mean) < 4 * error and torch.tensor(found[False]).mean().item() == pytest.approx(2 / 3, rel=0.05)  # two means of three
    apart = torch.ones(30, 20).double()
    assert feature_matching(real, real + apart, labels, 10, True) > 0.5 - 1  # it may be below 0, not without bound
    lonely = torch.tensor([0, 1, 1])
    assert feature_matching(torch.zeros(3, 2), torch.ones(3, 2), lonely, 2, True).item() == pytest.approx(0.5)  # of the class with two


def test_augmented_images_are_shifted_and_partly_covered():
    torch.manual_seed(0)
    one = torch.zeros(1, 1, 16, 16)
    one[..., 8, 8] = 1
    many = augmented(one.expand(500, -1, -1, -1))
    mass = many.flatten(1).sum(1)
    assert 0.1 < (mass < 0.01).float().mean() < 0.6 and mass.max() <= 1.001  # covered, or there
    rows = (many.sum((1, 3)) * torch.arange(16)).sum(1)[mass > 0.5] / mass[mass > 0.5]
    assert rows.min() < 7 and rows.max() > 9 and rows.min() > 5 and rows.max() < 11
    x = torch.rand(3, 1, 16, 16, requires_grad=True)
    augmented(x).sum().backward()
    assert x.grad.abs().sum() > 0
    flat = augmented(torch.ones(5, 1, 16, 16))
    assert set(flat.unique().round(decimals=4).tolist()) <= {0.0, 1.0}


def test_old_images_come_back(images):
    model = tiny(replay=0.5)
    model.train()
    fakes = [torch.full((24, 1, 8, 8), float(i), dtype=torch.float64) for i in range(1, 4)]
    shown = [model.with_old_ones(fake) for fake in fakes]
    assert torch.equal(shown[0], fakes[0]) and int(model.remembered) == 36  # there was nothing old yet
    assert set(shown[1].unique().tolist()) == {1.0, 2.0} and (shown[1] == 1).float().mean() == 0.5
    assert set(shown[2].unique().tolist()) <= {1.0, 2.0, 3.0} and torch.equal(model.eval().with_old_ones(fakes[0]), fakes[0])
    assert {"memory", "remembered"} <= set(model.state_dict())  # a run that is resumed remembers


def test_what_two_noises_become_is_pushed_apart(images):
    model = tiny(diversity=1.0, network="mlp", width=16)
    optimizer = torch.optim.SGD(model.generator.parameters(), lr=0.02)
    before = model.generator_terms(images)["alike"].item()
    for _ in range(30):
        optimizer.zero_grad()
        model.generator_terms(images)["alike"].backward()
        optimizer.step()
    assert model.generator_terms(images)["alike"].item() < 0.9 * before


def test_attention_starts_as_nothing():
    plain, looking = tiny(), tiny(attention=True)
    names = {name for name, _ in looking.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert any("ask" in name for name in names)
    torch.manual_seed(0)
    fresh = GAN(GANConfig(**SMALL, attention=True))
    x = torch.randn(2, 16, 2, 2)
    for module in fresh.modules():
        if type(module).__name__ == "Attention":
            torch.testing.assert_close(module(x), x)


@pytest.mark.parametrize(
    "changes", [{"objective": "relativistic", "r1": 1.0, "r2": 1.0}, {"augment": True, "replay": 0.25}, {"attention": True, "diversity": 0.1}]
)
def test_each_of_them_trains(digits, changes):
    model, config = recipes.recipe(
        "gan", "smoke", digits, changes | {"network": "conv", "width": 8, "objective": changes.get("objective", "hinge")}, epochs=1
    )
    record = training.fit(model, digits, config, progress=False)
    assert all(math.isfinite(value) for value in record["epochs"][-1].values())
    assert model.sample(3).isfinite().all()


@pytest.mark.parametrize("changes", [{"r1": -1.0}, {"diversity": -0.1}, {"replay": 1.0}, {"replay": 0.5, "classes": 10}])
def test_what_makes_no_game(changes):
    with pytest.raises(UserError, match="take a number from 0|leave replay"):
        GAN(GANConfig(**SMALL | changes))


def test_stages_halve_the_sides_and_shipped_weights_still_fit():
    model = GAN(GANConfig((3, 32, 32), classes=10, latent=8, width=8, stages=3))
    labels = torch.arange(4)
    assert model.sample(4, labels=labels).shape == (4, 3, 32, 32)
    assert model.generator.net[1].unflattened_size == (32, 4, 4)
    assert model.discriminator(torch.zeros(4, 3, 32, 32), labels).shape == (4,)
    with pytest.raises(UserError, match="divisible by 8"):
        GAN(GANConfig((1, 28, 28), stages=3))
    weights.load_model("cgan-mnist")  # its layers keep their names
