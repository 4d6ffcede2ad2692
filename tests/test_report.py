"""The report says what the records say."""

import re

import pytest

from helpers import UserError, report, weights


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_a_committed_page_is_what_the_records_make(page):
    assert page.read_text() == report.render(report.PAGES[page]), "run `make report`"


def test_every_section_of_the_lab_book_is_a_record_and_every_link_to_one_leads_there():
    book = (weights.RESULTS / "README.md").read_text()
    sections = re.findall(r"^## (\S+)$", book, re.MULTILINE)
    assert sections and all((weights.RESULTS / f"{name}.json").exists() for name in sections)
    assert set(sections) == {*report.experiments.EXPERIMENTS, *report.experiments.MEASUREMENTS}
    lessons = [*weights.ROOT.glob("0*.ipynb"), *weights.ROOT.glob("lab/*.ipynb"), weights.ROOT / "README.md"]
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
    texts = (weights.ROOT / "REPORT.md").read_text() + (weights.ROOT / "README.md").read_text()
    shown = set(re.findall(r"\]\(imgs/([^)]+)\)", texts))
    assert shown == {path.name for path in (weights.ROOT / "imgs").iterdir()}


def test_the_numbers_of_the_readme_are_those_of_the_records():
    text = (weights.ROOT / "README.md").read_text()
    w, minutes, samples = report.w, report.minutes, report.w("vae-mnist", "importance_samples")
    floors = report.ratio("cgan-mnist", "frechet_distance", "cgan-mnist", "frechet_floor", 0)
    quick = weights.record("realnvp-mnist-quick")["metrics"]["bits_per_dim"]
    for said in (
        f"{quick:.3f} bits/dim on MNIST in these minutes",
        f"shipped RealNVP {w('realnvp-mnist', 'bits_per_dim', 3)} after {minutes('realnvp-mnist')}",
        f"on Fashion-MNIST {w('realnvp-fashion', 'bits_per_dim', 3)} after {minutes('realnvp-fashion').split()[0]}",
        f"on CIFAR-10 {w('realnvp-cifar10', 'bits_per_dim', 2)} after {minutes('realnvp-cifar10').split()[0]} on one thread",
        f"{report.percent('matching-fashion', 'control_accuracy', 0)} of clothes are read as the class asked for",
        f"Fréchet distance {w('matching-fashion', 'frechet_distance')}, after {minutes('matching-fashion')}",
        f"{report.percent('matching-cifar10', 'control_accuracy', 0)} of CIFAR-10's images, {w('matching-cifar10', 'frechet_distance')}",
        f"{w('vae-mnist', 'nll', 1)} nats on binarised MNIST ({samples} importance samples) after {minutes('vae-mnist')}",
        f"a bound of {w('fvae-mnist', 'neg_elbo', 1)} nats",
        f"{w('ladder-mnist', 'nll', 1)} nats on the same digits ({w('ladder-mnist', 'importance_samples')} importance samples)",
        f"importance samples) after {minutes('ladder-mnist')} of a processor",
        f"without flows has {w('vae-mnist', 'neg_elbo', 1)}",
        f"Fréchet distance {w('vqvae-mnist', 'frechet_distance')} on digits and {w('vqvae-fashion', 'frechet_distance')} on clothes",
        f"a conditional GAN has {w('cgan-cifar10', 'frechet_distance')}, {report.percent('cgan-cifar10', 'legibility', 0)} legible",
        f"colours after {minutes('progan-cifar10')} on one thread",
        f"explains {100 * weights.shipped()['betavae-mnist']['metrics']['explained_slant']:.0f} % of a digit's slant",
        f"{report.percent('cgan-mnist', 'control_accuracy')} of digits are read as the class asked for",
        f"Fréchet distance of its samples {w('cgan-mnist', 'frechet_distance')}",
        f"{floors} times that of real digits, after {minutes('cgan-mnist')}",
    ):
        assert said in text, said
