"""Execute the notebooks top to bottom; leave executed copies and HTML under runs/, and end with a table."""

import os
import re
import sys
import textwrap
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from helpers import UserError, offline, take, training
from helpers.recipes import pick_profile
from helpers.show.plots import HEADLINE


class Client(NotebookClient):
    """Prints what the cells print, and which cell is running for how long."""

    heading = "start"

    def output(self, outs, msg, display_id, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            self.clear()
            print(msg["content"]["text"], end="" if msg["content"]["text"].endswith("\n") else "\n", flush=True)
        return super().output(outs, msg, display_id, cell_index)

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            self.heading = cell.source.splitlines()[0].lstrip("# ")
        self.cell, self.started = cell_index + 1, time.perf_counter()
        return await super().async_execute_cell(cell, cell_index, **kwargs)

    def tick(self, done: threading.Event):
        """A line that is rewritten every second, on terminals only."""
        while sys.stdout.isatty() and not done.wait(1):
            seconds = time.perf_counter() - self.started
            print(f"\r\033[K{self.heading} · cell {self.cell}/{len(self.nb.cells)} · {seconds:.0f} s", end="", flush=True)

    def clear(self):
        if sys.stdout.isatty():
            print("\r\033[K", end="")


def moved(notebook, old: Path, new: Path):
    """A copy whose texts find their pictures and pages from folder `new` as they did from `old`."""
    copy = nbformat.from_dict(notebook)
    for cell in copy.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(
                r"(?<=\]\()(?!https?:|#)([^)]+)", lambda found: os.path.relpath(old / found[1], new).replace(os.sep, "/"), cell.source
            )
    return copy


def execute(path: Path, profile: str, out: Path) -> dict:
    """Execute one notebook and write `out`/NAME.ipynb and .html, also where a cell fails; return its headline."""
    notebook = nbformat.read(path, as_version=4)
    environment = os.environ | {"PROFILE": profile}
    where = {"metadata": {"path": str(path.parent)}}
    client = Client(notebook, timeout=None, kernel_name="python3", resources=where, store_widget_state=True, record_timing=False)
    client.cell, client.started, done = 0, time.perf_counter(), threading.Event()
    threading.Thread(target=client.tick, args=(done,), daemon=True).start()
    started, failure = time.perf_counter(), None
    try:
        client.execute(env=environment)
    except (CellExecutionError, DeadKernelError) as error:
        failure = error
    finally:
        done.set()
        client.clear()
        out.mkdir(parents=True, exist_ok=True)
        (out / path.with_suffix(".html").name).write_text(offline.to_html(notebook, path.parent), encoding="utf-8")
        nbformat.write(moved(notebook, path.parent, out), out / path.name)
    if failure:
        print(failure, file=sys.stderr)
        raise UserError(f"{path.name} stopped at cell {client.cell}: see the traceback above and {out / path.name}.")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    headlines = [output["data"][HEADLINE] for output in outputs if HEADLINE in output.get("data", {})]
    return (headlines[-1] if headlines else {}) | {"seconds": time.perf_counter() - started}


def existing(names: list[str] | None) -> list[Path]:
    """The notebooks of these names, or all lessons that are here. UserError for one that there is not."""
    here = sorted(Path().glob("0*.ipynb"))
    paths = [Path(name) for name in names] if names else here
    if not paths:
        raise UserError(f"There are no notebooks in {Path.cwd()}: go to the project's folder, or name them.")
    for path in paths:
        if not path.is_file():
            raise UserError(f"There is no notebook {path}: {take(path.name, [p.name for p in here])}.")
    return paths


def run(names: list[str] | None = None, profile: str | None = None, out: str = "runs") -> None:
    """Execute the named notebooks, or all that are here, and print a table of what they measured."""
    profile, paths = pick_profile(profile), existing(names)
    device, rows = training.device_name(training.pick_device()), []
    for path in paths:
        print(f"== {path}, profile {profile}, on {device}", flush=True)
        headline = execute(path, profile, Path(out))
        seconds, dataset = headline.pop("seconds"), headline.pop("dataset", "")
        metrics = ", ".join(f"{key} {value}" for key, value in headline.items())
        rows.append((path.name, dataset, f"{seconds:.0f} s", metrics))
    print(f"\nprofile {profile}, on {device}")
    for name, dataset, seconds, metrics in [("notebook", "data set", "time", "measured"), *rows]:
        said = textwrap.wrap(metrics, 36) or [""]
        print(f"{name:26}{dataset:9} {seconds:>6}  " + f"\n{'':44}".join(said))
    print(f"\nexecuted copies and HTML are in {out}/")
