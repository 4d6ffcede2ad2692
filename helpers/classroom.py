"""The exercises of the lessons as homework that a tool grades: for nbgrader, or for Otter.

A lesson becomes one notebook, the instructor's, out of which the tool makes the students' copy. An exercise is a task, a function to write, a
test that the student sees and one that is hidden: the same check, of other random numbers. Its stars are its points.
"""

import ast
import textwrap
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell

from helpers import UserError, exercises, take, weights
from helpers.exercises.checks import EXERCISES

TOOLS = ("nbgrader", "otter")
HIDDEN = (1, 2, 3)  # seeds of the hidden test


def solution(path: Path) -> tuple[list[str], dict[str, ast.FunctionDef]]:
    """What a file of solutions imports, and its functions by name."""
    tree = ast.parse(path.read_text("utf-8"))
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports, {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def written(function: ast.FunctionDef, others: dict, source: str) -> tuple[str, str]:
    """The line that begins a function, and its body, with those of the other functions that it calls inside of it."""
    lines = source.splitlines()
    called = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)} & (set(others) - {function.name})
    inner = ["\n".join(lines[others[name].lineno - 1 : others[name].end_lineno]) + "\n" for name in sorted(called)]
    body = function.body[1:] if ast.get_docstring(function) else function.body
    first = body[0].lineno - 1
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
    own = textwrap.dedent("\n".join(lines[first : function.end_lineno]))
    return f"def {function.name}({ast.unparse(function.args)}):", textwrap.indent("\n".join([*inner, own]), "    ")


def homework(lesson: Path, tool: str) -> nbformat.NotebookNode:
    """The instructor's notebook of one lesson."""
    number = int(lesson.name[:2])
    path = weights.ROOT / "solutions" / f"{lesson.stem}.py"
    imports, functions = solution(path)
    own = sorted((name for name, one in EXERCISES.items() if one.notebook == number), key=lambda name: EXERCISES[name].stars)
    title = nbformat.read(lesson, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
    stars = sum(EXERCISES[name].stars for name in own)
    head = f"# {title}: exercises\n\n{stars} points, one for a star; after the lesson, `{lesson.name}`. "
    head += "Each test says what is wrong with an answer. Run the cell below first: it needs this project, `pip install -e .` in its folder."
    cells = [new_markdown_cell(head), new_code_cell("\n".join(imports))]
    if tool == "otter":
        cells.insert(0, new_raw_cell("# ASSIGNMENT CONFIG\ninit_cell: true\nexport_cell: false\ncheck_all_cell: false\ngenerate: true"))
    for name in own:
        cells += QUESTION[tool](name, *written(functions[name], functions, path.read_text("utf-8")))
    for i, cell in enumerate(cells):
        cell["id"] = f"cell-{i}"
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}, "language_info": {"name": "python"}}
    return new_notebook(cells=cells, metadata=kernel)


def tests(name: str) -> tuple[str, str]:
    """The test that a student sees, and the hidden one."""
    return f'assert exercises.check("{name}", {name})', f'assert all(exercises.check("{name}", {name}, seed) for seed in {HIDDEN})'


def of_nbgrader(name: str, begins: str, body: str) -> list:
    def marked(kind: str, **own) -> dict:
        plain = {"grade": False, "solution": False, "locked": False, "task": False, "schema_version": 3}
        return {"nbgrader": plain | {"grade_id": f"{name}-{kind}"} | own}

    seen, hidden = tests(name)
    stars = EXERCISES[name].stars
    return [
        new_markdown_cell(exercises.task(name), metadata=marked("task", locked=True, cell_type="markdown")),
        new_code_cell(
            f"{begins}\n    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION", metadata=marked("answer", solution=True, cell_type="code", points=0)
        ),
        new_code_cell(
            f"{seen}\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS",
            metadata=marked("test", grade=True, locked=True, points=stars, cell_type="code"),
        ),
    ]


def of_otter(name: str, begins: str, body: str) -> list:
    seen, hidden = tests(name)
    right = new_output("stream", text=f"{name}: right.\n")  # Otter compares what a test prints
    return [
        new_raw_cell(f"# BEGIN QUESTION\nname: {name}\npoints: {EXERCISES[name].stars}"),
        new_markdown_cell(exercises.task(name)),
        new_raw_cell("# BEGIN SOLUTION"),
        new_code_cell(f"{begins}\n    # BEGIN SOLUTION\n{body}\n    # END SOLUTION"),
        new_raw_cell("# END SOLUTION"),
        new_raw_cell("# BEGIN TESTS"),
        new_code_cell(seen, outputs=[right]),
        new_code_cell(f"# HIDDEN\n{hidden}", outputs=[new_output("stream", text=len(HIDDEN) * right.text)]),
        new_raw_cell("# END TESTS"),
        new_raw_cell("# END QUESTION"),
    ]


QUESTION = {"nbgrader": of_nbgrader, "otter": of_otter}
NEXT = {
    "nbgrader": "With nbgrader: `cd {0} && nbgrader generate_assignment NAME` for NAME of {1}: the students' copies are in release/.",
    "otter": "With otter-grader: `otter assign {0}/NAME.ipynb {0}/NAME` for NAME of {1}: there are the students' copy and the autograder.",
}


def write(tool: str, folder, notebook: str | None = None) -> str:
    """The instructor's notebooks in `folder`; notebook: of this lesson alone. Returns what to do next. UserError for a tool or lesson there isn't."""
    if tool not in TOOLS:
        raise UserError(f"There is no export for {tool!r}: {take(tool, TOOLS)}.")
    lessons = {path.name: path for path in sorted(weights.ROOT.glob("0*.ipynb"))}
    if notebook is not None and notebook not in lessons:
        raise UserError(f"There is no lesson {notebook!r}: {take(notebook, lessons)}.")
    names, folder = [], Path(folder)
    for path in [lessons[notebook]] if notebook else lessons.values():
        target = folder / "source" / path.stem / path.name if tool == "nbgrader" else folder / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(homework(path, tool), target)
        names.append(path.stem)
    return NEXT[tool].format(folder, ", ".join(names))
