"""The report says what the records say."""

import re

import pytest

from helpers import UserError, report, weights


def without_badges(text: str) -> str:
    """A fork has them, and another has not."""
    return re.sub(r"\[!\[Open in Colab\]\([^)]*\)\]\([^)]*\)<br>", "", text)


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_a_committed_page_is_what_the_records_make(page):
    assert without_badges(page.read_text()) == without_badges(report.render(report.PAGES[page])), "run `make report`"


def test_every_section_of_the_lab_book_is_a_record_and_every_link_to_one_leads_there():
    book = (weights.RESULTS / "README.md").read_text()
    sections = re.findall(r"^## (\S+)$", book, re.MULTILINE)
    assert sections and all((weights.RESULTS / f"{name}.json").exists() for name in sections)
    assert set(sections) == {*report.experiments.EXPERIMENTS, *report.experiments.MEASUREMENTS}
    lessons = [*weights.ROOT.glob("0*.ipynb"), *weights.ROOT.glob("lab/*.ipynb"), weights.ROOT / "README.md", weights.ROOT / "REPORT.md"]
    links = {link for path in lessons for link in re.findall(r"results/README\.md#([\w-]+)", path.read_text())}
    assert links and links <= set(sections)


def test_rows_are_compared_seed_by_seed(monkeypatch):
    found = {("a", 0): 5.0, ("a", 1): 7.0, ("b", 0): 4.0, ("b", 1): 6.5, ("c", 0): 4.0, ("c", 1): 8.0}
    rows = [
        {"label": label, "seed": seed, "seconds": 1.0, "parameters": 2, "device": "a laptop", "row": {"dataset": "mnist"}, "metrics": {"nll": nll}}
        for (label, seed), nll in found.items()
    ]
    monkeypatch.setattr(report.experiments, "load", lambda name: {"rows": rows, "command": "do"})
    lines = report.compared("some", "a", "nll", "NLL", 1, {}).splitlines()
    assert lines[3] == "| b | 5.2 ± 1.2 | -0.8 (-1.0 to -0.5) | better | 2 | 1 |" and "| undecided |" in lines[4]
    assert report.worse_with("some", "a", "nll", 1) == 1 and report.worse_with("some", "a", "nll", 0) == 0


def test_a_number_without_a_record_is_an_error(monkeypatch):
    with pytest.raises(UserError, match="kernel of vae-mnist, which has no record"):
        report.w("vae-mnist", "kernel")
    with pytest.raises(UserError, match="nll of 'no flows' in fvae"):
        report.x("fvae", "no flows", "nll")


def test_numbers_are_those_of_the_records(monkeypatch):
    rows = [
        {
            "label": label,
            "seed": seed,
            "seconds": 10.0,
            "parameters": 1_000,
            "device": "a laptop",
            "row": {"dataset": "mnist"},
            "metrics": {"nll": nll},
        }
        for label, seed, nll in (("a", 0, 5.0), ("a", 1, 7.0), ("b", 0, 4.0), ("b", 1, 3.0))
    ]
    monkeypatch.setattr(report.experiments, "load", lambda name: {"rows": rows, "command": "do"})
    assert report.x("some", "a", "nll", 1) == "6.0 ± 1.0"
    assert report.change("some", "a", "b", "nll") == "-2.5 (-4.0 to -1.0)"
    assert report.table("some", {"NLL": "nll"}, 1).splitlines()[2:4] == ["| a | 6.0 ± 1.0 | 1,000 | 10 |", "| b | 3.5 ± 0.5 | 1,000 | 10 |"]


def test_the_text_has_no_number_of_ours_by_hand():
    """Metrics of shipped weights, written out as the report writes them, must not stand in the template."""
    text = "".join(path.read_text() for path in report.PAGES.values())
    for name, entry in weights.shipped().items():
        for key in ("bits_per_dim", "nll", "neg_elbo", "frechet_distance", "mse"):
            if (value := entry["metrics"].get(key)) is not None:
                for digits in (3, 4):
                    assert not re.search(rf"(?<!\d){value:.{digits}f}(?!\d)", text), f"{key} of {name}"


def test_every_picture_is_there_and_shown():
    texts = "".join(page.read_text() for page in report.PAGES)
    shown = set(re.findall(r"(?:\]\(|src=\")(?:\.\./)?imgs/([\w.-]+)", texts))
    assert shown == {path.name for path in (weights.ROOT / "imgs").iterdir()}


def test_the_front_door_is_for_a_minute_and_the_report_for_ten():
    readme, text = (without_badges((weights.ROOT / name).read_text()) for name in ("README.md", "REPORT.md"))
    assert len(readme.split()) <= 1_100 and len(text.split()) <= 2_000
    code = "".join(re.findall(r"```\n(.*?)```", readme, re.DOTALL))
    assert max(map(len, code.splitlines())) <= 90
    assert all(line.count("|") <= 7 for line in text.splitlines() if line.startswith("|"))
