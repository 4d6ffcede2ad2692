"""The page, as far as no browser is needed; what it draws is compared with PyTorch's in browser.py."""

import subprocess

import pytest
import torch

from helpers import UserError, page, weights


def test_the_latents_that_change_most_come_first():
    vae = weights.load_model(page.MODELS["vae"])[0]
    order = page.order_of(vae)
    assert len(set(order)) == 6 <= vae.latent_dim

    def change(k):
        ends = torch.zeros(2, vae.latent_dim)
        ends[:, k] = torch.tensor([-2.0, 2.0])
        return vae.decode(ends).diff(dim=0).abs().mean()

    assert change(order[0]) > change(min(set(range(vae.latent_dim)) - set(order)))


def test_a_network_of_the_page_is_the_model():
    for name, (network, inputs) in page.networks().items():
        torch.manual_seed(0)
        inputs = {key: value if key == "label" else torch.randn_like(value) for key, value in inputs.items()}
        found, model = network(*inputs.values()), network.model
        truth = model.velocity(*inputs.values()) if name == "flow" else model.decode(*inputs.values())
        assert torch.equal(found, truth) and len(found) == 2


def test_without_npm_one_sentence(monkeypatch):
    def missing(*arguments, **how):
        raise FileNotFoundError("npm")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(UserError, match="npm could not fetch onnxruntime-web"):
        page.runtime()
