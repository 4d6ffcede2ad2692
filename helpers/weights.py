"""Trained models that travel: saved, loaded by a checksum, shipped with the project and with the record of how they came about."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import filelock
import safetensors.torch
import torch

from helpers import UserError, take
from helpers.recipes import RECIPES, check_model
from helpers.training import write_atomically, write_json

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "weights"
RESULTS = ROOT / "results"


def name_of(model) -> str:
    """The first name in RECIPES of a model's class. UserError where it has none."""
    for name, recipe in RECIPES.items():
        if recipe.kind is type(model):
            return name
    raise UserError(f"{type(model).__name__} has no entry in helpers.recipes.RECIPES: give it one, so that its weights can be loaded again.")


def save_model(model, path, info: dict, name: str | None = None) -> None:
    """Write weights with what is needed to use them again: the model's name in RECIPES, its configuration and `info`."""
    header = {"model": name or name_of(model), "config": json.dumps(asdict(model.config)), "info": json.dumps(info)}
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
        raise UserError(f"There are no weights {str(weights)!r}: {take(str(weights), index or ['(none shipped yet)'])}, or a .safetensors file.")
    content = path.read_bytes()  # once: what is checked is what is used
    if str(weights) in index or (path.resolve().parent == WEIGHTS.resolve() and path.stem in index):
        check_digest(path, content, index[path.stem]["sha256"])
    try:
        header = metadata(content)
        kind = RECIPES[header["model"]].kind
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(header["config"]).items()}
        model = kind(kind.Config(**settings))
        model.load_state_dict(tensors_of(content))
        info = json.loads(header["info"])
    except UserError:
        raise
    except Exception as error:  # a damaged or foreign file can raise nearly anything
        raise UserError(f"{path} is damaged or not a model of this project ({type(error).__name__}): fetch or train it again.") from None
    if not all(tensor.isfinite().all() for tensor in model.state_dict().values()):
        raise UserError(f"{path} holds numbers that are not finite: its training broke. Train it again, at a lower learning rate.")
    return model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False), info


def check_digest(path, content: bytes, wanted: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != wanted:
        raise UserError(f"{path} has the sha256 {found}, not the recorded {wanted}: fetch it again.")


def tensors_of(content: bytes) -> dict[str, torch.Tensor]:
    """The tensors in a .safetensors file, with those that it has from another (see `halved`)."""
    found, lent = safetensors.torch.load(content), json.loads(metadata(content).get("lent", "{}"))
    if lent:
        path = WEIGHTS / f"{lent['by']}.safetensors"
        lender = path.read_bytes()
        check_digest(path, lender, lent["sha256"])
        there = tensors_of(lender)
        found |= {own: there[name].clone() for own, name in lent["tensors"].items()}  # several may be one there
    return found


def metadata(content: bytes) -> dict[str, str]:
    """What is written beside the tensors of a .safetensors file."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size])["__metadata__"]


def settings_from(name: str, start: str | None) -> dict:
    """What of the configuration of a model of this name in RECIPES follows from the weights that it starts from.

    UserError where it needs some and there are none, or they are of another kind of model.
    """
    found = RECIPES[check_model(name)]
    if start is None and found.after:
        raise UserError(f"A {name} starts from a trained {found.after}: give its weights with --start, a shipped name or a file.")
    if start is None:
        return {}
    trained, _ = load_model(start)
    return found.kind.settings_from(type(trained), trained.config)


def start_from(model, weights) -> dict:
    """Give `model` the trained `weights` (a shipped name or a file) instead of its random start; return what a record says of
    it: their name, their sha256 and the seconds that they cost.

    Where the model's tensor has more input channels than the trained one, as in the networks of a conditional flow, the
    new channels start at 0; a tensor of another shape keeps its own start. What was taken is not initialised from data
    any more. UserError where nothing fits.
    """
    model = model.start_part()
    trained, info = load_model(weights, model.device)
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
        if hasattr(module, "started"):
            own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
            module.started = {f"{prefix}.{name}" for name, _ in own} <= taken
    if not taken:
        raise UserError(f"Not one tensor of {weights} fits this model: start from weights of the same family and widths.")
    entry = shipped().get(str(weights))
    before = entry["seconds"] if entry else info.get("seconds", 0.0) + info.get("seconds_before", 0.0)
    digest = entry["sha256"] if entry else hashlib.sha256(Path(weights).read_bytes()).hexdigest()
    return {"start": str(weights), "start_sha256": digest, "seconds_before": before}


# -------------------------------------------------------------------------------------------------------- shipped


def shipped() -> dict:
    """Name -> entry (sha256, model, dataset, metrics) of the weights that come with the project."""
    path = WEIGHTS / "index.json"
    return json.loads(path.read_text()) if path.exists() else {}


def enter(name: str, entry: dict) -> None:
    """Put an entry into the index, whoever else is writing to it."""
    WEIGHTS.mkdir(exist_ok=True)
    with filelock.FileLock(WEIGHTS / ".index.lock"):
        write_json(WEIGHTS / "index.json", dict(sorted((shipped() | {name: shipped().get(name, {}) | entry}).items())))


def record(name: str) -> dict:
    """The record of shipped weights: configuration, seed, device, seconds, metrics, losses by epoch."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def store(name: str, content: bytes, result: dict, changed: dict) -> None:
    """Weights, in half precision, and their record, under `name`, entered in the index; changed: settings of the model that are to be others.

    Shipped weights that have tensors from those that stood under this name keep them, in their own file.
    """
    for other in shipped():
        borrowing = (WEIGHTS / f"{other}.safetensors").read_bytes()
        if other != name and json.loads(metadata(borrowing).get("lent", "{}")).get("by") == name:
            put(other, halved(borrowing), record(other))
    lender = result.get("start") if result.get("start") != name else None  # whose file is about to be another
    content, result = halved(content, changed, lender), result | {"model_config": result["model_config"] | changed}
    put(name, content, result)


def put(name: str, content: bytes, result: dict) -> None:
    """A file of weights, its record and its entry in the index."""
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "record": f"results/{name}.json"}
    entry |= {key: result[key] for key in ("model", "dataset", "parameters", "seconds", "device", "metrics")}
    entry["seconds"] += result.get("seconds_before", 0.0)
    write_atomically(WEIGHTS / f"{name}.safetensors", lambda file: file.write(content))
    write_json(RESULTS / f"{name}.json", result | {"weights_sha256": entry["sha256"]})
    enter(name, entry)


def halved(content: bytes, changed: dict | None = None, lender: str | None = None) -> bytes:
    """A .safetensors file with its float32 tensors in float16: half the size, and read back as float32 of 11 bits.

    changed: settings of its configuration that are to be others. lender: the weights that its training started from. Where these are
    shipped, what the training has left as it was is not kept twice: the header says in which file it lies, by its sha256.
    """
    tensors = {key: value.half() if value.dtype == torch.float32 else value for key, value in tensors_of(content).items()}
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise UserError(f"{broken[0]} has values beyond the range of half precision (65,504): these weights can't be shipped.")
    header = metadata(content)
    header["config"] = json.dumps(json.loads(header["config"]) | (changed or {}))
    header.pop("lent", None)
    if lender in shipped():
        lending = (WEIGHTS / f"{lender}.safetensors").read_bytes()
        there = {(value.shape, value.numpy().tobytes()): key for key, value in tensors_of(lending).items() if value.numel() > 1}
        same = {key: there[found] for key, value in tensors.items() if (found := (value.shape, value.numpy().tobytes())) in there}
        if same:
            header["lent"] = json.dumps({"by": lender, "sha256": hashlib.sha256(lending).hexdigest(), "tensors": same})
            tensors = {key: value for key, value in tensors.items() if key not in same}
    return safetensors.torch.save(tensors, metadata=header)


def keep_metrics(name: str, found: dict) -> None:
    """Put what was measured of shipped weights into their record and the index, beside or in the place of what was there."""
    found = shipped()[name]["metrics"] | found
    write_json(RESULTS / f"{name}.json", record(name) | {"metrics": found})
    enter(name, {"metrics": found})
