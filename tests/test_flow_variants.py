"""With a piece exchanged it is a flow still: exact; and RealNVP itself where nothing is changed."""

import pytest
import torch
from conftest import stir
from torch.autograd.functional import jacobian

from helpers import UserError
from helpers.experiments.flow_variants import FlatConfig, FlatFlow, Permutation, VariantConfig, VariantRealNVP
from helpers.models.flows import RealNVP, RealNVPConfig

SMALL = {"image_shape": (1, 4, 4), "couplings": (1, 2), "width": (6, 6), "blocks": 1, "dequantization_couplings": 0}
WAYS = {
    "nothing learned but the networks": {"network": "plain", "norm": "none", "learned_range": False, "mixing": "reverse", "learned_base": False},
    "batch norm inside": {"network": "residual", "norm": "batch", "mixing": "shuffle"},
    "mixtures of logistics, self-attention": {"mixtures": 2, "attention": True, "width": (8, 16)},
    "raw pixels": {"logit": False, "dequantize": "none", "data_init": False},
}
FLAT = {"flat, halves": "halves", "flat, checkerboard": "checkerboard"}


@pytest.mark.parametrize("name", WAYS | FLAT)
def test_exact(name):
    torch.manual_seed(0)
    model = VariantRealNVP(VariantConfig(**SMALL | WAYS[name])) if name in WAYS else FlatFlow(FlatConfig((1, 4, 4), 2, (8, 8), FLAT[name]))
    model = stir(model).double()
    images = torch.rand(8, 1, 4, 4, dtype=torch.float64)
    model.initialize(images)
    model.train()
    model.loss(images)  # running statistics leave their start
    model.eval()
    z, log_det = model.flow(images)
    back, inverse_log_det = model.flow.inverse(z)
    torch.testing.assert_close(back, images, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_det, -inverse_log_det, rtol=0, atol=1e-9)
    matrix = jacobian(lambda v: model.flow(v.view(1, 1, 4, 4))[0].flatten(), images[0].flatten())
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(matrix).logabsdet, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mixtures", [0, 2])
def test_unchanged_it_is_realnvp(mixtures):
    settings = SMALL | {"dequantization_couplings": 1, "dequantization_width": 6, "blocks": 2, "mixtures": mixtures}
    torch.manual_seed(0)
    theirs = VariantRealNVP(VariantConfig(**settings))
    ours = RealNVP(RealNVPConfig(**settings))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(model.log_prob(images))
    assert torch.equal(*found)


def test_shuffling_is_undone():
    torch.manual_seed(0)
    shuffle, x = Permutation(16, "shuffle"), torch.randn(2, 16, 2, 2)
    assert not torch.equal(shuffle(x)[0], x) and torch.equal(shuffle.inverse(shuffle(x)[0])[0], x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: VariantRealNVP(VariantConfig(**SMALL, network="transformer")), "network 'transformer'.*plain, residual, gated"),
        (lambda: VariantRealNVP(VariantConfig(**SMALL, mixing="2x2")), "mixing '2x2'.*reverse, shuffle, 1x1"),
        (lambda: FlatFlow(FlatConfig(mask="random")), "mask 'random'.*halves, checkerboard"),
    ],
)
def test_an_unknown_way(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_the_first_batch_is_looked_at_or_not():
    images = torch.randint(0, 256, (32, 1, 4, 4), dtype=torch.uint8)
    for looks in (True, False):
        model = VariantRealNVP(VariantConfig(**SMALL, data_init=looks))
        model.initialize(images)
        assert bool(model.flow.bijections[1].mean.any()) is looks
