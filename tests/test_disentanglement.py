"""Attributes against drawn strokes, and disentanglement measures against codes that are perfect and codes that are mixed."""

import math

import pytest
import torch

from helpers import UserError, data, measures
from helpers.measures import disentanglement as dis
from helpers.models.autoencoders import VAE, VAEConfig


def stroke(width=3.0, degrees=0.0, length=16.0, side=28, shift=0.0):
    """A line with round ends through the middle of (1, 1, side, side), so many degrees to the right of upright, edges one pixel soft."""
    rows, columns = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    x, y = columns - (side - 1) / 2 - shift, rows - (side - 1) / 2 - shift
    right, down = math.sin(math.radians(degrees)), -math.cos(math.radians(degrees))
    along = (x * right + y * down).clamp(-length / 2, length / 2)
    distance = ((x - along * right).square() + (y - along * down).square()).sqrt()
    return (width / 2 - distance + 0.5).clamp(0, 1)[None, None]


@pytest.mark.parametrize("width", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("degrees", [0.0, 10.0, 22.5, 45.0, 90.0])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_thickness(width, degrees, shift):
    found = dis.attributes(stroke(width, degrees, shift=shift), ["thickness"])["thickness"]
    assert found.item() == pytest.approx(width, rel=0.05)


@pytest.mark.parametrize("degrees", [-40.0, -20.0, 0.0, 10.0, 30.0])
def test_slant(degrees):
    found = [dis.attributes(stroke(width, degrees), ["slant"])["slant"].item() for width in (2.0, 4.0)]
    assert found == pytest.approx([degrees, degrees], abs=3)


def test_width_height_area():
    found = dis.attributes(stroke(3.0, 0.0, 16.0).expand(2, -1, -1, -1))
    assert found["width"].tolist() == pytest.approx([3, 3], abs=0.2) and found["height"].tolist() == pytest.approx([19, 19], abs=1.5)
    assert found["area"][0].item() == pytest.approx(3 * 16 + math.pi * 1.5**2, rel=0.02)
    turned = dis.attributes(stroke(3.0, 90.0, 16.0))
    assert turned["width"].item() == pytest.approx(found["height"][0].item()) and turned["area"].item() == pytest.approx(found["area"][0].item())
    pixels = (stroke() * 255).round().to(torch.uint8)
    for name, value in dis.attributes(pixels).items():
        assert value.item() == pytest.approx(dis.attributes(stroke())[name].item(), abs=0.1)


def test_explained():
    torch.manual_seed(0)
    codes = torch.randn(10_000, 4)
    straight, bent = codes[:, 1] * 3 + 1, codes[:, 2].square()
    assert dis.explained(codes, straight).tolist() == pytest.approx([0, 1, 0, 0], abs=0.03)
    assert dis.explained(codes, bent).tolist() == pytest.approx([0, 0, 1, 0], abs=0.2)  # by any function, not only a line
    assert dis.explained(codes, codes[:, 0] + codes[:, 3]).tolist() == pytest.approx([0.5, 0, 0, 0.5], abs=0.03)
    assert dis.explained(torch.zeros(1_000, 1), torch.randn(1_000)).abs().item() < 0.02


def factors(n=4_000):
    return torch.stack([torch.randint(0, size, (n,), generator=torch.Generator().manual_seed(i)) for i, size in enumerate((3, 5, 8))], dim=1)


def test_perfect_codes():
    """A latent for each factor, in another order and bent, and two that say nothing."""
    known = factors()
    noise = torch.randn(len(known), 2, generator=torch.Generator().manual_seed(0))
    codes = torch.cat([noise[:, :1], (known[:, [2, 0, 1]].float() / 2) ** 3, 0.001 * noise[:, 1:]], dim=1)
    assert dis.mutual_information_gap(codes, known) == pytest.approx(1, abs=0.02)
    assert dis.factor_vae_score(codes, known) == 1


def test_the_gap_has_a_ceiling():
    """Perfect latents without a border in a bin reach 1; spread out they don't, and the ceiling says how far they get."""
    known = factors()
    ceiling = dis.gap_ceiling(known)
    assert ceiling == dis.gap_ceiling(known)
    noise = torch.rand(known.shape, generator=torch.Generator().manual_seed(7))
    assert dis.mutual_information_gap(known + 0.3 * noise, known) == pytest.approx(ceiling, abs=0.02)
    assert dis.gap_ceiling(data.load("sprites").test_factors) == pytest.approx(0.92, abs=0.01)


def test_mixed_and_empty_codes():
    known = factors()
    standard = (known - known.float().mean(0)) / known.float().std(0)
    mixed = standard @ torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3)))[0]
    assert dis.mutual_information_gap(mixed, known) < 0.3
    twice = torch.cat([standard, standard], dim=1)
    assert dis.mutual_information_gap(twice, known) == pytest.approx(0, abs=1e-6)  # known, but nowhere alone
    noise = torch.randn(len(known), 4, generator=torch.Generator().manual_seed(0))
    assert dis.mutual_information_gap(noise, known) < 0.02
    assert dis.factor_vae_score(noise, known) < 0.55 < dis.factor_vae_score(standard, known)  # a third by chance, more by luck of the majority
    assert dis.mutual_information_gap(torch.zeros(len(known), 4), known) == 0  # collapsed
    assert dis.factor_vae_score(torch.zeros(len(known), 4), known) < 0.45


def test_information_of_known_tables():
    coin = torch.arange(1_000) % 2
    assert dis.mutual_information(coin, coin).item() == pytest.approx(math.log(2))
    assert dis.mutual_information(coin, torch.arange(1_000) // 2 % 2).item() == pytest.approx(0, abs=1e-12)


def test_sprites_are_what_their_factors_say():
    sprites = data.load("sprites")
    assert [len(sprites.part(split)[0]) for split in ("train", "validation", "test")] == [8_600, 1_000, 2_400]
    assert sprites.image_shape == (1, 28, 28) and sprites.factors == tuple(data.FACTORS)
    assert torch.equal(sprites.test_factors[:, 0], sprites.test_labels)
    every = torch.cat([sprites.part(split)[0] for split in ("train", "validation", "test")]).flatten(1)
    assert len(every.unique(dim=0)) == 12_000  # no two combinations look the same, so none is in two parts
    assert not every.view(-1, 28, 28)[:, [0, -1]].any() and not every.view(-1, 28, 28)[:, :, [0, -1]].any()  # none is cut off
    x, y = (data.FACTORS[name][sprites.test_factors[:, i]] for i, name in ((3, "x"), (4, "y")))
    ellipses = sprites.test_labels == 1
    ink = sprites.test_images[ellipses, 0].double()
    columns = torch.arange(28).double()
    torch.testing.assert_close((ink.sum(1) * columns).sum(1) / ink.sum((1, 2)), x[ellipses].double(), rtol=0, atol=0.1)
    torch.testing.assert_close((ink.sum(2) * columns).sum(1) / ink.sum((1, 2)), y[ellipses].double(), rtol=0, atol=0.1)
    size = dis.attributes(sprites.test_images, ["area"])["area"]
    ratio = size[ellipses] / data.FACTORS["scale"][sprites.test_factors[ellipses, 1]].square()
    assert (ratio / (math.pi / 2) - 1).abs().max() < 0.05
    assert torch.equal(data.load("sprites").test_images, sprites.test_images)
    assert len(sprites.head(test=10).test_factors) == 10


BAD = {
    "no attribute 'loops'": lambda: dis.attributes(stroke(), ["loops"]),
    r"shape \(2, 3, 8, 8\)": lambda: dis.attributes(torch.rand(2, 3, 8, 8)),
    "Image 1 is black": lambda: dis.attributes(torch.cat([stroke(), 0 * stroke()])),
    r"factors \(5, 2\)": lambda: dis.mutual_information_gap(torch.rand(4, 3), torch.zeros(5, 2, dtype=torch.long)),
    "float32 were given": lambda: dis.factor_vae_score(torch.rand(4, 3), torch.zeros(4, 2)),
    r"Codes \(4, 1\)": lambda: dis.mutual_information_gap(torch.rand(4, 1), torch.zeros(4, 2, dtype=torch.long)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_sentence(message):
    with pytest.raises(UserError, match=message) as error:
        BAD[message]()
    assert len(str(error.value).splitlines()) == 1


def test_evaluate_measures_disentanglement_where_factors_are_known():
    torch.manual_seed(0)
    sprites = data.load("sprites").head(test=300)
    found = measures.evaluate(VAE(VAEConfig(latent=3, width=4)).eval(), sprites)
    assert {"neg_elbo", "mutual_information_gap", "factor_vae_score"} <= set(found) and found["n"] == 300
