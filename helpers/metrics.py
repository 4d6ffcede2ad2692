"""What a trained model is worth, in units that can be compared."""

import math

import torch
from tqdm.auto import tqdm

from helpers.training import aside


def nats_to_bits_per_dim(nats: float, dims: int) -> float:
    """A negative log-likelihood of an 8-bit image in nats, as bits per dimension: nats / (dims * ln 2)."""
    return nats / (dims * math.log(2))


def bits_per_dim(model, images, samples: int = 1, seed: int = 0, batch_size: int = 250, progress: bool = False) -> dict:
    """Bits per dimension of 8-bit images under a flow: mean, and the standard error of that mean over the images.

    samples: importance samples of the dequantisation noise an image; 1 gives the plain bound that training uses.
    Computed in the precision of the model's weights, without compiled code, from a fixed seed.
    """
    values = []
    with aside(seed):
        for start in tqdm(range(0, len(images), batch_size), desc="bits/dim", disable=not progress):
            values.append(-model.log_prob(images[start : start + batch_size], samples=samples))
    bits = torch.cat(values).double() / (images[0].numel() * math.log(2))
    return {"bits_per_dim": bits.mean().item(), "standard_error": (bits.std() / len(bits) ** 0.5).item()}


def evaluate(model, dataset, split: str = "test", samples: int = 1, progress: bool = False) -> dict:
    """The metrics of the model's family on one split of a data set."""
    images, _ = dataset.part(split)
    result = bits_per_dim(model, images, samples, progress=progress)
    return {"split": split, "n": len(images), "importance_samples": samples} | result
