"""Flow matching of codes: what a point is, and that the autoencoder stays as it is."""

import pytest
import torch
from conftest import started, stir

from helpers import UserError, training, weights
from helpers.models.autoencoders import VAE, Autoencoder, AutoencoderConfig, VAEConfig
from helpers.models.fvae import FVAE
from helpers.models.latent import LatentConfig, LatentMatching

CODERS = [VAE(VAEConfig((1, 8, 8), latent=4, width=8)), Autoencoder(AutoencoderConfig((1, 8, 8), latent=4, width=8))]


def small(coder) -> LatentMatching:
    torch.manual_seed(0)
    model = LatentMatching(
        LatentConfig(**{"image_shape": (1, 8, 8), "width": 16, "blocks": 1} | LatentMatching.settings_from(type(coder), coder.config))
    )
    return stir(model).eval()


@pytest.fixture
def images():
    return torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8)


@pytest.mark.parametrize("coder", CODERS, ids=["vae", "autoencoder"])
def test_points_are_codes_brought_to_mean_0_and_deviation_1(coder, images):
    model = small(coder)
    assert type(model.coder) is type(coder) and model.latent_dim == 4
    model.initialize(images)
    points = model.points(images, draws=30)
    assert points.shape == (6_000, 4)
    assert points.mean(0).abs().max() < 0.2 and (points.std(0) - 1).abs().max() < 0.2
    assert torch.allclose(model.images(model.points(images, noise=0.0)), model.coder.decode(model.coder.encode(images)), atol=1e-5)


def test_a_vaes_code_is_drawn_from_its_posterior(images):
    model = small(CODERS[0])
    x = images[:1].repeat(20_000, 1, 1, 1)
    with torch.no_grad():
        mean, log_std, _ = model.coder.posterior(x[:1] / 255)
    drawn = model.points(x) * model.std + model.mean
    assert torch.allclose(drawn.mean(0), mean[0], atol=0.05) and torch.allclose(drawn.std(0), log_std.exp()[0], rtol=0.05)


def test_codes_go_to_noise_and_back(images):
    model = small(CODERS[0])
    model.initialize(images)
    back = model.decode(model.encode(images[:5], steps=40), steps=40, look_at_1=True)
    assert torch.allclose(back, model.coder.decode(model.coder.encode(images[:5])), atol=1e-3)


def test_training_leaves_the_autoencoder_alone(digits, tmp_path):
    coder, model, config, start = started("latent-conditional", "vae", digits, tmp_path)
    assert all(torch.equal(tensor, coder.state_dict()[name]) for name, tensor in model.coder.state_dict().items())
    record = training.fit(model, digits, config, start=start, progress=False)
    assert all(torch.equal(tensor, coder.state_dict()[name]) for name, tensor in model.coder.state_dict().items())
    assert record["epochs"][-1]["train_loss"] < 2.5 and model.std.ne(1).all() and model.velocity.last[-1].weight.ne(0).any()


def test_what_it_can_start_from_is_said():
    with pytest.raises(UserError, match="starts from a trained vae"):
        weights.settings_from("latent", None)
    with pytest.raises(UserError, match="of a FVAE"):
        LatentMatching.settings_from(FVAE, FVAE.Config())
    with pytest.raises(UserError, match="vae, autoencoder"):
        LatentMatching(LatentConfig(coder="zip"))
