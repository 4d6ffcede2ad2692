"""The exports for teachers, held by the tools themselves where they are installed: `make test-classroom`."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import UserError, classroom, exercises, weights

LESSONS = sorted(path.stem for path in weights.ROOT.glob("0*.ipynb"))
WRONG = {  # three wrong answers in lesson 4, and one exercise that is right
    "best_loss": "return (p * p.log()).sum()",
    "r1": "return score(real).mean()",
    "mode_seeking": "return None",
}


def needs(module: str, name: str):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"no {name}: `make test-classroom` installs it")


def source(folder: Path, tool: str, lesson: str) -> Path:
    return folder / "source" / lesson / f"{lesson}.ipynb" if tool == "nbgrader" else folder / f"{lesson}.ipynb"


def without_solutions(text: str, instead: str = "return None") -> str:
    return re.sub(r"#+ BEGIN SOLUTION\n.*?\n\s*#+ END SOLUTION", instead, text, flags=re.DOTALL)


def with_wrong_answers(notebook) -> None:
    for cell in notebook.cells:
        name = re.match(r"def (\w+)\(", cell.source)
        if cell.cell_type == "code" and name and name[1] in WRONG:
            cell.source = cell.source.splitlines()[0] + "\n    " + WRONG[name[1]]


def run(*command, where) -> str:
    environment = os.environ | {"PYTHONPATH": str(weights.ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])  # nbgrader calls alembic
    done = subprocess.run([sys.executable, "-m", *command], cwd=where, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("tool", classroom.TOOLS)
@pytest.mark.parametrize("lesson", LESSONS)
def test_an_instructors_copy_is_right_and_an_untouched_one_is_not(tool, lesson, tmp_path):
    assert lesson in classroom.write(tool, tmp_path, f"{lesson}.ipynb")
    cells = [cell for cell in nbformat.read(source(tmp_path, tool, lesson), as_version=4).cells if cell.cell_type == "code"]
    own = {name for name, one in exercises.EXERCISES.items() if one.notebook == int(lesson[:2])}
    right, untouched, lost = {}, {}, set()
    for cell in cells:
        exec(cell.source, right)  # an assertion of a test would stop it
        try:
            exec(without_solutions(cell.source), untouched)
        except AssertionError:
            lost |= {name for name in own if f'("{name}"' in cell.source}
    assert lost == own


def test_what_there_is_not_is_said(tmp_path):
    with pytest.raises(UserError, match="There is no export for 'moodle': take one of nbgrader, otter"):
        classroom.write("moodle", tmp_path)
    with pytest.raises(UserError, match="There is no lesson '07.ipynb'"):
        classroom.write("otter", tmp_path, "07.ipynb")


def test_hidden_tests_ask_on_other_numbers():
    seen = set()
    for seed in (0, *classroom.HIDDEN):
        exercises.check("arc", lambda a, b, t: seen.add(tuple(a.tolist())) or a, seed)
    assert len(seen) == 4


@needs("nbgrader", "nbgrader")
def test_nbgrader_gives_the_points(tmp_path):
    lesson = "04_gans"
    classroom.write("nbgrader", tmp_path, f"{lesson}.ipynb")
    run("nbgrader", "generate_assignment", lesson, where=tmp_path)
    student = nbformat.read(tmp_path / "release" / lesson / f"{lesson}.ipynb", as_version=4)
    text = json.dumps(student)
    assert "SOLUTION" not in text and "HIDDEN" not in text and "xlogy" not in text and text.count("YOUR CODE HERE") == 4
    for who in ("right", "untouched", "wrong"):
        handed_in = tmp_path / "submitted" / who / lesson
        handed_in.mkdir(parents=True)
        notebook = nbformat.from_dict(student)
        if who != "untouched":
            answers = {cell.metadata.nbgrader.grade_id: cell.source for cell in nbformat.read(source(tmp_path, "nbgrader", lesson), 4).cells[2:]}
            for cell in notebook.cells[2:]:
                if cell.metadata.nbgrader.solution:
                    cell.source = answers[cell.metadata.nbgrader.grade_id]
        if who == "wrong":
            with_wrong_answers(notebook)
        nbformat.write(notebook, handed_in / f"{lesson}.ipynb")
        student = nbformat.read(tmp_path / "release" / lesson / f"{lesson}.ipynb", as_version=4)
    run("nbgrader", "autograde", lesson, where=tmp_path)
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        points = {who: book.find_submission(lesson, who).score for who in ("right", "untouched", "wrong")}
        assert book.find_assignment(lesson).max_score == 9
    assert points == {"right": 9, "untouched": 0, "wrong": exercises.EXERCISES["gradient_penalty"].stars}


@needs("otter", "Otter")
def test_otter_gives_the_points(tmp_path):
    lesson = "04_gans"
    classroom.write("otter", tmp_path, f"{lesson}.ipynb")
    run("otter", "assign", f"{lesson}.ipynb", "made", "--no-pdfs", where=tmp_path)  # which asks for full marks of the instructor's
    student = tmp_path / "made" / "student" / f"{lesson}.ipynb"
    assert "SOLUTION" not in student.read_text() and "HIDDEN" not in student.read_text() and "xlogy" not in student.read_text()
    (archive,) = (tmp_path / "made" / "autograder").glob("*.zip")
    points = {}
    for who in ("right", "untouched", "wrong"):
        notebook = nbformat.read(student if who == "untouched" else tmp_path / "made" / "autograder" / f"{lesson}.ipynb", as_version=4)
        if who == "wrong":
            with_wrong_answers(notebook)
        nbformat.write(notebook, tmp_path / f"{who}.ipynb")
        (tmp_path / who).mkdir()
        run("otter", "run", "-a", str(archive), "-o", who, f"{who}.ipynb", where=tmp_path)
        tests = json.loads((tmp_path / who / "results.json").read_text())["tests"]
        points[who] = sum(test.get("score", 0) for test in tests)
    assert points == {"right": 9, "untouched": 0, "wrong": exercises.EXERCISES["gradient_penalty"].stars}
