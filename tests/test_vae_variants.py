"""VAEs with a piece exchanged are still what they say: a decoder that sees only what came before, bounds in their order."""

import pytest
import torch
from conftest import stir

from helpers import UserError
from helpers.experiments.vae_variants import ImportanceConfig, ImportanceVAE, StartedConfig, StartedVAE, WindowConfig, WindowVAE
from helpers.models.autoencoders import VAE, VAEConfig

SMALL = {"image_shape": (1, 4, 4), "latent": 2, "network": "mlp", "width": 8}


@pytest.mark.parametrize("window", [3, 7])
def test_a_pixel_is_told_those_before_it_within_the_window_and_no_other(window):
    torch.manual_seed(0)
    model = stir(WindowVAE(WindowConfig(**SMALL, window=window))).double()
    told = model.decoder(torch.randn(1, 2, dtype=torch.float64)).detach()
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    depends = torch.autograd.functional.jacobian(lambda v: model.logits(told, v.view(1, 1, 4, 4)).flatten(), x.flatten()) != 0
    for i in range(16):
        near = [j for j in range(i) if max(abs(i // 4 - j // 4), abs(i % 4 - j % 4)) <= window // 2]
        assert depends[i].nonzero().flatten().tolist() == near


def test_it_is_a_probability_of_binary_images():
    torch.manual_seed(0)
    model = stir(WindowVAE(WindowConfig(**SMALL | {"image_shape": (1, 2, 4)}, window=3)), 0.5).double()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 8).view(-1, 1, 2, 4)
    total = model.log_likelihood(every, torch.randn(1, 2, dtype=torch.float64).expand(256, -1)).exp().sum()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))
    assert model.passes == 8 and WindowVAE(WindowConfig(**SMALL)).passes == 1
    with pytest.raises(UserError, match="odd side"):
        WindowVAE(WindowConfig(**SMALL, window=4))


def test_drawn_pixel_after_pixel_it_draws_from_that_probability():
    torch.manual_seed(0)
    model = stir(WindowVAE(WindowConfig(**SMALL | {"image_shape": (1, 1, 2)}, window=3, hidden=8)), 0.5).eval()
    with torch.no_grad():
        z = torch.randn(1, 2).expand(20_000, -1)
        first, second = model.decode(z).flatten(1).T
        both = [model.log_likelihood(torch.tensor([[[[a, 1.0]]]]), z[:1]).exp() for a in (0.0, 1.0)]
    assert abs(second.mean() - sum(both)) < 0.01 and first.std() < 1e-6 and second.std() > 0


def test_inside_the_logarithm_the_bound_is_tighter_and_one_draw_is_the_elbo():
    torch.manual_seed(0)
    images = 255 * torch.randint(0, 2, (64, 1, 4, 4), dtype=torch.uint8)  # binary already
    plain = stir(VAE(VAEConfig(**SMALL)), 0.3).double()

    def loss(draws, inside):
        model = ImportanceVAE(ImportanceConfig(**SMALL, draws=draws, inside=inside)).double()
        model.load_state_dict(plain.state_dict())
        torch.manual_seed(1)
        return model.loss(images)["loss"].item()

    assert loss(1, True) == pytest.approx(loss(1, False))
    elbo = torch.stack([plain.loss(images)["loss"] for _ in range(1_000)]).mean().item()
    assert loss(2_000, False) == pytest.approx(elbo, rel=0.02)
    assert loss(500, True) < loss(500, False) - 0.1
    assert loss(2_000, True) == pytest.approx(-plain.log_prob(images, samples=2_000).mean().item(), rel=0.02)


def test_the_signal_keeps_its_size_from_the_start():
    x, sizes = torch.randn(512, 1, 4, 4), {}
    for name, kind, config in (("torch", VAE, VAEConfig), ("He", StartedVAE, StartedConfig)):
        torch.manual_seed(0)
        model = kind(config(**SMALL | {"width": 256, "blocks": 6}))
        sizes[name] = model.encoder(x)[:, :2].std().item()
    assert sizes["He"] > 10 * sizes["torch"]
