"""The page, as far as no browser is needed; what it draws is compared with PyTorch's in browser_page.py."""

import gzip
import math
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
        if name in page.COARSE:  # these read images in [0, 1]
            inputs = {"x": torch.rand(2, 1, 28, 28)}
        found, model = network(*inputs.values()), network.model
        if name == "encoder":
            mean, log_std, _ = model.posterior(inputs["x"])
            bits = torch.distributions.kl_divergence(torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0, 1)).sum(
                1
            ) / math.log(2)
            assert torch.equal(found[:, :-1], model.encode(inputs["x"])) and torch.allclose(found[:, -1], bits)
            continue
        if name == "judge":
            assert torch.equal(found, model(inputs["x"]).softmax(1))
            continue
        asked = {"flow": "velocity", "map": "mean_velocity"}.get(name, "decode")
        truth = getattr(model, asked)(*inputs.values())
        assert torch.equal(found, truth) and len(found) == 2


def test_what_is_packed_is_text_that_html_leaves_alone():
    content = bytes(range(256)) * 3
    script = page.packed("some", content)
    text = script[script.index(">") + 1 : -len("</script>")]
    assert not set(text) & {"\0", "\r", "<"} and max(map(ord, text)) <= 130
    codes = [ord(letter) if ord(letter) < 128 else (0, 13, 60)[ord(letter) - 128] for letter in text]
    bits = "".join(f"{code:07b}" for code in codes)
    size = int(script.split('data-bytes="')[1].split('"')[0])
    assert gzip.decompress(bytes(int(bits[8 * i : 8 * i + 8], 2) for i in range(size))) == content


def test_latents_are_named_by_what_they_explain():
    found = page.named(weights.load_model(page.MODELS["vae"])[0])
    assert {name.split(" (")[0] for name in found.values()} >= {"slant", "thickness"}


def test_without_npm_one_sentence(monkeypatch):
    def missing(*arguments, **how):
        raise FileNotFoundError("npm")

    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(UserError, match="npm could not fetch onnxruntime-web"):
        page.runtime()
