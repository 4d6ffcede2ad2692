"""The command line's contract."""

import contextlib
import errno
import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import __main__ as cli
from helpers import data, measures, recipes, runs, training, weights
from helpers.training import checkpoints


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    assert run("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--folder", folder) == 0
    return folder


def run(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["helpers", *map(str, args)])
        return cli.main()


def test_train_leaves_weights_and_record(trained):
    assert {"model.safetensors", "result.json", "checkpoint.pt", "samples.png"} <= {p.name for p in trained.iterdir()}
    record = json.loads((trained / "result.json").read_text())
    assert record["model"] == "realnvp" and record["profile"] == "smoke" and record["metrics"]["split"] == "test"


def test_evaluate_prints_one_object_and_agrees_with_the_record(trained, capsys):
    assert run("evaluate", trained / "model.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name", "dataset", "split", "n", "parameters", "seconds", "device", "bits_per_dim"} <= set(found)
    assert (found["dataset"], found["split"], found["n"]) == ("digits", "test", 297)
    record = json.loads((trained / "result.json").read_text())
    assert found["bits_per_dim"] == pytest.approx(record["metrics"]["bits_per_dim"], abs=1e-5)


def test_evaluate_can_keep_what_it_measured(trained, tmp_path, monkeypatch, capsys):
    for folder in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, folder, tmp_path / folder)
    assert run("evaluate", trained / "model.safetensors", "--record") == 1
    assert "name of shipped weights" in capsys.readouterr().err
    runs.ship(trained, "mine")
    before = (weights.shipped()["mine"], json.loads((tmp_path / "RESULTS" / "mine.json").read_text()))
    assert run("evaluate", "mine", "--samples", 2, "--record") == 0
    after = (weights.shipped()["mine"], json.loads((tmp_path / "RESULTS" / "mine.json").read_text()))
    for old, new in zip(before, after, strict=True):
        assert new["metrics"]["importance_samples"] == 2 and new["metrics"]["bits_per_dim"] < old["metrics"]["bits_per_dim"]
        assert old | {"metrics": new["metrics"]} == new
    assert run("evaluate", "mine") == 0 and weights.shipped()["mine"] == after[0]  # only when asked to


def test_what_is_no_weight_can_be_set_when_shipped(tmp_path, monkeypatch, capsys):
    for folder in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, folder, tmp_path / folder)
    assert run("train", "matching-conditional", "--dataset", "digits", "--profile", "smoke", "--epochs", 1, "--folder", tmp_path / "run") == 0
    assert run("ship", tmp_path / "run", "mine", "--set", "guidance=1.5", "steps=2") == 0
    model, _ = weights.load_model("mine")
    assert (model.config.guidance, model.config.steps, model.passes) == (1.5, 2, 6)
    assert weights.record("mine")["model_config"]["guidance"] == 1.5
    assert run("ship", tmp_path / "run", "mine", "--set", "kindness=1") == 1 and "has no setting 'kindness'" in capsys.readouterr().err


def test_a_read_only_disk(trained, tmp_path, monkeypatch, capsys):
    """What only reads goes on; what would write says so and leaves every file as it was."""
    for folder in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, folder, tmp_path / folder)
    runs.ship(trained, "mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*args, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoints.tempfile, "mkstemp", refuse)
    commands = ("ship", trained, "again"), ("evaluate", "mine", "--record"), ("sample", "mine", "--count", 1, "--out", tmp_path / "a.png")
    for command in commands:
        assert run(*command) == 1
        assert re.search(r"^error: .* could not be written \(Read-only file system\): [^\n]*$", capsys.readouterr().err, re.MULTILINE)
    assert run("evaluate", "mine") == 0 and {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_evaluate_all_measures_again_and_fails_on_what_differs(trained, tmp_path, monkeypatch, capsys):
    for name in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, name, tmp_path / name)
    runs.ship(trained, "mine")
    assert (tmp_path / "WEIGHTS" / "mine.safetensors").stat().st_size < 0.7 * (trained / "model.safetensors").stat().st_size  # halved
    assert run("evaluate", "all") == 0 and "mine" in (said := capsys.readouterr().out) and "as recorded" in said
    recorded = weights.record("mine")["metrics"]["bits_per_dim"]
    weights.keep_metrics("mine", {"bits_per_dim": recorded + 0.01, "nll": 1.0})
    assert run("evaluate", "all") == 1
    said = capsys.readouterr().out
    assert "DIFFERS: bits_per_dim" in said and "not measured again: nll" in said
    assert run("evaluate", "all", "--record") == 0  # the new numbers are the record now
    assert (
        weights.record("mine")["metrics"]["bits_per_dim"] == weights.shipped()["mine"]["metrics"]["bits_per_dim"] == pytest.approx(recorded, abs=2e-3)
    )
    assert weights.record("mine")["metrics"]["samples_per_second"] > 0 and run("evaluate", "all") == 0


def test_evaluate_all_measures_a_long_likelihood_on_some_images(tmp_path, monkeypatch, capsys):
    for name in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, name, tmp_path / name)
    for module in (measures, measures.latents):
        monkeypatch.setattr(module, "LONG", 3)
    monkeypatch.setattr(measures.likelihood, "compiled", lambda model, wanted: contextlib.nullcontext())
    assert run("train", "vae", "--dataset", "digits", "--profile", "smoke", "--epochs", 1, "--folder", tmp_path / "run") == 0
    runs.ship(tmp_path / "run", "mine")
    assert run("evaluate", "mine", "--samples", 3, "--record") == 0 and run("evaluate", "all") == 0
    said = capsys.readouterr().out
    assert re.search(r"as recorded; not measured again: nll, standard_error, importance_samples \(3 importance samples an image\)", said)
    weights.keep_metrics("mine", {"nll_of_first_100": weights.record("mine")["metrics"]["nll_of_first_100"] + 1})
    assert run("evaluate", "all") == 1 and "DIFFERS: nll_of_first_100" in capsys.readouterr().out


def test_sample_draws_a_picture(trained, tmp_path):
    out = tmp_path / "new" / "samples.png"
    assert run("sample", trained / "model.safetensors", "--count", 5, "--temperature", 0.7, "--out", out) == 0
    first = out.read_bytes()
    assert Image.open(out).size == (3 * 18 + 2, 2 * 18 + 2)
    run("sample", trained / "model.safetensors", "--count", 5, "--temperature", 0.7, "--out", out)
    assert out.read_bytes() == first  # seeded


def test_list(capsys):
    assert run("list", "--json") == 0
    names = json.loads(capsys.readouterr().out)
    assert names["models"] == list(recipes.RECIPES) and set(names["weights"]) == set(weights.shipped())
    assert run("list") == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and all(f"\n{name} " in said for name in weights.shipped())
    entry = weights.shipped()["matching-fashion"]["metrics"]
    assert f"Fréchet {entry['frechet_distance']:.2f}, as asked {entry['control_accuracy']:.1%}" in said
    assert run("list", "matching-fashion") == 0
    assert re.search(f"^recall +{entry['recall']:.2f}$", capsys.readouterr().out, re.M)
    assert run("list", "matching-fashion", "--json") == 0
    assert json.loads(capsys.readouterr().out)["metrics"] == entry
    assert run("list", "matching-fashions") == 1
    assert "did you mean matching-fashion? `python -m helpers list` names them" in capsys.readouterr().err
    assert run("experiment", "list") == 0 and max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_a_command_that_there_is_not(capsys):
    assert run("trian") == 1 and "There is no command 'trian': did you mean train? Take one of list," in capsys.readouterr().err


def test_an_earlier_checkpoint_is_not_lost(trained, capsys):
    before = (trained / "checkpoint.pt").read_bytes()
    assert run("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--folder", trained) == 0
    assert (trained / "checkpoint.old.pt").read_bytes() == before
    assert "--resume, or RESUME in a notebook, would go on" in capsys.readouterr().out


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(model, dataset, config, folder, resume, **how):
        (folder / "checkpoint.pt").write_bytes(b"")  # the folder is there: it has been claimed
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", interrupted)
    assert run("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--folder", tmp_path / "run") == 130
    assert "checkpoint.pt is kept; the same command with --resume goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("train", "realnvq", "--dataset", "digits"), "no model 'realnvq'"),
        (("train", "realnvp", "--dataset", "mnits"), "no data set 'mnits'"),
        (("train", "realnvp", "--dataset", "digits", "--profile", "fast"), "no profile 'fast'"),
        (("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--epochs", "0"), "0 epochs"),
        (("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--images", "1"), "1 train images were asked for: ask for at least 2"),
        (
            ("train", "gan", "--dataset", "digits", "--profile", "smoke", "--batch-size", "1", "--folder", "TMP"),
            "A batch of 1 image was given to batch norm",
        ),
        (("train", "realnvq", "--dataset", "digits"), "did you mean realnvp? Take one of realnvp, "),
        (("train", "gan", "--dataset", "minst"), "did you mean mnist?"),
        (("train", "gan", "--dataset", "digits", "--set", "objektive=hinge"), "did you mean objective?"),
        (("evaluate", "realnvp-mnits"), "did you mean realnvp-mnist?"),
        (("experiment", "colapse"), "did you mean collapse?"),
        (("run", "01_realnvp.ipyn"), "did you mean 01_realnvp.ipynb?"),
        (("evaluate", "classifier-mnist", "--inception"), "a model that draws, and the package torch-fidelity"),
        (("ship", "nowhere", "name"), "nowhere holds no finished run"),
        (("evaluate", "nothing"), "no weights 'nothing'"),
        (("sample", "WEIGHTS", "--count", "0", "--out", "a.png"), "at least 1"),
        (("sample", "WEIGHTS", "--temperature", "-1", "--out", "a.png"), "-1.0"),
        (("sample", "WEIGHTS", "--temperature", "nan", "--out", "a.png"), "nan"),
        (("sample", "WEIGHTS", "--out", "a.txt"), ".png"),
        (("sample", "WEIGHTS", "--seed", "-1", "--out", "a.png"), "seed -1"),
        (("train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--seed", "1" + "0" * 20), "from 0 to"),
        (("evaluate", "WEIGHTS", "--samples", "0"), "at least 1"),
        (("sample", "WEIGHTS", "--out", "/dev/null/a.png"), "could not be written"),
    ],
)
def test_mistakes_get_one_sentence(trained, args, says, capsys, tmp_path):
    assert run(*[{"WEIGHTS": trained / "model.safetensors", "TMP": tmp_path}.get(a, a) for a in args]) == 1
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.startswith("error: ") and captured.err.count("\n") == 1


def test_notebooks_are_looked_for_where_one_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("run") == 1 and f"There are no notebooks in {tmp_path}" in capsys.readouterr().err


def test_pictures_that_have_moved_can_be_named(tmp_path, monkeypatch, capsys):
    from test_own_data import write

    monkeypatch.setenv("DATA_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("PROFILE", "smoke")  # of the judge
    write(tmp_path / "pets", 40)
    command = ("train", "vae", "--dataset", tmp_path / "pets", "--profile", "smoke", "--epochs", 1, "--folder", tmp_path / "run")
    assert run(*command) == 0 and "1 class (pets 40): 33 training, 3 validation, 4 test pictures" in capsys.readouterr().out
    (tmp_path / "pets").rename(tmp_path / "animals")
    assert run("evaluate", tmp_path / "run") == 1 and "if these pictures have moved, say where to with --dataset" in capsys.readouterr().err
    assert run("evaluate", tmp_path / "run", "--dataset", tmp_path / "animals") == 0


# ---- labels and experiments


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    assert run("train", "realnvp-conditional", "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--folder", folder) == 0
    return folder / "model.safetensors"


def test_a_chosen_class(told, tmp_path):
    out = tmp_path / "three.png"
    for label in ("3", "4"):
        assert run("sample", told, "--count", 4, "--label", label, "--out", out) == 0
    four = out.read_bytes()
    run("sample", told, "--count", 4, "--label", "3", "--out", out)
    assert out.read_bytes() != four
    assert run("sample", told, "--count", 4, "--out", out) == 0  # every class in turn


def test_a_label_for_each_sample(told, tmp_path, capsys):
    assert run("sample", told, "--count", "-5", "--out", tmp_path / "x.png") == 1 and "-5 samples were asked for" in capsys.readouterr().err
    out = tmp_path / "three.png"
    assert run("sample", told, "--labels", "7, 7,1", "--out", out) == 0
    assert "3 samples" in capsys.readouterr().out and Image.open(out).size == (2 * 18 + 2, 2 * 18 + 2)
    assert run("sample", told, "--labels", "7,1", "--count", "5", "--out", out) == 1
    assert "2 labels were given for 5 samples" in capsys.readouterr().err
    assert run("sample", told, "--labels", "7,ten", "--out", out) == 1
    assert "no class 'ten'" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["gan", "cgan", "progan"])
def test_gans_are_trained_measured_and_drawn(model, tmp_path, capsys):
    assert run("train", model, "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--folder", tmp_path) == 0
    assert run("sample", tmp_path / "model.safetensors", "--count", "4", "--out", tmp_path / "four.png") == 0
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["model"] == model and "train_discriminator_loss" in record["epochs"][0]
    watched = "loss" if model == "cgan" else "objective"  # a critic's loss holds its penalty, which nobody watches
    assert f"lowest_discriminator_{watched}" in record["epochs"][0]
    capsys.readouterr()
    assert run("evaluate", tmp_path / "model.safetensors", "--json") == 0
    assert json.loads(capsys.readouterr().out)["n"] == 297


def test_a_setting_of_the_model(tmp_path, capsys):
    asked = ("objective=hinge", "betas=(0.5, 0.9)", "mislabelled=0.1", "spectral_norm=True")
    command = ("train", "cgan", "--dataset", "digits", "--profile", "smoke", "--epochs", "1")
    assert run(*command, "--folder", tmp_path, "--set", *asked[:2], "--set", *asked[2:]) == 0
    config = json.loads((tmp_path / "result.json").read_text())["model_config"]
    assert (config["objective"], config["betas"], config["mislabelled"], config["spectral_norm"]) == ("hinge", [0.5, 0.9], 0.1, True)
    assert config["width"] == 8  # the profile's
    for setting, says in {
        "depth=3": "no setting 'depth': did you mean width? Take one of latent, objective",
        "classes=3": "no setting 'classes'",  # the data says how many
        "width=wide": "width=wide was given: take a value like 32",
        "width=8.5": "width=8.5 was given",
        "width": "width= was given",
        "objective=hedge": "no objective 'hedge'",
        "width=-4": "width = -4 was given: take a number from 1 up",
        "betas=(0.5,)": "betas = (0.5,) was given: take 2 numbers.",
        "discriminator_rate=-1": "discriminator_rate = -1.0 was given: take a number from 0 up",
    }.items():
        assert run(*command, "--folder", tmp_path / "bad", "--set", setting) == 1
        assert says in capsys.readouterr().err and not (tmp_path / "bad").exists()


def test_training_starts_from_trained_weights(trained, told, tmp_path, capsys):
    plain, _ = weights.load_model(trained / "model.safetensors")
    model, _ = recipes.recipe("realnvp-conditional", "smoke", data.load("digits"))
    weights.start_from(model, trained / "model.safetensors")
    model.eval()
    images, labels = data.load("digits").test_images[:4], torch.tensor([0, 3, 5, 9])
    latents = model.encode(images, labels)
    assert torch.equal(latents, model.encode(images, (labels + 1) % 10))  # at first it ignores the label ...
    torch.testing.assert_close(latents, plain.encode(images), rtol=0, atol=1e-5)  # ... and is what it started from
    model.initialize(data.load("digits").train_images[:100], data.load("digits").train_labels[:100])  # as training does first
    torch.testing.assert_close(latents, model.encode(images, labels), rtol=0, atol=1e-5)
    command = ("train", "realnvp-conditional", "--dataset", "digits", "--profile", "smoke", "--epochs", "1", "--images", "32")
    assert run(*command, "--start", told, "--folder", tmp_path / "second") == 0
    record = json.loads((tmp_path / "second" / "result.json").read_text())
    assert record["seconds_before"] == weights.load_model(told)[1]["seconds"] > 0
    start = weights.start_from(model, tmp_path / "second" / "model.safetensors")
    assert start["seconds_before"] == record["seconds"] + record["seconds_before"] and start["start_sha256"] == record["weights_sha256"]
    assert run("train", "classifier", "--dataset", "digits", "--profile", "smoke", "--start", told, "--folder", tmp_path) == 1
    assert "Not one tensor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("experiment", "stairs"), "no experiment 'stairs'.*pieces.*temperature"),
        (("experiment", "pieces", "--only", "wings"), "no row 'wings' in pieces.*as it is; .*uniform noise"),
        (("train", "classifier", "--dataset", "nothing"), "no data set 'nothing'"),
    ],
)
def test_unknown_experiments(args, says, capsys):
    assert run(*args) == 1
    assert re.search(says, capsys.readouterr().err)


def test_bad_labels(trained, told, tmp_path, capsys):
    out = tmp_path / "x.png"
    for trained_on, label, says in ((told, "37", "no class '37'.*0, 1, 2"), (trained / "model.safetensors", "3", "'3' was given.*knows no labels")):
        assert run("sample", trained_on, "--label", label, "--out", out) == 1
        assert re.search(says, capsys.readouterr().err)
    assert not out.exists()


def own(folder, side, channels=(), classes=3):
    """An .npz of somebody's own: squares of one brightness a class, on noise."""
    arrays, generator = {}, np.random.default_rng(0)
    for part, n in (("train", 80), ("test", 20)):
        labels = np.arange(n) % max(1, classes)
        images = generator.integers(0, 60, (n, side, side, *channels), dtype=np.uint8)
        images[:, 4:-4, 4:-4] += (40 + 60 * labels).astype(np.uint8).reshape(n, *[1] * (images.ndim - 1))
        arrays |= {f"{part}_images": images} | ({f"{part}_labels": labels} if classes else {})
    np.savez(folder / "mine.npz", **arrays)
    return folder / "mine.npz"


@pytest.mark.parametrize("model", recipes.RECIPES)
@pytest.mark.parametrize("kind", ["colour 24x24", "grey 32x32 without labels"])
def test_own_images_train_every_family_or_hear_why_not(model, kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PROFILE", "smoke")  # of the judge, too
    path = own(tmp_path, 24, (3,)) if kind.startswith("colour") else own(tmp_path, 32, classes=0)
    how, start = ("--dataset", path, "--profile", "smoke", "--epochs", 1, "--images", 64, "--folder"), []
    if first := recipes.RECIPES[model].after:
        assert run("train", model, *how, tmp_path / "run") == 1
        assert f"A {model} starts from a trained {first}" in capsys.readouterr().err
        assert run("train", first, *how, tmp_path / "first") == 0
        start = ["--start", tmp_path / "first" / "model.safetensors"]
    code = run("train", model, *how, tmp_path / "run", *start)
    if recipes.RECIPES[model].labelled and "without labels" in kind:
        assert code == 1 and f"A {model} needs labels of at least two classes" in capsys.readouterr().err
    else:
        assert code == 0 and run("evaluate", tmp_path / "run" / "model.safetensors", "--json") == 0
