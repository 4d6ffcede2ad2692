"""Autoencoders: the mathematics of the VAE against autograd, torch.distributions and models whose likelihood is known."""

import math

import pytest
import torch
from conftest import stir
from torch.distributions import Bernoulli, Normal, kl_divergence

from helpers import UserError, measures, recipes, training, weights
from helpers.models.autoencoders import VAE, Autoencoder, AutoencoderConfig, VAEConfig, discretized_logistic, gaussian_kl, kl_weight

SMALL = {"image_shape": (1, 8, 8), "latent": 3, "width": 6}


def tiny(**changes):
    torch.manual_seed(0)
    return stir(VAE(VAEConfig(**SMALL | changes))).double().eval()


IMAGES = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_kl_is_that_of_torch_distributions():
    mean, log_std = torch.randn(2, 50, 7, dtype=torch.float64)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(torch.zeros(()).double(), torch.ones(()).double()))
    torch.testing.assert_close(gaussian_kl(mean, log_std), expected)


def test_the_reparameterised_gradient_is_that_of_the_expectation():
    """E[z^2] = mean^2 + std^2: its gradients are known, and the draws must reproduce them."""
    mean, log_std = torch.tensor(0.7, requires_grad=True), torch.tensor(-0.3, requires_grad=True)
    eps = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    (mean + log_std.exp() * eps).square().mean().backward()
    torch.testing.assert_close(mean.grad, torch.tensor(1.4), rtol=0, atol=0.02)
    torch.testing.assert_close(log_std.grad, torch.tensor(2 * math.exp(-0.6)), rtol=0, atol=0.02)


@pytest.mark.parametrize("network", ["conv", "mlp"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "grey", "logistic"])
def test_loss_is_the_neg_elbo(network, likelihood):
    """Written out with torch.distributions, from the same random numbers; β and the schedule weigh the KL in training."""
    model = tiny(network=network, likelihood=likelihood, beta=2.0, schedule="linear", schedule_steps=10)
    torch.manual_seed(1)
    found = model.loss(IMAGES)
    torch.manual_seed(1)
    x = torch.bernoulli(IMAGES.double() / 255) if likelihood == "bernoulli" else IMAGES.double() / 255
    mean, log_std = model.encoder(x).chunk(2, dim=1)
    q = Normal(mean, log_std.exp())
    z = mean + log_std.exp() * torch.randn_like(mean)
    decoded = model.decoder(z)
    if likelihood == "logistic":
        log_p = discretized_logistic(x, *decoded.chunk(2, dim=1))
    else:
        log_p = Bernoulli(logits=decoded, validate_args=False).log_prob(x)
    reconstruction = -log_p.sum(dim=(1, 2, 3)).mean()
    kl = kl_divergence(q, Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(1).mean()
    torch.testing.assert_close(found["reconstruction"], reconstruction)
    torch.testing.assert_close(found["kl"], kl)
    torch.testing.assert_close(found["loss"], reconstruction + 2 * kl)
    model.train()
    model.step = 5
    found = model.loss(IMAGES)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 2 * 0.5 * found["kl"])


def test_free_bits_are_free():
    model = tiny(free_bits=100.0).train()
    found = model.loss(IMAGES)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + 300.0)  # three latents
    found["loss"].backward()
    assert model.encoder.net[-1].weight.grad[3:].abs().sum() > 0  # the width is still moved, by the reconstruction
    found = model.eval().loss(IMAGES)
    torch.testing.assert_close(found["loss"], found["reconstruction"] + found["kl"])


def test_schedules():
    assert [kl_weight(s, "linear", 4) for s in (0, 1, 4, 9)] == [0, 0.25, 1, 1]
    assert [kl_weight(s, "cyclical", 8) for s in (0, 2, 4, 7, 8, 10)] == [0, 0.5, 1, 1, 0, 0.5]
    assert kl_weight(0, "constant", 0) == 1


def test_the_discretised_logistic_is_a_distribution():
    levels = torch.arange(256, dtype=torch.float64) / 255
    for place, log_width in ((0.3, 0.0), (0.0, -5.0), (1.2, 2.0), (0.5, -7.0), (0.5013, -9.0)):
        log_p = discretized_logistic(levels, torch.tensor(place).double(), torch.tensor(log_width).double())
        torch.testing.assert_close(log_p.logsumexp(0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-9)
    # an inner bin, by the distribution function itself
    width, place = math.exp(-1.0) / 16, 0.4
    cdf = torch.distributions.TransformedDistribution(
        torch.distributions.Uniform(torch.zeros(()).double(), torch.ones(()).double()),
        [torch.distributions.SigmoidTransform().inv, torch.distributions.AffineTransform(place, width)],
    ).cdf
    expected = (cdf(levels[100] + 0.5 / 255) - cdf(levels[100] - 0.5 / 255)).log()
    found = discretized_logistic(levels[100], torch.tensor(place).double(), torch.tensor(-1.0).double())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


class LinearGaussian(VAE):
    """x = W z + b + noise: log p(x) is known in closed form, and so is the posterior, which the encoder misses on purpose."""

    def __init__(self, dims=6, latent=2, noise=0.5):
        super().__init__(VAEConfig(image_shape=(1, 1, dims), latent=latent, network="mlp", width=4, likelihood="grey"))
        self.double()
        self.matrix, self.offset, self.width = torch.randn(dims, latent).double(), torch.randn(dims).double(), noise

    def posterior(self, x):
        precision = torch.eye(2).double() + self.matrix.T @ self.matrix / self.width**2
        mean = torch.linalg.solve(precision, self.matrix.T @ (x.flatten(1) - self.offset).T / self.width**2).T
        return mean + 0.1, (precision.inverse().diagonal().sqrt() * 1.5).log().expand_as(mean), mean[:, :0]

    def log_likelihood(self, x, z):
        return Normal(z @ self.matrix.T + self.offset, self.width).log_prob(x.flatten(1)).sum(1)

    def exact(self, x):
        covariance = self.matrix @ self.matrix.T + self.width**2 * torch.eye(len(self.offset)).double()
        return torch.distributions.MultivariateNormal(self.offset, covariance).log_prob(x.flatten(1))


def test_importance_sampling_finds_a_known_likelihood():
    torch.manual_seed(0)
    model, x = LinearGaussian(), torch.rand(4, 1, 1, 6, dtype=torch.float64)
    exact = model.exact(x)
    many = model.log_prob(x, samples=20_000, at_once=10_000)
    torch.testing.assert_close(many, exact, rtol=0, atol=0.05)
    copies = x.repeat(2_000, 1, 1, 1)
    few, some = (model.log_prob(copies, samples=k).mean() for k in (1, 10))
    assert few < some < exact.mean()  # a bound that tightens
    torch.manual_seed(1)
    pieces = model.log_prob(x, samples=7, at_once=4)  # one sample at a time
    torch.manual_seed(1)
    torch.testing.assert_close(pieces, torch.stack([model.log_prob(x) for _ in range(7)]).logsumexp(0) - math.log(7))


def test_one_sample_is_the_elbo():
    model, many = tiny(likelihood="grey").float(), IMAGES.repeat(2_000, 1, 1, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        torch.testing.assert_close(model.log_prob(many).mean(), -model.loss(many)["loss"], rtol=0, atol=0.7)  # each varies by 25


@pytest.mark.parametrize("kind", ["autoencoder", "vae", "vae-8bit", "fvae", "fvae-8bit", "tcvae", "betavae"])
def test_recipes_learn_save_and_sample(kind, digits, tmp_path):
    model, config = recipes.recipe(kind, "smoke", digits, reports_per_epoch=2)
    record = training.fit(model, digits, config, progress=False)
    assert record["epochs"][-1]["validation_loss"] < record["epochs"][0]["validation_loss"]
    model.eval()
    weights.save_model(model, tmp_path / "model.safetensors", {"dataset": "digits"})
    loaded, _ = weights.load_model(tmp_path / "model.safetensors")
    assert loaded.config == model.config and type(loaded) is type(model)
    torch.manual_seed(0)
    expected = model.sample(7, 0.8)
    torch.manual_seed(0)
    assert torch.equal(loaded.sample(7, 0.8), expected)
    assert expected.shape == (7, 1, 8, 8) and expected.min() >= 0 and expected.max() <= 1
    found = measures.evaluate(model, digits, samples=3)
    assert found["n"] == 297
    if kind == "autoencoder":
        by_hand = (model.decode(model.encode(digits.test_images)) - digits.test_images / 255).square().mean().item()
        assert found["mse"] == pytest.approx(by_hand, rel=1e-4)
    else:
        assert found["neg_elbo"] == pytest.approx(found["reconstruction"] + found["kl"])
        assert found["nll"] < found["neg_elbo"] and found["importance_samples"] == 3


def test_the_gaussian_fitted_to_codes(digits):
    model = Autoencoder(AutoencoderConfig(**SMALL)).eval()
    model.finish(digits.train_images)
    codes = model.encode(digits.train_images)
    torch.testing.assert_close(model.code_mean, codes.mean(0), rtol=0, atol=1e-4)
    torch.testing.assert_close(model.code_factor @ model.code_factor.T, torch.cov(codes.T), rtol=1e-3, atol=1e-5)
    assert torch.equal(model.sample(2, temperature=0.0), model.decode(model.code_mean.expand(2, -1)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 28, 56)])
def test_other_images(shape):
    images = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    for model in (Autoencoder(AutoencoderConfig(shape, 4, width=4)), VAE(VAEConfig(shape, 4, width=4, likelihood="logistic"))):
        assert model.decode(model.encode(images)).shape == images.shape
        assert model.loss(images)["loss"].isfinite()
    odd = VAE(VAEConfig((1, 7, 9), 4, "mlp", 8, 2))
    assert odd.decode(odd.encode(images[:, :1, :7, :9])).shape == (2, 1, 7, 9)


BAD = {
    "latent = 0": lambda: Autoencoder(AutoencoderConfig(latent=0)),
    "network 'resnet'": lambda: Autoencoder(AutoencoderConfig(network="resnet")),
    "sides divisible by 4": lambda: Autoencoder(AutoencoderConfig(image_shape=(1, 30, 28))),
    "beta = -1": lambda: VAE(VAEConfig(beta=-1)),
    "beta = nan": lambda: VAE(VAEConfig(beta=math.nan)),
    "free_bits = -1": lambda: VAE(VAEConfig(free_bits=-1)),
    "likelihood 'mse'": lambda: VAE(VAEConfig(likelihood="mse")),
    "schedule 'sine'": lambda: VAE(VAEConfig(schedule="sine")),
    "schedule_steps = -5": lambda: VAE(VAEConfig(schedule="linear", schedule_steps=-5)),
    "schedule of 0 steps": lambda: VAE(VAEConfig(schedule="cyclical")),
    r"must lie in \[0, 1\]": lambda: tiny().loss(torch.full((1, 1, 8, 8), 1.5)),
    r"This model takes images \(N, 1, 8, 8\), and \(1, 1, 28, 28\)": lambda: tiny().encode(torch.zeros(1, 1, 28, 28)),
    "0 importance samples": lambda: tiny().log_prob(IMAGES, samples=0),
    r"Latents of shape \(2, 5\)": lambda: tiny().decode(torch.zeros(2, 5)),
    "temperature -1": lambda: tiny().sample(2, -1),
    "0 samples": lambda: Autoencoder(AutoencoderConfig(**SMALL)).sample(0),
    "Labels were given": lambda: tiny().sample(2, labels=torch.zeros(2)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_sentence(message):
    with pytest.raises(UserError, match=message) as error:
        BAD[message]()
    assert len(str(error.value).splitlines()) == 1


def test_the_code_of_an_image_is_that_of_its_grey_values():
    """Not of a binary copy that is drawn at random: twice the same, and the error is that of the image itself."""
    model, grey = tiny(likelihood="bernoulli"), (IMAGES / 255).double()
    assert torch.equal(model.encode(IMAGES), model.encode(IMAGES))
    torch.testing.assert_close(model.encode(IMAGES), model.posterior(grey)[0])
    expected = (model.decode(model.posterior(grey)[0]) - grey).square().flatten(1).mean(1)
    torch.testing.assert_close(measures.reconstruction_error(model, IMAGES), expected.detach())


def test_pca_is_the_linear_limit(digits):
    """Against torch's own decomposition, and as an autoencoder: on its training images the least error of its size."""
    sizes = (1, 5, 64)
    found = measures.pca_errors(digits.train_images, digits.train_images, sizes)
    x = digits.train_images.flatten(1).double() / 255
    _, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    for size in sizes:
        back = x.mean(0) + (x - x.mean(0)) @ v[:size].T @ v[:size]
        assert found[size] == pytest.approx((back - x).square().mean().item(), abs=1e-12)


def test_active_units_and_their_kl(digits):
    model = VAE(VAEConfig(**SMALL)).eval()
    with torch.no_grad():
        model.encoder.net[-1].weight[1].zero_()  # the mean of the second latent no longer moves
    use = measures.latent_use(model, digits.test_images)
    assert measures.active_units(model, digits.test_images, threshold=1e-6) == 2 and use["variance"][1] < 1e-9
    assert use["kl"].sum().item() == pytest.approx(measures.elbo(model, digits.test_images)["kl"], rel=0.02)
