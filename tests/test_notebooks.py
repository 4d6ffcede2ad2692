"""What must be true of every committed notebook, besides running (nbval sees to that)."""

import ast
import inspect
import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from PIL import Image, ImageDraw

from helpers import exercises, notebooks, offline

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("0*.ipynb"))
LAB = sorted(ROOT.glob("lab/*.ipynb"))
LARGEST = 1_900_000  # bytes: GitHub shows files "generally less than 2 MB"


@pytest.fixture(params=[*NOTEBOOKS, *LAB], ids=lambda path: path.name)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.name)
def with_sliders(request):
    return nbformat.read(request.param, as_version=4)


@pytest.fixture(params=[*NOTEBOOKS, *LAB], ids=lambda path: path.name)
def ruled(request):
    """The path of a lesson, or of a notebook of the laboratory."""
    return request.param


def test_there_are_notebooks():
    assert NOTEBOOKS and LAB


# ------------------------------------------------------------------------------------------------ the rule for a lesson


def prose(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def sentences(text: str) -> list[str]:
    """The sentences of Markdown: a displayed formula ends one, a formula within counts as a word, as does code; an item or a cell is its own."""
    text = re.sub(r"\$\$.*?\$\$", ".\n\n", text, flags=re.DOTALL)
    text = re.sub(r"\$[^$]+\$", "F", text)
    text = re.sub(r"`[^`]+`", "C", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return [part for part in re.split(r"(?<=[.?!])[\s*_]+|\n\s*\n|\n\* |\n\d\. |\||·", text) if part.strip()]


def test_sentences_are_told_apart():
    text = "One, two. $x$ is `three four` [five](six.md)?\n\n* seven\n* eight\n\n$$a + b$$\n\n| nine | ten |"
    assert [len(part.split()) for part in sentences(text)] == [2, 4, 1, 1, 1, 1, 1]


def test_a_lesson_is_short(ruled):
    notebook = nbformat.read(ruled, as_version=4)
    assert len(notebook.cells) <= 100 and len(prose(notebook).split()) <= 5_000
    long = [part for part in sentences(prose(notebook)) if len(part.split()) > 35]
    assert not long, long
    assert ruled.stat().st_size <= LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_lesson_opens_with_what_will_be_made_and_what_it_takes(path):
    notebook = nbformat.read(path, as_version=4)
    first, *setup = notebook.cells[:3]
    assert re.match(r"# \d · .+\n\n.+\n\n!\[.+\]\(imgs/.+\)", first.source), "title, a paragraph, a picture"
    assert first.source.index("**After this you can**") < first.source.index("**Time.**")
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in setup)
    promised = re.search(r"\*\*After this you can\*\*\n\n((?:\* .+\n)+)", first.source)[1].splitlines()
    checked = {name for cell in notebook.cells for name in re.findall(r'exercises\.check\("(\w+)"', cell.source)}
    assert 3 <= len(promised) <= 5 and checked == set(re.findall(r"`(\w+)`", "\n".join(promised)))
    number = int(path.name[:2])
    assert checked == {name for name, one in exercises.EXERCISES.items() if one.notebook == number}


def test_every_picture_says_what_it_shows(ruled):
    notebook, seen = nbformat.read(ruled, as_version=4), 0
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                seen += 1
                assert len(output.metadata["image/png"]["alt"]) > 20, cell.source
    assert seen and all(alt for alt in re.findall(r"!\[(.*?)\]\(", prose(notebook)))


def test_links_lead_to_files_that_are_there(ruled):
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", prose(nbformat.read(ruled, as_version=4)))
    assert links and not [link for link in links if not (ruled.parent / link).exists()]


def test_times_leave_no_trace(ruled):
    """A second execution changes what changed, and not every cell."""
    assert not [cell for cell in nbformat.read(ruled, as_version=4).cells if "execution" in cell.metadata]


def test_a_copy_elsewhere_finds_its_pictures(tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("![a](imgs/a.png) [b](https://b.org) [c](#c) [d](lab/d.ipynb)")])
    copy = notebooks.moved(notebook, tmp_path, tmp_path / "runs")
    assert copy.cells[0].source == "![a](../imgs/a.png) [b](https://b.org) [c](#c) [d](../lab/d.ipynb)"
    assert "](imgs/a.png)" in notebook.cells[0].source


# ------------------------------------------------------------------------------------------------------- all notebooks


def test_committed_executed_in_order_and_without_errors(notebook):
    """An unexecuted notebook would pass every NBVAL_CHECK_OUTPUT unchecked."""
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_explorers_keep_their_widgets_and_pictures(with_sliders):
    notebook = with_sliders
    states = notebook.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    views = [o.data for c in notebook.cells for o in c.get("outputs", []) if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    explorers = [data for data in views if "image/png" in data]
    assert len(explorers) >= 3
    for data in views:
        assert data["application/vnd.jupyter.widget-view+json"]["model_id"] in states


def test_html_shows_every_picture_and_every_formula(notebook):
    page = offline.to_html(notebook, ROOT)
    pictures = [o.data["image/png"] for c in notebook.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    assert pictures and all(picture.replace("\n", "") in page for picture in pictures)
    texts = re.sub("```.*?```|`[^`]*`", "", prose(notebook), flags=re.S)
    formulas = len(re.findall(r"\$\$.+?\$\$|\$[^$]+\$", texts, re.S))
    assert page.count("<math") >= formulas and "<script" not in page and not re.search('(src|href)="https?://[^"]+[.](js|css)', page)
    assert page.count("<h2") == len(re.findall("^## ", texts, re.M)) and "<title>" in page and "%|" not in page


def test_a_price_is_no_formula():
    said = offline.with_formulas("<p>for $5, <code>$x$</code> and $x &lt; y$</p>")
    assert "<code>$x$</code>" in said and said.count("<math") == 1 and said.startswith("<p>for $5, ")


def test_cells_are_short(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            lines = cell.source.splitlines()
            assert len(lines) <= 30 and max(map(len, lines), default=0) <= 110, cell.source


def test_no_path_of_a_machine_in_the_outputs(notebook):
    assert not re.search(r"/(home|root|work|tmp|Users)/", nbformat.writes(notebook))


def test_the_source_that_is_shown_is_the_source_that_runs(notebook, monkeypatch):
    """Outputs are taken when a notebook is executed; the code may have moved on since."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    imports = next(cell.source for cell in code if "from helpers" in cell.source)
    names, shown = {}, []
    exec("\n".join(line for line in imports.splitlines() if line.startswith(("import ", "from "))), names)
    monkeypatch.setattr(names["plots"], "display", lambda html: shown.append(html.data))
    cells = [cell for cell in code if cell.source.startswith("plots.source(")]
    for cell in cells:
        exec(cell.source, names)
        assert shown.pop() == cell.outputs[0]["data"]["text/html"], f"run this notebook again: {cell.source}"


def test_helpers_are_called_as_they_are_defined(notebook):
    """Also in the cells that the smoke profile passes by."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names, checked = {}, 0
    exec("\n".join(line for line in next(s for s in code if "from helpers" in s).splitlines() if line.startswith(("import ", "from "))), names)
    for call in (node for source in code for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        path = ast.unparse(call.func).split(".")
        if any(not part.isidentifier() for part in path) or not getattr(names.get(path[0]), "__name__", "").startswith("helpers"):
            continue
        function = names[path[0]]
        for part in path[1:]:
            function = getattr(function, part)  # an AttributeError names what there is not
        starred = any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords)
        if not starred:
            inspect.signature(function).bind(*call.args, **{k.arg: k.value for k in call.keywords})
            checked += 1
    assert checked > 5


def test_a_kernel_that_died_half_way_goes_on(tmp_path):
    """Restarted and run with RESUME = True, the notebook's training ends where an uninterrupted one does."""
    whole = nbformat.read(ROOT / "02_autoencoder_vae.ipynb", as_version=4)
    code = [cell for cell in whole.cells if cell.cell_type == "code"]
    first = next(i for i, cell in enumerate(code) if ".train(RESUME)" in cell.source)
    killer = """
import os, pathlib, signal, threading, time
def kill():
    while not list(pathlib.Path("runs").rglob("checkpoint.pt")):
        time.sleep(0.002)
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill, daemon=True).start()
"""

    def run(folder, before="", resume=False):
        folder.mkdir(exist_ok=True)
        sources = [
            before,
            *(cell.source for cell in code[: first + 1]),
            "print(sum(p.double().sum() for p in model.parameters()).item(), record['epochs'])",
        ]
        cells = [nbformat.v4.new_code_cell(source.replace("RESUME = False", f"RESUME = {resume}")) for source in sources]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": whole.metadata["kernelspec"]})
        environment = os.environ | {"PROFILE": "smoke", "DATASET": "digits", "CHECKPOINT_SECONDS": "0", "PYTHONPATH": str(ROOT)}
        NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(folder)}}).execute(env=environment)
        return re.sub(r"'seconds': [\d.]+", "", notebook.cells[-1].outputs[0].text)

    expected = run(tmp_path / "whole")
    with pytest.raises(DeadKernelError):
        run(tmp_path / "broken", killer)
    assert run(tmp_path / "broken", resume=True) == expected


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder of 120 pictures of three kinds, grey and in colour."""
    folder = tmp_path_factory.mktemp("shapes")
    for i in range(120):
        kind = ("ball", "box", "cross")[i % 3]
        picture = Image.new("RGB" if i % 2 else "L", (40 + i % 7, 50), 20)
        pen, reach = ImageDraw.Draw(picture), 8 + i % 9
        box = (20 - reach, 25 - reach, 20 + reach, 25 + reach)
        if kind == "cross":
            pen.line(box, fill="white", width=5)
        else:
            {"ball": pen.ellipse, "box": pen.rectangle}[kind](box, fill="white")
        (folder / kind).mkdir(exist_ok=True)
        picture.save(folder / kind / f"{i}.png")
    return folder


@pytest.mark.parametrize(("name", "part"), [*((path.stem, "") for path in NOTEBOOKS), ("05_flow_matching", "ball"), ("04_gans", "ball")])
def test_it_runs_on_a_folder_of_pictures(name, part, shapes, tmp_path, monkeypatch):
    """Of three classes, and of one, where nothing can be asked for."""
    monkeypatch.setenv("DATASET", str(shapes / part))
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    found = notebooks.execute(ROOT / f"{name}.ipynb", "smoke", tmp_path)
    assert str(shapes / part) in found["dataset"]
    assert not [o for c in nbformat.read(tmp_path / f"{name}.ipynb", 4).cells for o in c.get("outputs", []) if o.output_type == "error"]
