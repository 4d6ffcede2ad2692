"""Training images per second: the project's way against the plain one. Run by `make bench`; writes results/bench.json.

Plain: float32, eager, contiguous memory, torchvision's data set behind a DataLoader with transforms. Ours: uint8 tensors
in memory drawn by index, channels_last, compiled couplings, bfloat16 where the processor is fast at it. Same network,
same batch size, same optimizer, one process; the two take turns, so that a busy machine disturbs both alike.
"""

import statistics
import sys
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from helpers import data, recipes, training, weights
from helpers.models import layers

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


def images_per_second(step, config, device):
    started = time.perf_counter()
    for _ in range(STEPS):
        last = step()
    float(last)  # waits for the device
    return STEPS * config.batch_size / (time.perf_counter() - started)


def main():
    device = training.pick_device()
    model, config = recipes.recipe("realnvp", "quick", data.load("mnist"), {"mixtures": 0})
    ways = {"plain": plain_way(config, device), "ours": our_way(model, config, device)}
    speeds = {name: [] for name in ways}
    with training.compiled(model) as compiled:
        print(f"ours: compiled {compiled}, {training.pick_precision(device)}")
        for way in ways.values():  # compiles and warms up
            images_per_second(way, config, device)
        for _ in range(ROUNDS):
            for name, way in ways.items():
                speeds[name].append(images_per_second(way, config, device))
    ratios = [ours / plain for ours, plain in zip(speeds["ours"], speeds["plain"], strict=True)]
    result = {
        "what": "training images per second, RealNVP of the quick profile on MNIST",
        "batch_size": config.batch_size,
        "plain": round(statistics.median(speeds["plain"]), 1),
        "ours": round(statistics.median(speeds["ours"]), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "device": training.device_name(device),
        "torch": torch.__version__,
    }
    for key, value in result.items():
        print(f"{key:12} {value}")
    if "--keep" in sys.argv:
        training.write_json(weights.RESULTS / "bench.json", result)


if __name__ == "__main__":
    main()
