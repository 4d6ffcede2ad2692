"""The older ways are flows too: exact, and RealNVP itself where nothing is changed."""

import pytest
import torch
from conftest import stir
from torch.autograd.functional import jacobian

from helpers import UserError
from helpers.experiments.ladder import BatchNorm, FlatConfig, FlatFlow, LadderConfig, LadderRealNVP, Permutation, WeightNormConv2d
from helpers.models.flows import RealNVP, RealNVPConfig

SMALL = {"image_shape": (1, 4, 4), "couplings": (1, 2), "width": (6, 6), "blocks": 1, "dequantization_couplings": 0}
WAYS = {
    "basic": {"checkerboard": 2, "network": "plain", "norm": "none", "learned_range": False, "mixing": "reverse", "learned_base": False},
    "batch norm inside": {"network": "plain", "norm": "batch", "mixing": "shuffle"},
    "batch norm between": {"network": "residual", "norm": "none", "weight_norm": True, "between": "batch"},
    "actnorm": {"norm": "none", "between": "actnorm"},
    "raw pixels": {"logit": False, "dequantize": "none"},
}


FLAT = {"flat, halves": ("halves", False), "flat, checkerboard and batch norm": ("checkerboard", True)}


@pytest.mark.parametrize("name", WAYS | FLAT)
def test_exact(name):
    torch.manual_seed(0)
    model = LadderRealNVP(LadderConfig(**SMALL | WAYS[name])) if name in WAYS else FlatFlow(FlatConfig((1, 4, 4), 2, (8, 8), *FLAT[name]))
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


def test_unchanged_it_is_realnvp():
    settings = SMALL | {"dequantization_couplings": 1, "dequantization_width": 6, "blocks": 2}
    torch.manual_seed(0)
    theirs = LadderRealNVP(LadderConfig(**settings))
    ours = RealNVP(RealNVPConfig(**settings))
    ours.load_state_dict(theirs.state_dict())
    images = torch.randint(0, 256, (4, 1, 4, 4), dtype=torch.uint8)
    found = []
    for model in (ours, theirs):
        torch.manual_seed(1)
        found.append(model.log_prob(images))
    assert torch.equal(*found)


def test_batch_norm_is_two_maps():
    """In training the batch is standardised; in evaluation the running statistics are used, and invert."""
    norm, x = BatchNorm(3, 1, 1, momentum=1.0), 2 * torch.randn(64, 3, 4, 4) + 1
    z, log_det = norm(x)
    torch.testing.assert_close(z.mean(dim=(0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(log_det[0], -x.var(dim=(0, 2, 3), correction=0).log().sum() / 2 * 16, rtol=1e-4, atol=1e-3)
    alone, _ = norm(x[:2])
    assert not torch.allclose(alone, z[:2], atol=1e-3)  # the same image, in other company
    norm(x)  # with momentum 1 the running statistics are now those of x
    norm.eval()
    torch.testing.assert_close(norm(x)[0], z, rtol=0, atol=1e-5)
    torch.testing.assert_close(norm(x[:2])[0], z[:2], rtol=0, atol=1e-5)


def test_shuffling_is_undone():
    torch.manual_seed(0)
    shuffle, x = Permutation(16, "shuffle"), torch.randn(2, 16, 2, 2)
    assert not torch.equal(shuffle(x)[0], x) and torch.equal(shuffle.inverse(shuffle(x)[0])[0], x)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LadderRealNVP(LadderConfig(**SMALL, network="transformer")), "network 'transformer'.*plain, residual, gated"),
        (lambda: LadderRealNVP(LadderConfig(**SMALL, mixing="2x2")), "mixing '2x2'.*reverse, shuffle, 1x1"),
        (lambda: FlatFlow(FlatConfig(mask="random")), "mask 'random'.*halves, checkerboard"),
    ],
)
def test_an_unknown_way(call, says):
    with pytest.raises(UserError, match=says):
        call()


def test_weight_norm_is_that_of_torch():
    torch.manual_seed(0)
    ours, theirs = WeightNormConv2d(3, 5, 3, padding=1), torch.nn.Conv2d(3, 5, 3, padding=1)
    theirs.load_state_dict({key: value for key, value in ours.state_dict().items() if key != "length"})
    theirs = torch.nn.utils.parametrizations.weight_norm(theirs)
    with torch.no_grad():
        ours.length.mul_(2)
        theirs.parametrizations.weight.original0.mul_(2)
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(ours(x), theirs(x))
