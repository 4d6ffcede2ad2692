import pytest
import torch

from helpers import data, recipes, weights
from helpers.models.flows import RealNVP, RealNVPConfig


def tiny_flow(image_shape=(1, 8, 8), **changes):
    """A small RealNVP in float64 whose weights are moved off their identity start."""
    torch.manual_seed(0)
    settings = {"couplings": (2, 2), "width": (6, 6), "blocks": 1, "dequantization_couplings": 2, "dequantization_width": 6}
    model = RealNVP(RealNVPConfig(image_shape=image_shape, **settings | changes)).double()
    stir(model)
    return model


def stir(module, amount=0.1):
    """Add noise to every weight: couplings start as the identity, and identities pass any test."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += amount * torch.randn_like(parameter)
    return module


def started(name: str, first: str, dataset, folder):
    """A smoke model `name` that starts from an untrained `first`: both, how to train it, and what it says of its start."""
    path = folder / f"{first}.safetensors"
    begun, _ = recipes.recipe(first, "smoke", dataset)
    weights.save_model(begun, path, {"dataset": dataset.name, "seconds": 1.0})
    model, config = recipes.recipe(name, "smoke", dataset, weights.settings_from(name, path))
    return begun, model, config, weights.start_from(model, path)


@pytest.fixture(scope="session")
def digits():
    return data.load("digits")


@pytest.fixture
def smoke(digits):
    """An untrained model of the smoke profile and its TrainConfig."""
    return recipes.recipe("realnvp", "smoke", digits, train_images=160, epochs=1)
