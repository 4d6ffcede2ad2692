"""What a training step costs: the project's way against the plain one. Run by `make bench`; writes results/bench.json.

Plain: float32, eager, contiguous memory, torchvision's data set behind a DataLoader with transforms. Ours: uint8 tensors
in memory drawn by index, channels_last, compiled couplings, bfloat16 where the processor is fast at it. Same network,
same batch size, same optimizer, one process; the ways take turns, so that a busy machine disturbs all alike.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from helpers import data, recipes, training, weights
from helpers.models import layers
from helpers.training import loop, muon

ROUNDS, STEPS = 5, 8


def plain_way(config, device):
    model, _ = recipes.recipe("realnvp", "quick", data.load("mnist"), {"mixtures": 0})
    for block in list(model.modules()):
        for name, child in block.named_children():
            if isinstance(child, layers.ELU):
                setattr(block, name, nn.ELU())  # the plain way takes PyTorch's own
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=False)
    images = datasets.MNIST(data.data_dir(), transform=transforms.ToTensor(), download=True)
    loader = iter(DataLoader(images, batch_size=config.batch_size, shuffle=True, drop_last=True))

    def step():
        batch, _ = next(loader)
        loss = model.loss(batch.to(device))["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        return loss.item()

    return step


def our_way(model, config, device):
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images = data.load("mnist", device=device).train_images
    precision = training.pick_precision(device)

    def step():
        batch = images[torch.randint(len(images), (config.batch_size,), device=device)]
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = model.loss(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        return loss.detach()

    return step


def in_turn(ways: dict, batch_size: int) -> dict:
    """Training images a second of ways to take a step, name -> function; the last is ours, and how many times as many it has."""
    speeds = {name: [] for name in ways}
    for round_ in range(ROUNDS + 1):
        for name, step in ways.items():
            begun = time.perf_counter()
            for _ in range(STEPS):
                last = step()
            float(last)  # waits for the device
            speeds[name] += [STEPS * batch_size / (time.perf_counter() - begun)] * (round_ > 0)  # the first compiles and warms up
    *others, ours = speeds.values()
    found = {name: round(statistics.median(found), 1) for name, found in speeds.items()}
    ratios = {name: [round(a / b, 2) for a, b in zip(ours, other, strict=True)] for name, other in zip(ways, others, strict=False)}
    return {"batch_size": batch_size, "images_per_second": found, "ratios": ratios, "ratio": {k: statistics.median(v) for k, v in ratios.items()}}


def of_a_flow(device) -> dict:
    model, config = recipes.recipe("realnvp", "quick", data.load("mnist"), {"mixtures": 0})
    ways = {"plain": plain_way(config, device), "ours": our_way(model, config, device)}
    with training.compiled(model):
        return {"what": "RealNVP of the quick profile on MNIST"} | in_turn(ways, config.batch_size)


def of_a_transformer(device) -> dict:
    """Masked words: what attention written out and Muon's products in half precision are worth, all eager."""
    dataset = data.load("mnist", device=device)
    model, config = recipes.recipe(
        "masked", "full", dataset, weights.settings_from("masked", "vqvae-mnist") | {"reader_width": 192, "reader_heads": 6}
    )
    weights.start_from(model.to(device), "vqvae-mnist")
    run = loop.Training(model, dataset, config, loop.Team(alone=True), None)
    run.start(None)
    batch = run.images[: config.batch_size], run.labels[: config.batch_size]
    ours, products = layers.attend, muon.orthogonalized

    def fused(query, key, value, causal=False):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=causal)

    def precise(matrices):
        with torch.autocast(device.type, enabled=False):
            return products(matrices)

    def step(attend=ours, orthogonalized=products):
        layers.attend, muon.orthogonalized = attend, orthogonalized
        return loop.train_step(run, *batch)["loss"]

    ways = {"fused attention": lambda: step(attend=fused), "Muon in float32": lambda: step(orthogonalized=precise), "ours": step}
    return {"what": "masked words, 192 units, on MNIST"} | in_turn(ways, config.batch_size)


def main():
    device = training.pick_device()
    result = {"what": "training images per second", "rows": [of_a_flow(device), of_a_transformer(device)]}
    result |= {"precision": training.pick_precision(device), "device": training.device_name(device), "torch": torch.__version__}
    print(json.dumps(result, indent=2))
    if "--keep" in sys.argv:
        training.write_json(weights.RESULTS / "bench.json", result)


if __name__ == "__main__":
    main()
