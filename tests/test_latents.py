"""Flows on the latents of a VAE, and the total correlation: against the plain VAE, against integrals, against what is known."""

import math

import pytest
import torch
from conftest import stir

from helpers import UserError, measures
from helpers.models.autoencoders import TCVAE, VAE, TCVAEConfig, VAEConfig, gaussian_kl, total_correlation
from helpers.models.bijections import Compose, vector_couplings
from helpers.models.fvae import FVAE, FVAEConfig

SMALL = {"image_shape": (1, 8, 8), "latent": 5, "width": 6}
IMAGES = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WAYS = [{"where": "posterior"}, {"where": "prior"}, {"where": "both"}, {"where": "both", "features": 3}]


def tiny(amount=0.1, **changes):
    torch.manual_seed(0)
    return stir(FVAE(FVAEConfig(**SMALL | changes)), amount).double().eval()


@pytest.mark.parametrize("size", [2, 5, 8])
def test_couplings_of_vectors(size):
    """Forward and inverse are consistent, the log-determinants cancel and are autograd's, and every entry is changed."""
    torch.manual_seed(0)
    flow = stir(Compose(*vector_couplings(size, 6, 8, context=3))).double()
    x, context = torch.randn(4, size).double(), torch.randn(4, 3).double()
    z, log_det = flow(x, context)
    back, inverse = flow.inverse(z, context)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(inverse, -log_det)
    for i in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda v, i=i: flow(v[None], context[i, None])[0][0], x[i])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[i])
        assert (jacobian - torch.eye(size)).abs().amax(1).min() > 1e-4
    assert not torch.allclose(flow(x, context + 1)[0], z)


@pytest.mark.parametrize("way", WAYS)
def test_an_identity_flow_is_the_vae(way):
    """Same weights, same random numbers: the same ELBO to 1e-5 nats in float64, and the same likelihood."""
    flow = tiny(0, **way)
    for name, tensor in flow.named_parameters():
        if "_flow" not in name:
            with torch.no_grad():
                tensor += 0.1 * torch.randn_like(tensor)
    plain = VAE(VAEConfig(**SMALL)).double().eval()
    state = {name: tensor[:10] if name.startswith("encoder.net.8") else tensor for name, tensor in flow.state_dict().items() if "_flow" not in name}
    plain.load_state_dict(state)
    found = []
    for model in (flow, plain):
        torch.manual_seed(1)
        loss = model.loss(IMAGES)
        found.append((loss["loss"], loss["kl"], model.log_prob(IMAGES, samples=7).mean(), model.encode(IMAGES).sum(), model.sample(3).sum()))
    for ours, expected in zip(*found, strict=True):
        assert abs(ours - expected) < 1e-5


@pytest.mark.parametrize("way", WAYS)
def test_the_kl_is_that_of_the_densities(way):
    """The KL of the loss, drawn many times, is the mean of log q(z|x) - log p(z), each from its own formula."""
    model = tiny(**way)
    x = (IMAGES[:1] / 255).double()
    many = x.expand(5_000, -1, -1, -1)
    mean, log_std, features = (part.expand(len(many), -1) for part in model.posterior(x))
    base = mean + log_std.exp() * torch.randn_like(mean)
    with torch.no_grad():
        z, more = model.bend(base, features)
        gaussian = gaussian_kl(mean, log_std).sum(1)
        sampled = model.log_posterior(x, z) - model.log_prior(z)
    assert (gaussian + more).mean().item() == pytest.approx(sampled.mean().item(), abs=5 * sampled.std().item() / len(many) ** 0.5)
    expected = (-0.5 * ((base - mean) / log_std.exp()).square() - log_std + 0.5 * base.square()).sum(1)  # of the Gaussians, draw by draw
    torch.testing.assert_close(sampled - expected, more)


@pytest.mark.parametrize("way", WAYS)
def test_importance_sampling_finds_the_integral(way):
    """With two latents log p(x) is an integral over a grid: importance sampling finds it, q integrates to 1, and the ELBO loses KL(q || p)."""
    model = tiny(0.05, latent=2, likelihood="grey", **way)
    with torch.no_grad():
        model.encoder.net[-1].bias[2:4] += 0.7  # a wide proposal, as importance sampling likes it
    x = (IMAGES[:1] / 255).double()
    truth = measures.true_posterior(model, x, reach=12, points=200)
    assert (truth["log_p"].exp().sum() * truth["log_cell"].exp()).item() == pytest.approx(1)
    with torch.no_grad():
        assert -model.log_prob(x, samples=10_000, at_once=10_000).item() == pytest.approx(truth["nll"], abs=0.05)
        across = torch.linspace(-14, 14, 200).double()
        z = torch.cartesian_prod(across, across)
        log_q = model.log_posterior(x, z)
        q = log_q.exp() * (across[1] - across[0]) ** 2
        log_p = model.log_likelihood(x.expand(len(z), -1, -1, -1), z) + model.log_prior(z) + truth["nll"]
    assert q.sum().item() == pytest.approx(1, abs=1e-3)
    kl = (q * (log_q - log_p)).sum().item()
    assert kl > 0.05 and measures.posterior_gap(model, x, truth, draws=10_000) == pytest.approx(kl, abs=0.15 + 0.02 * kl)
    assert truth["not_gaussian"] >= 0


def test_the_nearest_gaussian_of_a_slanted_one_is_the_one_that_is_known():
    """Along the axes the least KL(q || p) has the widths of p's conditionals, 1 / sqrt(precision), and p's mean."""
    precision = torch.tensor([[4.0, 2.5], [2.5, 3.0]], dtype=torch.float64)
    across = torch.linspace(-4, 4, 120, dtype=torch.float64)
    z = torch.cartesian_prod(across, across)
    p = torch.distributions.MultivariateNormal(torch.tensor([0.5, -0.3], dtype=torch.float64), precision_matrix=precision)
    found = measures.nearest_gaussian({"z": z, "log_p": p.log_prob(z), "log_cell": 2 * (across[1] - across[0]).log()})
    expected = 0.5 * (precision.diagonal().log().sum() - torch.linalg.slogdet(precision)[1])
    assert found["kl"] == pytest.approx(expected.item(), abs=1e-3) and expected > 0.3
    torch.testing.assert_close(found["mean"], p.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(found["log_std"], -0.5 * precision.diagonal().log(), rtol=0, atol=0.01)
    bumps = [torch.distributions.Normal(torch.tensor([place, 0.0]), 0.3).log_prob(z).sum(1) for place in (-2.0, 2.0)]
    two = {"z": z, "log_p": torch.logaddexp(*bumps) - math.log(2), "log_cell": 2 * (across[1] - across[0]).log()}
    assert measures.nearest_gaussian(two)["kl"] == pytest.approx(math.log(2), abs=0.01)  # of two far ones it takes one


def test_the_parts_of_the_kl_are_those_of_a_gaussian_posterior_of_gaussian_codes():
    """Codes x ~ N(0, A), q(z|x) = N(x, s^2): then q(z) = N(0, A + s^2), and all three parts are known."""
    torch.manual_seed(0)
    size, width = 20_000, 0.5
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.6]])
    codes = torch.randn(size, 2) @ factor.T

    class Known(torch.nn.Module):
        def observed(self, images):
            return images

        def posterior(self, x):
            return x, torch.full_like(x, math.log(width)), None

    found = measures.kl_parts(Known(), codes, draws=4_000)
    aggregate = factor @ factor.T + width**2 * torch.eye(2)
    index_code = 0.5 * torch.linalg.slogdet(aggregate / width**2)[1]
    correlation = 0.5 * (aggregate.diagonal().log().sum() - torch.linalg.slogdet(aggregate)[1])
    dimensions = 0.5 * (aggregate.diagonal() - 1 - aggregate.diagonal().log()).sum()
    for name, value in {"index_code": index_code, "total_correlation": correlation, "dimensions": dimensions}.items():
        assert found[name] == pytest.approx(value.item(), abs=0.05), name
    whole = 0.5 * (codes.square() + width**2 - 1 - 2 * math.log(width)).sum(1).mean()
    assert sum(found.values()) == pytest.approx(whole.item(), abs=0.1)


def test_latents_are_where_the_prior_is_normal():
    model = tiny(where="both", features=2, likelihood="grey")
    u = torch.randn(6, 5).double()
    z = model.prior_flow.inverse(u)[0]
    torch.testing.assert_close(model.decode(u), torch.sigmoid(model.decoder(z)))
    torch.manual_seed(0)
    drawn = model.sample(4, 0.7)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, model.decode(0.7 * torch.randn(4, 5, dtype=torch.float64)))


def test_a_code_is_the_mean_or_a_draw():
    model = tiny(where="both", features=2, likelihood="grey")
    many = IMAGES[:1].expand(4_000, -1, -1, -1)
    torch.manual_seed(0)
    with torch.no_grad():
        codes, draws = model.encode(many), model.encode(many, draw=True)
        mean, log_std, features = model.posterior(IMAGES[:1].double() / 255)
    assert codes.std(0).max() < 1e-12
    base = model.posterior_flow.inverse(model.prior_flow.inverse(draws)[0], features.expand(len(many), -1))[0]
    assert ((base.mean(0) - mean[0]) / log_std[0].exp()).abs().max() < 5 / len(many) ** 0.5
    torch.testing.assert_close(base.std(0).log(), log_std[0], rtol=0, atol=0.05)


def test_an_unconditional_flow_in_the_posterior_is_one_in_the_prior():
    """The same density and the same bound: bending z after a Gaussian, or taking the Gaussian's draw as the latent of another prior."""
    posterior, prior = tiny(where="posterior"), tiny(0, where="prior")
    prior.encoder, prior.prior_flow = posterior.encoder, posterior.posterior_flow

    class Decoder(torch.nn.Module):
        def forward(self, z):
            return posterior.decoder(posterior.posterior_flow(z)[0])

    prior.decoder = Decoder()
    values = []
    for model in (posterior, prior):
        torch.manual_seed(1)
        values.append(model.log_prob(IMAGES, samples=5))
    torch.testing.assert_close(*values)


def test_total_correlation_of_gaussians():
    """All images alike: q(z) is one Gaussian with independent latents. Codes on a line: as much as one latent tells of the other."""
    torch.manual_seed(0)
    n = 1_000
    mean, log_std = torch.zeros(n, 3).double(), torch.zeros(n, 3).double()
    offset = 2 * math.log(n)  # the estimator's log(N * images) where the batch is the whole set: what it is biased by
    z = mean + torch.randn(n, 3).double()
    assert total_correlation(z, mean, log_std, n).item() == pytest.approx(offset, abs=1e-9)
    line = torch.randn(n, 1).double() @ torch.ones(1, 2).double()
    narrow = torch.full((n, 2), math.log(0.5)).double()
    z = line + 0.5 * torch.randn(n, 2).double()
    expected = -0.5 * math.log(1 - (1 / 1.25) ** 2)  # a Gaussian of that correlation
    assert total_correlation(z, line, narrow, n).item() - math.log(n) == pytest.approx(expected, abs=0.1)


def test_tcvae_is_the_vae_at_beta_1():
    torch.manual_seed(0)
    model, plain = TCVAE(TCVAEConfig(**SMALL, images=100)).double().eval(), VAE(VAEConfig(**SMALL)).double().eval()
    plain.load_state_dict(model.state_dict())
    values = []
    for one in (model, plain):
        torch.manual_seed(1)
        values.append(one.loss(IMAGES)["loss"])
    torch.testing.assert_close(*values)


BAD = {
    "no where 'encoder'": lambda: FVAE(FVAEConfig(where="encoder")),
    "couplings = -1": lambda: FVAE(FVAEConfig(couplings=-1)),
    "features = -2": lambda: FVAE(FVAEConfig(features=-2)),
    "3 features were given to a flow in the prior": lambda: FVAE(FVAEConfig(where="prior", features=3)),
    "coupling of 1 latent": lambda: FVAE(FVAEConfig(latent=1)),
    "images = 0": lambda: TCVAE(TCVAEConfig(images=0)),
    "TCVAE weighs the total correlation alone": lambda: TCVAE(TCVAEConfig(images=9, free_bits=1.0)),
    "has 5 latents: an integral": lambda: measures.true_posterior(tiny(), IMAGES[:1] / 255),
    r"Latents of shape \(2, 4\)": lambda: tiny().decode(torch.zeros(2, 4)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_sentence(message):
    with pytest.raises(UserError, match=message) as error:
        BAD[message]()
    assert len(str(error.value).splitlines()) == 1
