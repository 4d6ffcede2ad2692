"""Training: the loop, its checkpoints, and the weights that a run leaves behind."""

import ast
import contextlib
import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import filelock
import safetensors
import safetensors.torch
import torch
from tqdm.auto import tqdm

from helpers import UserError, data
from helpers.autoencoders import FVAE, TCVAE, VAE, Autoencoder, AutoencoderConfig, FVAEConfig, TCVAEConfig, VAEConfig
from helpers.classifier import Classifier, ClassifierConfig
from helpers.flows import RealNVP, RealNVPConfig
from helpers.gans import GAN, GANConfig, Player, ProGAN, ProGANConfig, sides
from helpers.layers import check_labels
from helpers.team import Team

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
RESULTS = ROOT / "results"

CHECKPOINT_SECONDS = float(os.environ.get("CHECKPOINT_SECONDS", 30))  # what a killed run can lose at most
CHECK_STEPS = 10  # between looks at the losses: each look makes the processor wait for the device


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the model: AdamW with linear warm-up, then cosine decay to 0 over all the epochs."""

    epochs: int = 1
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    schedule: str = "cosine"  # or constant
    clip_norm: float = 1.0
    seed: int = 0
    precision: str = "auto"  # float32, bfloat16, or auto: bfloat16 where the device is fast at it
    compile: bool = True
    train_images: int | None = None  # the first so many of the training set; None: all
    validation_images: int | None = 2_000  # the first so many, looked at in each report
    reports_per_epoch: int = 1  # a report: a row of the record, and a call of on_report


class NonFiniteLoss(UserError):
    """A loss became infinite or NaN."""


# -------------------------------------------------------------------------------------------------------- devices


def pick_device() -> torch.device:
    """The GPU if there is one, of several processes each its own. Float32 then means float32: in TF32 the inverse of a convolution is no inverse."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def device_name(device) -> str:
    """What a result is labelled with: the GPU's name, or the processor's and its number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def pick_precision(device) -> str:
    """bfloat16 where the device has fast instructions for it, else float32."""
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float32"
    supported = [getattr(torch.cpu, f"_is_{name}_supported", lambda: False)() for name in ("avx512_bf16", "amx_tile")]
    return "bfloat16" if any(supported) else "float32"


def compile_model(model) -> bool:
    """Compile the model's regions; without a working compiler warn once, stay eager and return False."""
    if not torch.cuda.is_available():  # else it warns of a missing GPU wherever CUDA's compiler is installed
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=next(model.parameters()).device))
    except Exception as error:  # the compiler raises whatever its tool chain raises
        warnings.warn(f"torch.compile does not work here ({type(error).__name__}): training runs eagerly, slower.", stacklevel=2)
        return False
    # couplings of all sizes share their code, of which torch would compile 8 variants and then, silently, no more
    limits = torch._dynamo.config
    setattr(limits, "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit", 64)  # the second in torch 2.6
    for region in model.regions():
        region.compile(dynamic=False)
    return True


# ----------------------------------------------------------------------------------------------------------- loop


@contextlib.contextmanager
def enough_memory(batch_size: int):
    """Say which setting to lower where the memory runs out."""
    try:
        yield
    except RuntimeError as error:  # the processor's own is a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(
            f"The memory does not hold a step of {batch_size} images of this model: lower batch_size (--batch-size), or the model's width."
        ) from error


@contextlib.contextmanager
def claimed(folder):
    """Nobody else writes to `folder` meanwhile; the operating system frees it even where the run is killed. None claims nothing."""
    if folder is None:
        yield
        return
    lock = filelock.FileLock(Path(folder).resolve() / ".lock", timeout=0, is_singleton=True)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"Another run is writing to {folder}: wait for it to end, or give this one a folder of its own (--folder).") from None
    except OSError as error:
        raise UserError(f"{folder} can't be written ({error.strerror}): choose another folder (--folder).") from error
    try:
        yield
    finally:
        lock.release()


def fit(model, dataset, config: TrainConfig, folder=None, resume=False, on_report=None, progress=True) -> dict:
    """Train `model` in place on `dataset` and return its record: configuration, device, seconds, losses by epoch.

    model: has loss(images, labels) -> dict of terms with their total under "loss", config, regions(), and where its
    first weights depend on data initialize(images, labels), and where something is left to do at the end finish(images).
    It finds the number of the step in its attribute `step`. Of several networks that play against each other it has
    players(), each with a loss of its own; a term of player "generator" is recorded as "generator_...", and of the terms
    in `watched` the lowest value too. after_step() is called where it exists, and what alarm(means) says is told and recorded.
    folder: where the checkpoint is kept; None keeps none. resume: go on from the checkpoint there.
    on_report(model, epoch): called with each report, and at the start with epoch 0; what it draws at random does not
    change the training. With several reports an epoch, `epoch` is a fraction.
    Raises NonFiniteLoss where a term of the loss stops being finite, UserError where a checkpoint does not fit, the memory
    does not suffice, or another run is writing to the folder.
    """
    team = Team()
    with claimed(folder if team.first else None), enough_memory(config.batch_size):
        return _fit(team, model, dataset, config, folder, resume, on_report, progress)


def _fit(team, model, dataset, config, folder, resume, on_report, progress) -> dict:
    device = next(model.parameters()).device
    images, labels = dataset.train_images[: config.train_images], dataset.train_labels[: config.train_images]
    batch_size = min(config.batch_size, len(images))
    mine = team.share(batch_size)
    progress = progress and team.first
    steps_per_epoch = len(images) // batch_size
    total_steps = config.epochs * steps_per_epoch
    precision = pick_precision(device) if config.precision == "auto" else config.precision
    if mine.stop - mine.start < 2 and any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        raise UserError("A batch of 1 image was given to batch norm, which needs the spread of several: give each process at least 2.")
    if getattr(model.config, "classes", 0):
        check_labels(model, labels, len(images))
    players = model.players() if hasattr(model, "players") else [Player("", model, model.loss)]
    watched = getattr(model, "watched", ("loss",))

    def losses(player, batch_images, batch_labels):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return player.loss(batch_images, batch_labels)

    torch.manual_seed(config.seed)
    model.train().to(memory_format=torch.channels_last)
    settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "fused": device.type in ("cuda", "cpu")}
    optimizers = [torch.optim.AdamW(player.network.parameters(), betas=player.betas, **settings) for player in players]
    identity = {"model": type(model).__name__, "model_config": asdict(model.config), "train_config": asdict(config), "dataset": dataset.name}
    identity = json.loads(json.dumps(identity))  # tuples become lists, as they will in the checkpoint
    step, reported, seconds, sums, lowest, rows, alarms = 0, 0, 0.0, {}, {}, [], []
    checkpoint = Path(folder) / "checkpoint.pt" if folder else None
    if resume and checkpoint and checkpoint.exists():
        state = load_checkpoint(checkpoint, identity)
        model.load_state_dict(state["model"])
        for optimizer, found in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(found)
        kept = ("step", "reported", "seconds", "sums", "lowest", "epochs", "alarms")
        step, reported, seconds, sums, lowest, rows, alarms = (state[key] for key in kept)
        set_rng_state(state["rng"])
        if hasattr(model, "won"):
            model.won = state["won"]  # how long a discriminator has been winning
    elif hasattr(model, "initialize"):
        model.initialize(images[:1_000], labels[:1_000])
    if team.average(torch.tensor(float(step), device=device)).item() != step:
        raise UserError(f"Not every process sees the checkpoint in {folder}: resume in a folder that all hosts share.")

    compiled, compile_seconds = False, 0.0
    if config.compile:
        started, rng = time.perf_counter(), rng_state()
        compiled = compile_model(model)
        with rehearsal(model):
            for player, optimizer in zip(players, optimizers, strict=True):
                losses(player, images[:batch_size][mine], labels[:batch_size][mine])["loss"].backward()  # the first call is the one that compiles
                optimizer.zero_grad()
        set_rng_state(rng)
        compile_seconds = time.perf_counter() - started

    def save():
        state = {"identity": identity, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "rng": rng_state()}
        state |= {"step": step, "reported": reported, "seconds": seconds + time.perf_counter() - started}
        state |= {"sums": sums, "lowest": lowest, "epochs": rows, "alarms": alarms, "won": getattr(model, "won", 0)}
        write_atomically(checkpoint, lambda file: torch.save(state, file))
        return time.perf_counter()

    started = saved = time.perf_counter()
    pending, order = [], None
    team.own_noise(config.seed, step)
    if on_report and step == 0 and team.first:
        with aside(config.seed, model):
            on_report(model, 0)
    bar = tqdm(total=total_steps, initial=step, disable=not progress, unit="step", mininterval=0.5)
    while step < total_steps:
        epoch, i = divmod(step, steps_per_epoch)
        if i == 0 or order is None:
            order = data.epoch_order(len(images), config.seed, epoch).to(device)
        rate = config.learning_rate * schedule(step, config.warmup_steps, total_steps, config.schedule)
        index = order[i * batch_size : (i + 1) * batch_size][mine]
        batch_images, batch_labels = images[index], labels[index]
        model.step = step  # for what a loss schedules
        terms = {}
        for player, optimizer in zip(players, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = player.rate * rate
            found = losses(player, batch_images, batch_labels)
            optimizer.zero_grad()
            found["loss"].backward()
            team.average_gradients(player.network)
            found["gradient_norm"] = torch.nn.utils.clip_grad_norm_(player.network.parameters(), config.clip_norm)
            optimizer.step()
            terms |= {f"{player.name}_{name}".lstrip("_"): term.detach() for name, term in found.items()}
        if hasattr(model, "after_step"):
            model.after_step()
        step += 1
        pending.append(terms)
        report = step * config.reports_per_epoch // steps_per_epoch > (step - 1) * config.reports_per_epoch // steps_per_epoch
        if report or len(pending) == CHECK_STEPS:
            last = collect(pending, sums, lowest, step, checkpoint, team)
            bar.update(len(pending))
            numbers = ", ".join(f"{name.replace('_', ' ')} {last[name]:.3f}" for name in watched)
            bar.set_postfix_str(f"epoch {epoch + 1}/{config.epochs}, {numbers}", refresh=False)
            pending = []
            if hasattr(model, "alarm") and (message := model.alarm(last)):
                alarms.append({"step": step, "what": message})
                if team.first:
                    tqdm.write(f"step {step}: {message}")
        if report and not team.first:
            sums, lowest, reported = {}, {}, step
        elif report:
            row = {"epoch": round(step / steps_per_epoch, 2), "step": step}
            row |= {f"train_{name}": total / (step - reported) for name, total in sums.items()}
            if len(players) > 1:
                row |= {f"lowest_{name}": lowest[name] for name in watched}
            sums, lowest, reported = {}, {}, step
            with aside(config.seed, model):
                row |= {f"validation_{name}": value for name, value in validate(model, dataset, config).items()}
                row["seconds"] = round(seconds + time.perf_counter() - started, 1)
                rows.append(row)
                if on_report:
                    on_report(model, row["epoch"])
            if progress and (config.epochs == 1 or row["epoch"] % 1 == 0):  # of a long run one line an epoch
                numbers = [f"{n.replace('_', ' ')}: train {row['train_' + n]:.4f}, validation {row['validation_' + n]:.4f}" for n in watched]
                tqdm.write(f"epoch {row['epoch']:g}: {'; '.join(numbers).removeprefix('loss: ')}, {row['seconds']:.0f} s")
        if checkpoint and team.first and not pending and (report or time.perf_counter() - saved > CHECKPOINT_SECONDS):
            saved = save()
    bar.close()
    if hasattr(model, "finish"):
        with aside(config.seed, model):
            model.finish(images)
    return (
        identity
        | {
            "seed": config.seed,
            "parameters": count_parameters(model),
            "train_images": len(images),
            "device": device_name(device),
            **({"processes": team.size} if team.size > 1 else {}),
            "precision": precision,
            "compiled": compiled,
            "seconds": round(seconds + time.perf_counter() - started, 1),
            "compile_seconds": round(compile_seconds, 1),
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "epochs": rows,
        }
        | ({"alarms": alarms} if alarms else {})
    )


@contextlib.contextmanager
def rehearsal(model):
    """A step of training that leaves no trace in the model's buffers, such as running means."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])


def schedule(step: int, warmup: int, total: int, kind: str = "cosine") -> float:
    """Factor on the learning rate: up in a line over `warmup` steps, and down along a cosine to 0 unless it is constant."""
    decay = {"cosine": 0.5 * (1 + math.cos(math.pi * step / total)), "constant": 1.0}[kind]
    return min(1.0, (step + 1) / max(1, warmup)) * decay


def collect(pending, sums, lowest, step, checkpoint, team) -> dict[str, float]:
    """Add the terms of the last steps to `sums`, keep the `lowest`, or raise if one is not finite; return their means."""
    names = list(pending[0])
    table = team.average(torch.stack([torch.stack([terms[name].float() for name in names]) for terms in pending])).double().cpu()
    if not table.isfinite().all():
        row = int((~table.isfinite()).any(dim=1).nonzero()[0])
        broken = [name for name, value in zip(names, table[row].tolist(), strict=True) if not math.isfinite(value)]
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint and checkpoint.exists() else "there is no checkpoint yet"
        raise NonFiniteLoss(
            f"At step {step - len(pending) + row + 1} the loss stopped being finite ({', '.join(broken)}); {kept}: "
            "lower the learning rate or the clipping norm, or use precision float32."
        )
    for name, total in zip(names, table.sum(dim=0).tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + total
    for name, least in zip(names, table.amin(dim=0).tolist(), strict=True):
        lowest[name] = min(least, lowest.get(name, math.inf))
    return dict(zip(names, table.mean(dim=0).tolist(), strict=True))


def validate(model, dataset, config) -> dict[str, float]:
    """Mean of each term of the loss over the validation images, in float32."""
    images, labels = (part[: config.validation_images] for part in dataset.part("validation"))
    totals = {}
    parts = math.ceil(len(images) / 250)  # of equal size: minibatch statistics need more than one image
    for batch, batch_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
        for name, value in model.loss(batch, batch_labels).items():
            totals[name] = totals.get(name, 0.0) + value.item() * len(batch)
    return {name: total / len(images) for name, total in totals.items()}


@contextlib.contextmanager
def aside(seed: int = 0, model=None):
    """Look at `model`, in evaluation mode, in the middle of training: no gradients, no compiled code, no trace in the
    random numbers."""
    rng, training = rng_state(), model is not None and model.training
    try:
        torch.manual_seed(seed)
        if training:
            model.eval()
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        if training:
            model.train()
        set_rng_state(rng)


def count_parameters(model) -> int:
    """How many weights a model learns; those of a running average are copies."""
    return sum(parameter.numel() for name, parameter in model.named_parameters() if not name.startswith("averaged."))


# ---------------------------------------------------------------------------------------------------- checkpoints


def rng_state() -> dict:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_rng_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    for i, of_gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_gpu, i)


def load_checkpoint(path, identity: dict) -> dict:
    """Read a checkpoint written by `fit`; UserError where it is damaged or belongs to another configuration."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["identity"]
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__}): delete it and start again without resuming.") from None
    flat_found, flat_wanted = _flatten(found), _flatten(identity)
    different = sorted(k for k in flat_found | flat_wanted if flat_found.get(k) != flat_wanted.get(k))
    if different:
        what = ", ".join(f"{key}: {flat_found.get(key)} there, {flat_wanted.get(key)} now" for key in different)
        raise UserError(f"{path} belongs to another configuration ({what}): ask for that one, or start again without resuming.")
    return state


def _flatten(tree, prefix=""):
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in _flatten(sub, f"{prefix}.{name}".lstrip(".")).items()}


def write_atomically(path, write) -> None:
    """Call write(file) on a temporary file, then put it in the place of `path`: at any moment one of them is whole."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"{path} could not be written ({reason}): free some space or choose another folder; what was there before is unharmed."
        ) from error
    finally:
        if temporary:  # still there only if something went wrong, Ctrl-C included
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def write_json(path, content) -> None:
    write_atomically(path, lambda file: file.write((json.dumps(content, indent=2) + "\n").encode()))


# ------------------------------------------------------------------------------------------- models and profiles

MODELS = {
    "realnvp": (RealNVP, RealNVPConfig),
    "realnvp-conditional": (RealNVP, RealNVPConfig),
    "autoencoder": (Autoencoder, AutoencoderConfig),
    "vae": (VAE, VAEConfig),
    "vae-8bit": (VAE, VAEConfig),
    "fvae": (FVAE, FVAEConfig),
    "fvae-8bit": (FVAE, FVAEConfig),
    "betavae": (VAE, VAEConfig),
    "tcvae": (TCVAE, TCVAEConfig),
    "gan": (GAN, GANConfig),
    "cgan": (GAN, GANConfig),
    "progan": (ProGAN, ProGANConfig),
    "classifier": (Classifier, ClassifierConfig),
}
LABELLED = {"realnvp-conditional", "cgan", "classifier"}  # these need to know how many classes there are
PROFILES = ("smoke", "quick", "full")

SMOKE = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-2, warmup_steps=5, compile=False, train_images=640, validation_images=100)

# What a profile means for a model: its configuration and how to train it. smoke takes seconds and shows only that
# everything runs; quick takes minutes on two cores of a laptop; full is meant for a GPU.
RECIPES = {
    ("realnvp", "smoke"): (
        {"couplings": (1, 1), "width": (8, 8), "blocks": 1, "dequantization_couplings": 1, "dequantization_width": 8},
        SMOKE,
    ),
    ("realnvp", "quick"): (
        {"couplings": (4, 6), "width": (40, 64)},
        TrainConfig(epochs=1, batch_size=48, learning_rate=1.5e-2, reports_per_epoch=4),
    ),
    ("realnvp", "full"): (
        {"couplings": (6, 8), "width": (40, 64)},
        TrainConfig(epochs=30, learning_rate=1e-2),
    ),
    ("autoencoder", "smoke"): ({"latent": 8, "width": 8}, SMOKE),
    ("autoencoder", "quick"): ({"width": 16}, TrainConfig(epochs=2, batch_size=128, learning_rate=4e-3, reports_per_epoch=2)),
    ("autoencoder", "full"): ({"width": 64}, TrainConfig(epochs=40, batch_size=128, learning_rate=4e-3)),
    ("vae", "smoke"): ({"latent": 8, "width": 8}, SMOKE),
    ("vae", "quick"): ({"latent": 32, "width": 16}, TrainConfig(epochs=3, batch_size=128, learning_rate=4e-3, reports_per_epoch=2)),
    ("vae", "full"): ({"latent": 32, "width": 64}, TrainConfig(epochs=100, batch_size=128, learning_rate=2e-3)),
    ("classifier", "smoke"): ({"width": 8}, TrainConfig(epochs=20, batch_size=32, learning_rate=1e-2, warmup_steps=5, compile=False)),
    ("classifier", "quick"): ({}, TrainConfig(epochs=2, learning_rate=4e-3, compile=False)),
    ("classifier", "full"): ({}, TrainConfig(epochs=12, learning_rate=4e-3, compile=False)),
}
for profile in PROFILES:  # the models of notebook 03 are VAEs with one thing changed
    settings, how = RECIPES["vae", profile]
    flows = {"where": "both", "features": 0 if profile == "smoke" else 32}
    RECIPES |= {("fvae", profile): (settings | flows, how), ("fvae-8bit", profile): (settings | flows | {"likelihood": "logistic"}, how)}
    RECIPES |= {(name, profile): (settings | {"latent": 10, "beta": 4.0}, how) for name in ("betavae", "tcvae")}
# GANs: Adam without warm-up, weight decay or clipping
GAME = TrainConfig(batch_size=32, learning_rate=5e-4, weight_decay=0.0, warmup_steps=0, clip_norm=1e6, compile=False, validation_images=500)
GAME_SMOKE = replace(GAME, epochs=2, learning_rate=2e-3, train_images=640, validation_images=100)
CRITIC = {"objective": "wgan-gp", "betas": (0.0, 0.9), "average": 0.999}
GROWN, GROW = {"betas": (0.0, 0.99)}, replace(GAME, batch_size=16, learning_rate=1e-3, schedule="constant")  # as Karras et al. 2018
SIMPLE = CRITIC | {"network": "mlp", "width": 128, "average": 0.99}
RECIPES |= {
    ("gan", "smoke"): (SIMPLE | {"width": 32, "latent": 16}, GAME_SMOKE),
    ("gan", "quick"): (SIMPLE, replace(GAME, epochs=3, batch_size=64, reports_per_epoch=2)),
    ("gan", "full"): (SIMPLE | {"width": 256, "average": 0.999}, replace(GAME, epochs=60, batch_size=64)),
    ("cgan", "smoke"): (CRITIC | {"width": 8, "latent": 16}, GAME_SMOKE),
    ("cgan", "quick"): (CRITIC, replace(GAME, epochs=1, reports_per_epoch=4)),
    ("cgan", "full"): (CRITIC | {"width": 64}, replace(GAME, epochs=40)),
    ("progan", "smoke"): (CRITIC | {"width": 8, "latent": 16}, GAME_SMOKE),
    ("progan", "quick"): (CRITIC | GROWN | {"width": 16}, replace(GROW, epochs=1, train_images=22_400)),
    ("progan", "full"): (CRITIC | GROWN | {"width": 64}, replace(GROW, epochs=60)),
}
RECIPES |= {("realnvp-conditional", profile): RECIPES["realnvp", profile] for profile in PROFILES}
RECIPES |= {("vae-8bit", profile): (RECIPES["vae", profile][0] | {"likelihood": "logistic"}, RECIPES["vae", profile][1]) for profile in PROFILES}


def pick_profile(name: str | None = None) -> str:
    """The profile asked for: `name`, else the environment variable PROFILE, else full on a GPU and quick without."""
    name = name or os.environ.get("PROFILE") or ("full" if torch.cuda.is_available() else "quick")
    if name not in PROFILES:
        raise UserError(f"There is no profile {name!r}: take one of {', '.join(PROFILES)}.")
    return name


def check_model(name: str) -> str:
    if name not in MODELS:
        raise UserError(f"There is no model {name!r}: take one of {', '.join(MODELS)}.")
    return name


def check_seed(seed: int) -> int:
    if not 0 <= seed < 2**32:
        raise UserError(f"The seed {seed} was given: take a whole number from 0 to {2**32 - 1}.")
    return seed


def settings_of(model: str, pairs: list[str]) -> dict:
    """{"width": 16} of ["width=16"]: settings of a model's config. UserError for one that it has not, or a value of another type."""
    kind = MODELS[check_model(model)][1]
    defaults = {field.name: field.default for field in fields(kind) if field.name not in ("image_shape", "classes", "parts", "images")}  # the data's
    found = {}
    for name, _, text in (pair.partition("=") for pair in pairs):
        if name not in defaults:
            raise UserError(f"A {model} has no setting {name!r}: take one of {', '.join(defaults)}.")
        value, wanted = text, type(defaults[name])
        if wanted is not str:
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(text)
        value = float(value) if wanted is float and type(value) is int else value
        if type(value) is not wanted:
            raise UserError(f"{name}={text} was given: take a value like {defaults[name]!r}.")
        found[name] = value
    return found


def recipe(model: str, profile: str, dataset, settings: dict | None = None, **changes):
    """An untrained model for the images of `dataset` and its TrainConfig; `settings` override fields of the model's config, `changes` of the latter.

    The model's first weights depend on the seed alone.
    """
    asked, (settings, train_config) = settings or {}, RECIPES[check_model(model), pick_profile(profile)]
    settings, train_config = settings | asked, replace(train_config, **changes)
    kind, model_config = MODELS[model]
    if kind is TCVAE:
        settings = settings | {"images": len(dataset.train_images[: train_config.train_images])}
    if kind is ProGAN:  # every stage as long as the others, the last one twice
        images = len(dataset.train_images[: train_config.train_images])
        stages = len(sides(ProGANConfig(dataset.image_shape)))
        steps = train_config.epochs * (images // min(images, train_config.batch_size))
        settings = {"stage_steps": max(1, steps // (stages + 1))} | settings
    if model in LABELLED and len(dataset.classes) < 2:
        raise UserError(f"A {model} needs labels of at least two classes, and {dataset.name} has none: add train_labels and test_labels.")
    if model in LABELLED:
        settings = settings | {"classes": round(len(dataset.classes) ** (1 / dataset.parts)), "parts": dataset.parts}
    torch.manual_seed(check_seed(train_config.seed))
    try:
        return kind(model_config(image_shape=dataset.image_shape, **settings)), train_config
    except (RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        if isinstance(error, UserError) or not asked:
            raise
        raise UserError(f"{', '.join(f'{name}={value}' for name, value in asked.items())} make no model: {error}.") from error


def start_from(model, weights) -> float:
    """Give `model` the trained `weights` (a shipped name or a file) instead of its random start; return the seconds they cost.

    Where the model's tensor has more input channels than the trained one, as in the networks of a conditional flow, the
    new channels start at 0; a tensor of another shape keeps its own start. What was taken is not initialised from data
    any more. UserError where nothing fits.
    """
    trained, info = load_model(weights, next(model.parameters()).device)
    found, taken = trained.state_dict(), set()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            source = found.get(name)
            if source is None or source.ndim != tensor.ndim:
                continue
            if source.shape == tensor.shape:
                tensor.copy_(source)
            elif source.ndim == 4 and source.shape[1] < tensor.shape[1] and source[:, 0].shape == tensor[:, 0].shape:
                tensor.zero_()[:, : source.shape[1]] = source
            else:
                continue
            taken.add(name)
    for prefix, module in model.named_modules():
        own = {f"{prefix}.{name}" for name, _ in module.named_parameters(recurse=False)}
        if hasattr(module, "started"):
            module.started = own <= taken
    if not taken:
        raise UserError(f"Not one tensor of {weights} fits this model: start from weights of the same family and widths.")
    if str(weights) in shipped():
        return shipped()[str(weights)]["seconds"]
    return info.get("seconds", 0.0) + info.get("seconds_before", 0.0)


# -------------------------------------------------------------------------------------------------------- weights


def name_of(model) -> str:
    """The first name in MODELS of a model's class."""
    return next(name for name, (kind, _) in MODELS.items() if kind is type(model))


def save_model(model, path, info: dict) -> None:
    """Write weights with what is needed to use them again: the model's name, its configuration and `info`."""
    header = {"model": name_of(model), "config": json.dumps(asdict(model.config)), "info": json.dumps(info)}
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    content = safetensors.torch.save(tensors, metadata=header)
    write_atomically(path, lambda file: file.write(content))


def load_model(weights, device="cpu"):
    """A trained model in evaluation mode and its info: `weights` is a shipped name (see `shipped`) or a file.

    A shipped file is used only if its sha256 is the recorded one. Raises UserError for anything else.
    """
    index, path = shipped(), Path(weights)
    if str(weights) in index:
        path = WEIGHTS / f"{weights}.safetensors"
    if not path.is_file():
        raise UserError(f"There are no weights {str(weights)!r}: take one of {', '.join(index) or '(none shipped yet)'}, or a .safetensors file.")
    content = path.read_bytes()
    if str(weights) in index or (path.resolve().parent == WEIGHTS.resolve() and path.stem in index):
        found = hashlib.sha256(content).hexdigest()
        if found != index[path.stem]["sha256"]:
            raise UserError(f"{path} has the sha256 {found}, not the recorded {index[path.stem]['sha256']}: fetch it again.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata()
        kind, config = MODELS[header["model"]]
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()}
        model = kind(config(**settings))
        model.load_state_dict(safetensors.torch.load(content))
        info = json.loads(header["info"])
    except Exception as error:  # a damaged or foreign file can raise nearly anything
        raise UserError(f"{path} is damaged or not a model of this project ({type(error).__name__}): fetch or train it again.") from None
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), info


def shipped() -> dict:
    """Name -> entry (sha256, model, dataset, metrics) of the weights that come with the project."""
    path = WEIGHTS / "index.json"
    return json.loads(path.read_text()) if path.exists() else {}


def record(name: str) -> dict:
    """The record of shipped weights: configuration, seed, device, seconds, metrics, losses by epoch."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def ship(folder, name: str) -> None:
    """Put a finished run into weights/ and results/ under `name`, in half precision, and enter it in the index.

    Its seconds there include those of the weights that it started from.
    """
    try:
        content, record = halved((Path(folder) / "model.safetensors").read_bytes()), (Path(folder) / "result.json").read_bytes()
    except OSError as error:
        raise UserError(f"{folder} holds no finished run ({error.strerror}): give the folder of one that `train` has left.") from None
    result = json.loads(record)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "record": f"results/{name}.json"}
    entry |= {key: result[key] for key in ("model", "dataset", "parameters", "seconds", "device", "metrics")}
    entry["seconds"] += result.get("seconds_before", 0.0)
    write_atomically(WEIGHTS / f"{name}.safetensors", lambda file: file.write(content))
    write_atomically(RESULTS / f"{name}.json", lambda file: file.write(record))
    write_json(WEIGHTS / "index.json", dict(sorted((shipped() | {name: entry}).items())))


def halved(content: bytes) -> bytes:
    """A .safetensors file with its float32 tensors in float16: half the size, and read back as float32 of 11 bits.

    Of a generator with a running average, which alone is drawn with, only that is kept: GAN.load_state_dict knows.
    """
    tensors = {key: value.half() if value.dtype == torch.float32 else value for key, value in safetensors.torch.load(content).items()}
    if any(key.startswith("averaged.") for key in tensors):
        tensors = {key: value for key, value in tensors.items() if not key.startswith("generator.")}
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{broken[0]} has values beyond the range of half precision (65,504): these weights can't be shipped.")
    size = int.from_bytes(content[:8], "little")
    return safetensors.torch.save(tensors, metadata=json.loads(content[8 : 8 + size])["__metadata__"])


def keep_metrics(name: str, found: dict) -> None:
    """Put what was measured of shipped weights into their record and the index, beside or in the place of what was there."""
    found = shipped()[name]["metrics"] | found
    write_json(RESULTS / f"{name}.json", record(name) | {"metrics": found})
    write_json(WEIGHTS / "index.json", shipped() | {name: shipped()[name] | {"metrics": found}})
