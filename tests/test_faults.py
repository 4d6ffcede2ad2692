"""What happens to machines and people, not to mathematics: a folder that vanishes, Ctrl-C in a cell, a home that can't be written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_training import state

from helpers import recipes, training
from helpers.training import reports

ROOT = Path(__file__).parent.parent


def test_a_folder_that_vanishes_is_made_again(digits, smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "CHECKPOINT_SECONDS", 0)
    model, config = smoke
    training.fit(
        model, digits, config, tmp_path / "run", progress=False, on_report=lambda model, epoch: shutil.rmtree(tmp_path / "run", ignore_errors=True)
    )
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_ctrl_c_in_a_cell_and_the_cell_again(digits, tmp_path, monkeypatch):
    """In the same process: nothing is left locked or without gradients; with resume it ends as if undisturbed."""
    monkeypatch.setattr(reports, "CHECKPOINT_SECONDS", 0)

    def cell(folder, resume=False, interrupted=False):
        def stop(model, epoch):
            if interrupted and epoch == 1:
                raise KeyboardInterrupt

        model, config = recipes.recipe("vae", "smoke", digits, epochs=3)
        training.fit(model, digits, config, tmp_path / folder, resume=resume, progress=False, on_report=stop)
        return model

    whole = state(cell("whole"))
    with pytest.raises(KeyboardInterrupt):
        cell("cut", interrupted=True)
    assert torch.is_grad_enabled()
    assert torch.equal(state(cell("cut", resume=True)), whole)
    with pytest.raises(KeyboardInterrupt):
        cell("again", interrupted=True)
    assert torch.equal(state(cell("again")), whole)


def test_without_a_home_a_display_or_a_locale(tmp_path):
    """As under cron, in a container, or on a cluster's node; in a folder with a space and an umlaut."""
    folder = tmp_path / "später, vielleicht"
    folder.mkdir()
    bare = {"PATH": os.environ["PATH"], "HOME": "/proc/nobody", "LC_ALL": "C", "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    for command in (
        ["train", "betavae", "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--folder", "läuft"],
        ["evaluate", "läuft/model.safetensors"],
        ["sample", "läuft/model.safetensors", "--count", "4", "--out", "vier Bilder.png"],
        ["list", "betavae-mnist"],
    ):
        done = subprocess.run([sys.executable, "-m", "helpers", *command], cwd=folder, env=bare, capture_output=True)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2_000:]
    assert {"läuft", "vier Bilder.png"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_every_python_that_is_here_reads_the_code_without_a_warning(version, tmp_path):
    candidates = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    python = next((one for one in candidates if one and subprocess.run([one, "-c", ""], capture_output=True).returncode == 0), None)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    files = [str(path) for folder in ("helpers", "solutions", "tests") for path in (ROOT / folder).rglob("*.py")]
    code = "import sys\nfor path in sys.argv[1:]:\n    compile(open(path, encoding='utf-8').read(), path, 'exec')"
    found = subprocess.run([python, "-W", "error", "-c", code, *files], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
