"""What a GPU does with all of this, in at most 8 minutes: `make gpu` writes results/gpu.json.

Every model goes forward and backward on the device, in the precision that it would train in; a run is killed half way and
resumed; a few steps of each recipe's `full` profile are timed, and the minutes that they imply and the memory are written
down; then the notebooks run in `quick`, as many as the time allows. Without a GPU it says so: `--cpu` goes the same way in small.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from helpers import data, notebooks, recipes, training, weights
from helpers.training import Team, loop

MINUTES = 8
BOOKS = {  # what each notebook trains: recipe, settings
    "01_realnvp": [("realnvp", {})],
    "02_autoencoder_vae": [("autoencoder", {}), ("autoencoder", {}), ("vae", {}), ("vae", {})],
    "03_fvae_betavae": [("vae", {"network": "mlp", "width": 256}), ("fvae", {}), ("betavae", {"network": "mlp", "width": 256})],
    "04_gans": [("gan", {}), ("cgan", {})],
    "05_flow_matching": [("matching-conditional", {})],
    "06_autoregressive": [("pixels", {})],
}
VIEWS = {
    "view",
    "t",
    "detach",
    "transpose",
    "permute",
    "_unsafe_view",
    "expand",
    "slice",
    "select",
    "unsqueeze",
    "split",
    "alias",
    "squeeze",
    "chunk",
}


def the_run(name: str, profile: str, dataset, device, settings: dict | None = None, **changes) -> loop.Training:
    """A training at its start; of one whose steps grow all along its schedule, where they are dearest."""
    model, config = recipes.recipe(name, profile, dataset, settings, **changes)
    run = loop.Training(model.to(device), dataset.to(device), config, Team())
    run.start(None)
    run.state.step = int(0.9 * run.total_steps) * model.uneven
    return run


# --------------------------------------------------------------------------------------------------- counted, anywhere


class Counter(TorchDispatchMode):
    """Floating point operations, and launches of kernels, of what runs meanwhile."""

    def __init__(self):
        super().__init__()
        self.flops, self.launches = 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        packet = function._overloadpacket
        self.launches += packet.__name__ not in VIEWS
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out


def counted_minutes(name: str, settings: dict, dataset, images: int = 8) -> float:
    """Of the `full` training on a GPU such as Colab's T4: a third of its 8 TFLOP/s in float32, of a model that halves 10 of its 65; and 8
    microseconds a launch, whichever is more. Not measured: an estimate to choose sizes by."""
    run = the_run(name, "full", dataset, "cpu", settings, precision="float32", compile=False)
    batch = run.images[:images], run.labels[:images]
    loop.train_step(run, *batch)
    with Counter() as counter:
        loop.train_step(run, *batch)
    seconds = counter.flops / images * run.batch_size / (10e12 if run.model.halves else 2.5e12)
    return run.total_steps * max(seconds, 8e-6 * counter.launches) / 60


# ----------------------------------------------------------------------------------------------- measured, on a device


def steps(name: str, profile: str, dataset, device, count: int = 10) -> dict:
    """Milliseconds of a step of the recipe, the minutes that its training would take, and its memory."""
    run = the_run(name, profile, dataset, device)
    batch = run.images[: run.batch_size], run.labels[: run.batch_size]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with training.compiled(run.model, run.config.compile) as is_compiled:
        for i in range(count + 3):
            if i == 3:
                begun = time.perf_counter()
            total = sum(term.sum() for term in loop.train_step(run, *batch).values()).item()  # which waits for the device
        seconds = (time.perf_counter() - begun) / count
    found = {"precision": run.precision, "compiled": is_compiled, "batch": run.batch_size, "ms a step": round(1000 * seconds, 2)}
    found |= {"minutes": round(seconds * run.total_steps / 60, 1), "finite": total == total}
    return found | ({"memory, MiB": torch.cuda.max_memory_allocated() >> 20} if device.type == "cuda" else {})


def resumed(dataset, device) -> float:
    """By how much the weights of a run that was cut off and resumed differ, at most, from those of one that was not."""
    ends = []
    for cut in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            model, config = recipes.recipe("vae", "smoke", dataset, compile=False)
            if cut:
                half = loop.Training(model.to(device), dataset.to(device), config, Team())
                half.start(None)
                for _ in range(half.total_steps // 2):
                    epoch, i = divmod(half.state.step, half.steps_per_epoch)
                    index = data.epoch_order(len(half.images), config.seed, epoch)[i * half.batch_size : (i + 1) * half.batch_size].to(device)
                    loop.train_step(half, half.images[index], half.labels[index])
                loop.Checkpoint(folder, half.identity).save(half.state.state_dict())
                model, config = recipes.recipe("vae", "smoke", dataset, compile=False)
            training.fit(model.to(device), dataset.to(device), config, folder, resume=cut, progress=False)
            ends.append(torch.cat([p.detach().flatten().cpu() for p in model.parameters()]))
    return (ends[0] - ends[1]).abs().max().item()


def check(device, profile: str, books, minutes: float = MINUTES) -> dict:
    """The record; `profile` is that whose steps are timed."""
    begun, small = time.perf_counter(), data.load("digits")
    mnist = small if profile == "smoke" else data.load("mnist")
    found = {"device": training.device_name(device), "torch": torch.__version__, "resumed differs by": resumed(small, device)}
    found |= {"smoke": {}, f"steps, {profile}": {}}
    for name in recipes.RECIPES:
        model, config = recipes.recipe(name, "smoke", small, compile=False, epochs=1, train_images=160)
        found["smoke"][name] = training.fit(model.to(device), small.to(device), config, progress=False)["epochs"][-1]["seconds"]
    for name in recipes.RECIPES:
        found[f"steps, {profile}"][name] = steps(name, profile, mnist, device)
        print(f"{name:22} {found[f'steps, {profile}'][name]}", flush=True)
    found["notebooks, quick"] = {}
    for path in books:
        if time.perf_counter() - begun < 60 * minutes * 0.7:
            found["notebooks, quick"][path.name] = round(notebooks.execute(path, "quick", Path("runs") / "gpu")["seconds"])
    return found | {"seconds": round(time.perf_counter() - begun)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="the same way in small, on the processor; nothing is kept")
    asked, device = parser.parse_args(), training.pick_device()
    if asked.cpu:
        print(check(torch.device("cpu"), "smoke", ()))
        return 0
    if device.type == "cpu":
        print("There is no GPU here that trains: nothing was measured. `--cpu` goes the same way in small.", file=sys.stderr)
        return 1
    training.write_json(weights.RESULTS / "gpu.json", check(device, "full", sorted(weights.ROOT.glob("0*.ipynb"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
