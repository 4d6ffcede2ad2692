"""The first code cell of each notebook, where google.colab is a module and where it isn't."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import UserError, address

ROOT = Path(__file__).parent.parent
NOTEBOOKS = [*sorted(ROOT.glob("0*.ipynb")), *sorted(ROOT.glob("lab/*.ipynb"))]
NEVER = {"torch", "torchvision", "ipywidgets", "numpy"}  # Colab's own, which a notebook must leave alone


def bootstrap(path) -> str:
    return next(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """The repository as somebody would clone it: what git tracks here, as it is now."""
    place = tmp_path_factory.mktemp("origin") / "project.git"
    subprocess.run(["git", "init", "-q", place], check=True)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((ROOT / name).read_bytes())
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["add", "-A", "-f"], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=place, check=True)
    return place


@pytest.fixture
def colab(tmp_path):
    """An environment in which google.colab is there from the start, as in Colab's kernels."""
    stand_in = tmp_path / "stand-in"
    (stand_in / "google" / "colab").mkdir(parents=True)
    (stand_in / "google" / "colab" / "__init__.py").touch()
    (stand_in / "sitecustomize.py").write_text("import google.colab\n")
    return os.environ | {"PYTHONPATH": str(stand_in), "PROFILE": "smoke", "DATASET": "digits"}


def test_the_cell_is_the_same_in_all_notebooks():
    assert len({bootstrap(path) for path in NOTEBOOKS}) == 1


@pytest.mark.parametrize("given", ["https://github.com/ada/models", "git@github.com:ada/models.git", "https://github.com/ada/models/"])
def test_a_fork_opens_on_colab_and_asks_nothing(given, origin, tmp_path, monkeypatch, colab):
    monkeypatch.setenv("REPOSITORY", given)
    assert "(https://colab.research.google.com/github/ada/models/blob/HEAD/01_realnvp.ipynb)" in address.badge("01_realnvp.ipynb")
    copy = tmp_path / NOTEBOOKS[0].name
    shutil.copy(NOTEBOOKS[0], copy)
    for _ in range(2):  # a second time changes nothing
        address.carry([copy])
        nbformat.validate(nbformat.read(copy, as_version=4))
        assert 'REPOSITORY = "https://github.com/ada/models"' in bootstrap(copy)
    assert bootstrap(copy).replace("https://github.com/ada/models", "") == re.sub('(REPOSITORY = )"[^"]*"', r'\1""', bootstrap(NOTEBOOKS[0]))
    (tmp_path / "content").mkdir()
    cell = bootstrap(copy).replace("https://github.com/ada/models", str(origin))
    known = {name: value for name, value in colab.items() if name != "REPOSITORY"}
    subprocess.run([sys.executable, "-c", cell], cwd=tmp_path / "content", env=known, stdin=subprocess.DEVNULL, check=True)
    assert (tmp_path / "content" / "project" / "helpers").is_dir()


def test_without_an_address_there_is_no_badge(monkeypatch):
    monkeypatch.setenv("REPOSITORY", "somewhere")
    with pytest.raises(UserError, match="REPOSITORY=somewhere was given: take an address like"):
        address.badge("01_realnvp.ipynb")
    monkeypatch.delenv("REPOSITORY")
    monkeypatch.setattr(address.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 1, "", "no origin"))
    assert address.badge("01_realnvp.ipynb") == ""


def test_elsewhere_it_does_nothing(tmp_path):
    subprocess.run([sys.executable, "-c", bootstrap(NOTEBOOKS[0])], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


def test_a_notebook_of_the_laboratory_works_in_the_projects_folder(tmp_path):
    (tmp_path / "helpers").mkdir()
    (tmp_path / "lab").mkdir()
    said = subprocess.run(
        [sys.executable, "-c", bootstrap(NOTEBOOKS[0]) + "\nprint(os.getcwd())"], cwd=tmp_path / "lab", capture_output=True, text=True, check=True
    )
    assert Path(said.stdout.strip()) == tmp_path


def test_it_fetches_once_and_leaves_colabs_own_packages_alone(origin, colab, tmp_path):
    work = tmp_path / "content"
    work.mkdir()
    watched = f"""
import importlib.util, json, subprocess
real_run, real_find, calls = subprocess.run, importlib.util.find_spec, []
lacking = {{"safetensors", "torchmetrics"}}
importlib.util.find_spec = lambda name, *rest: None if name in lacking else real_find(name, *rest)
def run(command, **options):
    calls.append(command)
    return None if "pip" in command else real_run(command, **options)
subprocess.run = run
cell = {bootstrap(NOTEBOOKS[0])!r}
exec(cell)
exec(cell)
import helpers
print(json.dumps({{"calls": calls, "helpers": helpers.__file__}}))
"""
    said = subprocess.run(
        [sys.executable, "-c", watched], cwd=work, env=colab | {"REPOSITORY": str(origin)}, capture_output=True, text=True, check=True
    )
    found = json.loads(said.stdout.splitlines()[-1])
    clones = [call for call in found["calls"] if "clone" in call]
    installs = [call[call.index("-q") + 1 :] for call in found["calls"] if "pip" in call]
    assert len(clones) == 1 and Path(found["helpers"]).is_relative_to(work / "project")
    assert installs[0] == ["safetensors", "torchmetrics"] and not any(NEVER & set(names) for names in installs)


@pytest.mark.parametrize("path", NOTEBOOKS[1:2], ids=lambda path: path.name)
def test_a_notebook_opened_in_an_empty_folder_runs(path, origin, colab, tmp_path):
    """The notebook alone in a folder, as Colab opens it: it fetches the rest and runs to its end."""
    work = tmp_path / "content"
    work.mkdir()
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(work)}})
    client.execute(env=colab | {"REPOSITORY": str(origin)})
    assert (work / "project" / "helpers").is_dir() and not [o for c in notebook.cells for o in c.get("outputs", []) if o.output_type == "error"]
