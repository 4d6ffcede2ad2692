"""A run: its folder, its identity, its states."""

import json
import os
import shlex
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_cli import run
from test_own_data import write

from helpers import UserError, data, measures, recipes, runs, training, weights
from helpers.runs import Run
from helpers.show import sliders

TRAIN = ("train", "vae", "--profile", "smoke", "--epochs", 1)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own, with data and shipped weights of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("PROFILE", "smoke")  # of a judge, too
    for name in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, name, tmp_path / name)
    return tmp_path


def smoke(dataset, model="vae", **changes):
    changes.setdefault("epochs", 1)
    settings = changes.pop("settings", None)
    return recipes.recipe(model, "smoke", dataset, settings, **changes)


# ---- the folder


def test_the_folder_tells_data_size_and_settings_apart(here):
    for place in ("a/pics", "b/pics", "pics.v1", "pics.v2"):
        write(here / place / "one", 12, ending="png" if place[0] == "a" else "jpg", colour="colour" if place.endswith("2") else "grey")
        write(here / place / "two", 14)

    def folder(name, size=None, **changes):
        dataset = data.load(name, size=size)
        model, config = smoke(dataset, **changes)
        return Run(model, dataset, config, profile="smoke", under="runs").folder

    asked = [("a/pics",), ("b/pics",), ("pics.v1",), ("pics.v2",), ("a/pics", 32)]
    others = [folder("a/pics", settings={"width": 16}), folder("a/pics", epochs=3), folder("a/pics", seed=1), folder("a/pics", minutes=1.0)]
    found = [folder(*one) for one in asked] + others
    assert len(set(found)) == len(found)
    assert [path.name.rsplit("-", 3)[0] for path in found[:4]] == ["vae-pics", "vae-pics", "vae-pics.v1", "vae-pics.v2"]
    assert folder("a/pics") == folder("a/pics/") == folder("./a/pics") == folder(str(here / "a" / "pics"))  # however it is spelt
    assert folder("a/pics") == folder("a/../a/pics")


# ---- its states


def test_a_finished_training_has_its_record_before_anything_is_measured(here, monkeypatch, capsys):
    def broken(task):
        assert "metrics" not in json.loads((here / "run" / "result.json").read_text())
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(measures.MEASURES, "samples", measures.Measure(broken))
    assert run(*TRAIN, "--dataset", "digits", "--folder", here / "run") == 0
    assert "samples: not measured (ZeroDivisionError: division by zero)" in capsys.readouterr().out
    record = runs.finished(here / "run")
    assert record["metrics"]["neg_elbo"] > 0 and record["metrics"]["not_measured"] == {"samples": "ZeroDivisionError: division by zero"}
    assert run("ship", here / "run", "mine") == 1
    said = capsys.readouterr().err
    assert f"is not measured (samples: ZeroDivisionError: division by zero): `python -m helpers evaluate {here / 'run'} --record`" in said
    monkeypatch.undo()
    assert run("evaluate", here / "run", "--record") == 0
    assert "not_measured" not in runs.finished(here / "run")["metrics"] and runs.finished(here / "run")["metrics"]["neg_elbo"] > 0


def test_a_run_stopped_while_it_is_measured_is_measured_by_one_command(here, monkeypatch, capsys):
    def stopped(task):
        raise KeyboardInterrupt

    monkeypatch.setitem(measures.MEASURES, "elbo", measures.Measure(stopped))
    assert run(*TRAIN, "--dataset", "digits", "--folder", here / "run") == 130
    said = capsys.readouterr().err
    command = said.split("`")[1]
    assert command == f"python -m helpers evaluate {here / 'run'} --record" and "metrics" not in runs.finished(here / "run")
    assert run("ship", here / "run", "mine") == 1 and "is not measured (nothing yet)" in capsys.readouterr().err
    for name, value in {"elbo": measures.Measure(lambda task: {"neg_elbo": 1.0}), "samples": measures.Measure(lambda task: {})}.items():
        monkeypatch.setitem(measures.MEASURES, name, value)
    assert run(*command.split()[3:]) == 0 and runs.finished(here / "run")["metrics"]["neg_elbo"] == 1.0
    assert run("ship", here / "run", "mine") == 0 and weights.record("mine")["metrics"]["neg_elbo"] == 1.0


def test_no_record_stands_beside_weights_that_it_is_not_of(here, digits, monkeypatch):
    model, config = smoke(digits)
    one = Run(model, digits, config, folder=here / "run")
    one.train(progress=False)
    one.measured({"neg_elbo": 1.0})
    assert runs.finished(here / "run")["metrics"] == {"neg_elbo": 1.0}
    model, config = smoke(digits, seed=1)
    monkeypatch.setattr(training, "write_json", lambda *_: (_ for _ in ()).throw(UserError("the disk is full")))
    with pytest.raises(UserError, match="disk is full"):
        Run(model, digits, config, folder=here / "run").train(progress=False)
    assert (here / "run" / "model.safetensors").exists()
    with pytest.raises(UserError, match="holds no finished run"):
        runs.finished(here / "run")
    monkeypatch.undo()
    Run(model, digits, config, folder=here / "run").train(progress=False)
    weights.save_model(smoke(digits)[0], here / "run" / "model.safetensors", {})
    with pytest.raises(UserError, match="is of other weights"):
        runs.ship(here / "run", "mine")


# ---- its identity


def test_what_it_started_from_survives_a_kill(here, digits, monkeypatch, capsys):
    assert run(*TRAIN, "--dataset", "digits", "--folder", "first") == 0
    first = runs.finished("first")
    command = (*TRAIN[:-1], 2, "--dataset", "digits", "--folder", "second")
    monkeypatch.setattr(training.reports, "CHECKPOINT_SECONDS", 0.0)

    def killed(reporter):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training.reports.Reporter, "report", killed)
        patch.setattr(training.reports.Reporter, "due", lambda reporter, step: step == 25)
        assert run(*command, "--start", "first/model.safetensors") == 130
    assert "--resume goes on" in capsys.readouterr().err
    assert run(*command, "--resume") == 0
    found = runs.finished("second")
    assert (found["start"], found["start_sha256"], found["seconds_before"]) == ("first/model.safetensors", first["weights_sha256"], first["seconds"])
    assert run(*TRAIN, "--dataset", "digits", "--seed", 1, "--folder", "other") == 0
    assert run(*command, "--resume", "--start", "other/model.safetensors") == 1
    assert "belongs to another run (it starts from other weights)" in capsys.readouterr().err
    assert shlex.split(found["command"])[-1] == "--resume"


def test_a_command_can_be_pasted(here):
    assert run(*TRAIN, "--dataset", "digits", "--folder", "a run", "--set", "schedule=constant", "free_bits=0.0") == 0
    assert shlex.split(runs.finished("a run")["command"]) == ["python", "-m", "helpers", *map(str, TRAIN), "--dataset", "digits", "--folder", "a run",
                                                              "--set", "schedule=constant", "free_bits=0.0"]  # fmt: skip


def test_resume_without_a_checkpoint_says_that_it_starts_anew(here, capsys):
    assert run(*TRAIN, "--dataset", "digits", "--resume", "--folder", "new") == 0
    assert "There is no checkpoint in new: the training starts anew." in capsys.readouterr().out


@pytest.mark.parametrize(("name", "reads"), [("vae", False), ("realnvp-conditional", True)])
def test_labels_matter_to_who_reads_them(name, reads, digits, tmp_path):
    others = replace(digits, train_labels=digits.train_labels.flip(0))
    model, config = smoke(digits, name)
    training.fit(model, digits, config, tmp_path, progress=False)
    if reads:
        with pytest.raises(UserError, match="pictures, labels or classes have changed since"):
            training.fit(smoke(digits, name)[0], others, config, tmp_path, resume=True, progress=False)
    else:
        training.fit(smoke(digits, name)[0], others, config, tmp_path, resume=True, progress=False)


def test_the_precision_is_the_one_that_ran(digits, tmp_path):
    """`auto` is float32 on this processor or bfloat16 on another: who asks for what `auto` was goes on."""
    model, config = smoke(digits)
    ran = training.fit(model, digits, config, tmp_path, progress=False)["precision"]
    training.fit(smoke(digits)[0], digits, replace(config, precision=ran), tmp_path, resume=True, progress=False)


# ---- odd pictures


def test_classes_of_a_few_pictures_keep_their_weights_and_their_record(here, capsys):
    for name in ("cat", "dog"):
        write(here / "pets" / name, 12)
    assert run("train", "cgan", "--dataset", "pets", "--profile", "smoke", "--epochs", 1, "--folder", "run") == 0
    assert runs.finished("run")["metrics"]["split"] == "test" and weights.load_model("run/model.safetensors")
    assert "Traceback" not in capsys.readouterr().err


def test_a_judge_that_cannot_be_kept_serves_all_the_same(here, monkeypatch, capsys):
    for name in ("cat", "dog"):
        write(here / "pets" / name, 60)
    (here / "kept").mkdir()
    (here / "kept" / "judges").write_text("a file where the folder should be")
    assert run("train", "gan", "--dataset", "pets", "--profile", "smoke", "--epochs", 1, "--folder", "run") == 0
    assert "The judge is not kept: " in capsys.readouterr().out and runs.finished("run")["metrics"]["frechet_distance"] > 0


def test_two_processes_measure_pictures_of_ones_own(here):
    for name in ("cat", "dog"):
        write(here / "pets" / name, 60)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "helpers"]
    command = [*launch, "train", "gan", "--dataset", "pets", "--profile", "smoke", "--epochs", "1", "--batch-size", "16", "--folder", "run"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(weights.ROOT)})
    assert done.returncode == 0, done.stderr[-2_000:]
    found = runs.finished("run")
    assert found["processes"] == 2 and found["metrics"]["frechet_distance"] > 0 and "not_measured" not in found["metrics"]


def test_the_order_of_the_test_pictures_decides_nothing(here, digits):
    """Pictures of one's own come sorted by class as often as not; measures look at the first few thousand."""
    images, labels = torch.cat([digits.train_images, digits.validation_images]), torch.cat([digits.train_labels, digits.validation_labels])
    order = digits.test_labels.argsort()
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez("sorted.npz", **dict(zip(names, (images[:, 0], labels, digits.test_images[order, 0], digits.test_labels[order]), strict=True)))
    found = data.load("sorted.npz")
    assert set(found.test_labels[:60].tolist()) == set(range(10)) and found.test_labels[:100].bincount().max() < 25
    assert torch.equal(found.test_labels.sort().values, digits.test_labels.sort().values)
    together = {(image.numpy().tobytes(), label.item()) for image, label in zip(found.test_images, found.test_labels, strict=True)}
    assert together == {(image.numpy().tobytes(), label.item()) for image, label in zip(digits.test_images, digits.test_labels, strict=True)}


# ---- a GAN that grows


def test_the_stage_that_a_gan_has_reached_travels_with_its_weights(here, digits):
    assert run("train", "progan", "--dataset", "digits", "--profile", "smoke", "--epochs", 1, "--folder", "run", "--set", "stage_steps=100000") == 0
    model, _ = weights.load_model("run/model.safetensors")
    assert (model.generator.stage, model.discriminator.stage) == (0, 0) and runs.finished("run")["model_config"]["stage_steps"] == 100_000
    same, config = smoke(digits, "progan", settings={"stage_steps": 100_000})
    training.fit(same, digits, config, progress=False)
    with training.aside():
        expected = same.eval().sample(4)
    with training.aside():
        assert torch.equal(model.sample(4), expected)


def test_the_minutes_leave_what_was_asked_for(digits):
    for asked, expected in (({"stage_steps": 3}, True), ({}, False)):
        model, config = smoke(digits, "progan", settings=asked, minutes=0.02)
        training.fit(model, digits, config, progress=False)
        assert (model.config.stage_steps == 3) is expected


# ---- two threads


def test_a_slider_moved_meanwhile_changes_nothing(digits):
    """JupyterLab handles widgets in a thread beside the one that trains; both draw from the same random numbers."""
    found = []
    for moved in (False, True):
        model, config = recipes.recipe("vae", "smoke", digits, epochs=6)
        explorer, done = sliders.temperature(recipes.recipe("gan", "smoke", digits)[0].eval(), n=2), threading.Event()
        before, first = bytes(explorer.picture.value), explorer.controls["temperature"].value

        def move(explorer=explorer, done=done):
            while not done.is_set():
                for value in (0.5, 1.0):
                    explorer.controls["temperature"].value = value

        hand = threading.Thread(target=move)
        if moved:
            hand.start()
        training.fit(model, digits, config, progress=False)
        done.set()
        if moved:
            hand.join()
        for value in (0.3, first):
            explorer.controls["temperature"].value = value
        found.append((torch.cat([part.flatten() for part in model.state_dict().values()]), before, bytes(explorer.picture.value)))
    assert torch.equal(found[0][0], found[1][0])
    assert len({drawn for _, *both in found for drawn in both}) == 1
