"""Latents in layers: the prior, the posterior, the bound and its parts, against what is known."""

import math

import pytest
import torch
from conftest import stir
from torch.distributions import Normal, kl_divergence

from helpers import UserError, measures, recipes, training
from helpers.models.ladder import LEVELS, LadderConfig, LadderVAE

SMALL = {"image_shape": (1, 8, 8), "layers": (1, 1, 2), "latents": (3, 2, 1), "width": 8}
IMAGES = 255 * torch.randint(0, 2, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))  # binary already


def tiny(amount=0.2, **changes):
    torch.manual_seed(0)
    return stir(LadderVAE(LadderConfig(**SMALL | changes)), amount).double().eval()


def test_latents_are_all_layers_in_turn():
    model = tiny()
    assert model.shapes == [(3, 1, 1), (2, 2, 2), (1, 4, 4), (1, 4, 4)] and model.latent_dim == 3 + 8 + 32
    assert model.levels() == [slice(0, 3), slice(3, 11), slice(11, 43)]
    u = torch.randn(2, 43).double()
    images = model.decode(u)
    assert images.shape == (2, 1, 8, 8) and images.min() >= 0 and images.max() <= 1
    for level in model.levels():
        moved = u.clone()
        moved[0, level] += 1
        assert not torch.allclose(model.decode(moved)[0], images[0]) and torch.equal(model.decode(moved)[1], images[1])


def test_at_the_start_every_layer_expects_the_standard_normal_and_nothing_is_paid():
    torch.manual_seed(0)
    model = LadderVAE(LadderConfig(**SMALL))
    assert model.loss(IMAGES)["kl"] == 0 and model.encode(IMAGES).abs().max() == 0


def test_the_kl_is_that_of_the_layers_gaussians_each_given_the_draws_above():
    model = tiny()
    x = IMAGES.double() / 255
    torch.manual_seed(1)
    terms = model.loss(IMAGES)
    torch.manual_seed(1)
    torch.bernoulli(x)  # as the loss does: of binary images it changes nothing but the random numbers
    drawn = model.inferred(model.climb(x))[1]
    h, seen, total, i = model.start.expand(6, -1, -1, -1), model.climb(x), 0.0, 0
    for size, level in enumerate(model.rungs):
        h = model.grow[size - 1](h) if size else h
        for rung in level:
            expected, log_std = rung.expect(h).chunk(2, dim=1)
            prior = Normal(expected, log_std.exp())
            away, log_more = rung.posterior(h, seen[size])
            posterior = Normal(expected + log_std.exp() * away, (log_std + log_more).exp())  # of z itself
            total = total + kl_divergence(posterior, prior).flatten(1).sum(1).mean()
            h, i = rung(h, drawn[i]), i + 1
    torch.testing.assert_close(terms["kl"], total, rtol=1e-5, atol=1e-5)
    assert terms["kl"] > 1 and terms["kl"].item() == pytest.approx(sum(terms[f"kl_{name}"].item() for name in ("top", "middle", "bottom")))
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


def test_the_kl_is_told_by_size_and_a_size_may_have_no_latents():
    for layers, empty in (((1, 1, 2), ()), ((1, 2, 0), ("kl_bottom",)), ((1, 0, 0), ("kl_middle", "kl_bottom"))):
        found = measures.elbo(tiny(layers=layers), IMAGES)
        by_size = [found[f"kl_{name}"] for name in LEVELS]
        assert sum(by_size) == pytest.approx(found["kl"]) and found["kl"] + found["reconstruction"] == pytest.approx(found["neg_elbo"])
        assert all((found[f"kl_{name}"] == 0) == (f"kl_{name}" in empty) for name in LEVELS)


def test_free_nats_are_free_in_training_layer_by_layer():
    model = tiny(free_bits=1e3)  # more than any of the four layers needs
    terms = model.train().loss(IMAGES)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + 4e3)
    terms = model.eval().loss(IMAGES)
    torch.testing.assert_close(terms["loss"], terms["reconstruction"] + terms["kl"])


def test_the_bound_is_the_elbo_and_tightens_to_the_integral():
    """Without lower layers to speak of, an image's probability is a mean over the prior that can be had by brute force."""
    model = tiny(0.1, layers=(1, 0, 0), latents=(2, 1, 1))
    with torch.no_grad():
        across = torch.linspace(-6, 6, 120).double()
        u = torch.cartesian_prod(across, across)
        parts = [
            model.log_likelihood_of(IMAGES[:1].double().expand(len(some), -1, -1, -1) / 255, model.decode(some).logit()) for some in u.split(2_000)
        ]
        log_p = torch.cat(parts) - 0.5 * u.square().sum(1) - math.log(2 * math.pi)
    exact = (log_p.logsumexp(0) + 2 * (across[1] - across[0]).log()).item()
    torch.manual_seed(0)
    bounds = {k: torch.cat([model.log_prob(IMAGES[:1], samples=k) for _ in range(300 // k + 1)]).mean().item() for k in (1, 10, 3_000)}
    assert bounds[1] < bounds[10] < exact + 0.05 and bounds[3_000] == pytest.approx(exact, abs=0.05)
    elbo = -torch.stack([model.loss(IMAGES[:1])["loss"] for _ in range(300)]).mean().item()
    assert bounds[1] == pytest.approx(elbo, abs=0.3)


def test_codes_come_back():
    model = tiny()
    u = model.encode(IMAGES)
    assert u.shape == (6, model.latent_dim)
    draws = torch.stack([model.encode(IMAGES[:1], draw=True)[0, :3] for _ in range(2_000)])
    seen = model.climb(IMAGES[:1].double() / 255)
    mean, log_std = model.rungs[0][0].posterior(model.start, seen[0])
    torch.testing.assert_close(draws.mean(0), mean.flatten().detach(), rtol=0, atol=5 * log_std.exp().max().item() / 2_000**0.5)


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic"])
def test_it_trains_and_is_measured_as_any_vae(digits, likelihood):
    model, config = recipes.recipe("ladder" if likelihood == "bernoulli" else "ladder-8bit", "smoke", digits)
    record = training.fit(model, digits, config, progress=False)
    assert record["epochs"][-1]["validation_loss"] < record["epochs"][0]["validation_loss"] and "train_kl_top" in record["epochs"][0]
    found = measures.evaluate_vae(model.eval(), digits.test_images, samples=5)
    assert found["nll"] < found["neg_elbo"] and "mse" in found and ("bits_per_dim" in found) == (likelihood == "logistic")


def test_what_makes_no_ladder():
    with pytest.raises(UserError, match="halved twice"):
        LadderVAE(LadderConfig(**SMALL | {"image_shape": (1, 10, 8)}))
    with pytest.raises(UserError, match="no likelihood 'poisson'"):
        LadderVAE(LadderConfig(**SMALL | {"likelihood": "poisson"}))
    with pytest.raises(UserError, match=r"\(N, 43\)"):
        tiny().decode(torch.zeros(2, 5).double())
