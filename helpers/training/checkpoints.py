"""What a killed run comes back to: random states, files that are whole at any moment, a folder that one run at a time writes to."""

import contextlib
import json
import os
import tempfile
import threading
import time
from pathlib import Path

import filelock
import torch

from helpers import UserError

TURN = threading.RLock()  # for who draws random numbers: JupyterLab moves sliders in a thread beside the one that trains
PARTIAL = ".partial"  # ends the name of a file that is being written
HOUR = 3_600  # seconds after which a file that is being written belongs to a process that was killed


def rng_state() -> dict:
    found = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}
    return found | ({"mps": torch.mps.get_rng_state()} if torch.backends.mps.is_available() else {})


def set_rng_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    for i, of_gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(of_gpu, i)
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextlib.contextmanager
def aside(seed: int = 0, model=None):
    """Look at `model`, in evaluation mode, in the middle of training: no gradients, no compiled code, no trace in the
    random numbers. Another thread waits for its turn: a slider that is moved while a cell trains changes nothing of the training."""
    with TURN:
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
        sweep(folder, f".*{PARTIAL}")
        yield
    finally:
        lock.release()


def sweep(folder, pattern: str, older: float = 0.0) -> None:
    """Delete what writes that were killed have left, if it is so many seconds old."""
    for left in Path(folder).glob(pattern):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime >= older:
                left.unlink()


def write_atomically(path, write) -> None:
    """Call write(file) on a temporary file, then put it in the place of `path`: at any moment one of them is whole."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, f".{path.name}.*{PARTIAL}", HOUR)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
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


CHANGED = {  # how a part of the identity that differs is said, where its values would tell nobody anything
    "data": "pictures, labels or classes have changed since",
    "start": "it starts from other weights",
    "format": "it was written by another version of this project",
}


class Checkpoint:
    """The file that a run in `folder` goes on from, for whoever asks for the same: `identity`, a tree of plain values."""

    FORMAT = 2

    def __init__(self, folder, identity: dict):
        self.path = Path(folder) / "checkpoint.pt"
        self.identity = json.loads(json.dumps(identity | {"format": self.FORMAT}))  # tuples become lists, as they will in the file

    def exists(self) -> bool:
        return self.path.exists()

    def save(self, state: dict) -> None:
        write_atomically(self.path, lambda file: torch.save({"identity": self.identity} | state, file))

    def load(self) -> dict:
        """The state that was saved; UserError where the file is damaged or belongs to another configuration, to other data or another device."""
        state = read(self.path)
        found, wanted = ({**tree, "start": (tree.get("start") or {}).get("start_sha256")} for tree in (state["identity"], self.identity))
        parts = ["format"] if found.get("format") != self.FORMAT else sorted(k for k in found | wanted if found.get(k) != wanted.get(k))
        if not parts:
            return state
        said = [CHANGED[part] for part in parts if part in CHANGED]
        old, new = ({k: v for k, v in flat(tree).items() if k.split(".")[0] in parts and k.split(".")[0] not in CHANGED} for tree in (found, wanted))
        said += [f"{key}: {old.get(key)} there, {new.get(key)} now" for key in sorted(old | new) if old.get(key) != new.get(key)]
        raise UserError(f"{self.path} belongs to another run ({', '.join(said)}): ask for that one, or start again without resuming.")


def read(path) -> dict:
    """What is in a checkpoint. UserError where it is damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        flat(state["identity"])
        return state
    except Exception as error:  # a damaged file can raise nearly anything
        raise UserError(f"{path} is not a whole checkpoint ({type(error).__name__}): delete it and start again without resuming.") from None


def flat(tree, prefix=""):
    """{"a.b": 1} of {"a": {"b": 1}}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {k: v for name, sub in tree.items() for k, v in flat(sub, f"{prefix}.{name}".lstrip(".")).items()}
