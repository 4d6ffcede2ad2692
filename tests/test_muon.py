"""Muon: what it does to matrices, and that it leaves the rest to Adam."""

import copy

import pytest
import torch

from helpers.training.muon import Muon, orthogonalized


@pytest.mark.parametrize(("bfloat16", "off"), [(False, 1e-3), (True, 6e-2)])
def test_orthogonalized_keeps_the_directions_and_levels_their_sizes(bfloat16, off):
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (3, 20, 8), (2, 9, 9)):
        matrices = torch.randn(shape) @ torch.diag(torch.logspace(-0.3, 0.3, shape[2]))
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = orthogonalized(matrices)
        assert found.shape == shape and torch.linalg.svdvals(found).min() > 0.5 and torch.linalg.svdvals(found).max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        turned = u.mT @ found @ v.mT
        assert (turned - torch.diag_embed(turned.diagonal(dim1=1, dim2=2))).abs().max() < off


def test_muon_moves_matrices_by_directions_and_the_rest_by_adam():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 3, 1))
    twin = copy.deepcopy(network)
    ours, adam = Muon(network, lr=0.1, weight_decay=0.01), torch.optim.AdamW(twin.parameters(), lr=0.1, weight_decay=0.01)
    before = network[0].weight.clone()
    gradient = torch.randn_like(before)
    for net, optimizer in ((network, ours), (twin, adam)):
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
        net[0].weight.grad = gradient.clone()
        optimizer.step()
    moved = orthogonalized(gradient.flatten(1)[None])[0].view_as(gradient) * 0.2 * 18**0.5
    torch.testing.assert_close(network[0].weight, before * (1 - 0.001) - 0.1 * moved, atol=1e-5, rtol=1e-4)
    for name, parameter in network.named_parameters():
        assert (name == "0.weight") != torch.equal(parameter, twin.get_parameter(name)), name  # the second is too narrow to be a matrix
