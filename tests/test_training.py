"""The loop and the files it leaves: resuming, failing, saving, loading."""

import builtins
import contextlib
import errno
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from helpers import UserError, data, measures, recipes, training
from helpers.models.flows import RealNVP
from helpers.training import checkpoints, loop, reports


def tensors_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def state(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_training_learns(digits):
    model, config = recipes.recipe("realnvp", "smoke", digits, reports_per_epoch=2)
    record = training.fit(model, digits, config, progress=False)
    first, last = record["epochs"][0], record["epochs"][-1]
    assert [row["epoch"] for row in record["epochs"]] == [0.5, 1.0, 1.5, 2.0]
    assert last["validation_loss"] < first["validation_loss"] - 0.1
    assert abs(last["train_loss"] - last["train_flow"] - last["train_dequantization"]) < 1e-4
    assert record["parameters"] == state(model).numel() and record["device"] and record["seconds"] > 0
    json.dumps(record)


def test_the_same_seed_gives_the_same_weights(digits, smoke):
    results = []
    for seed in (0, 0, 1):
        model, config = recipes.recipe("realnvp", "smoke", digits, train_images=160, epochs=1, seed=seed)
        training.fit(model, digits, config, progress=False)
        results.append(state(model))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_what_happens_between_epochs_leaves_no_trace(digits, smoke):
    model, config = smoke
    training.fit(model, digits, config, progress=False)
    other, _ = recipes.recipe("realnvp", "smoke", digits, train_images=160, epochs=1)
    seen = []

    def look(model, epoch):
        seen.append(epoch)
        model.sample(3)

    training.fit(other, digits, config, progress=False, on_report=look)
    assert seen == [0, 1] and torch.equal(state(model), state(other))


@pytest.mark.parametrize(("model", "epochs"), [("realnvp", 24), ("matching-conditional", 40), ("fvae", 24), ("cgan", 30)])
def test_killed_twenty_times_and_resumed_ends_bit_equal(model, epochs, tmp_path):
    """SIGKILL at random moments, the middle of saving included: a model of each family ends where the uninterrupted run does."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    script = f"""
import os, random, signal, sys, time
from pathlib import Path
import sklearn.datasets, torch._dynamo  # the second is what torch's optimizers import when the first is made
from helpers import __main__ as cli

def start(*options):  # a fork of a process that has imported what takes seconds, and used none of it
    child = os.fork()
    if not child:
        sys.stdout = sys.stderr = open(os.devnull, "w")
        sys.argv = ["helpers", "train", {model!r}, "--dataset", "digits", "--profile", "smoke", "--epochs", "{epochs}", *options]
        os._exit(cli.main())
    return child

assert os.waitpid(start("--folder", {str(whole)!r}), 0)[1] == 0
checkpoint, rng, kills = Path({str(broken)!r}) / "checkpoint.pt", random.Random(0), 0
while kills < 20:
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    child = start("--resume", "--folder", {str(broken)!r})
    while not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before) and not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.002)
    time.sleep(rng.random() * 0.1)
    assert os.waitpid(child, os.WNOHANG)[0] == 0, f"it was through after {{kills}} kills"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills += 1
assert os.waitpid(start("--resume", "--folder", {str(broken)!r}), 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"CHECKPOINT_SECONDS": "0"})
    expected, found = tensors_of(whole), tensors_of(broken)
    assert expected.keys() == found.keys() and all(torch.equal(expected[key], found[key]) for key in expected)
    a, b = (json.loads((folder / "result.json").read_text()) for folder in (whole, broken))
    for name in (name for name in a["epochs"][0] if name.startswith("train_")):
        assert [row[name] for row in a["epochs"]] == [row[name] for row in b["epochs"]]
    assert a["metrics"] == b["metrics"]


def test_two_runs_in_one_folder(digits, smoke, tmp_path):
    """The second is told, whichever process it is of, and the first goes on."""
    model, config = smoke
    script = f"""
from helpers import training
with training.claimed({str(tmp_path)!r}):
    print("mine", flush=True)
    input()
"""
    first = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout.readline() == b"mine\n"
    with pytest.raises(UserError, match="Another run is writing to .*--folder"):
        training.fit(model, digits, config, tmp_path, progress=False)
    first.kill()  # and a killed run leaves no lock behind
    first.communicate()
    training.fit(model, digits, config, tmp_path, progress=False)


def test_a_folder_that_cannot_be_written(digits, smoke, tmp_path):
    (tmp_path / "file").touch()
    model, config = smoke
    with pytest.raises(UserError, match="can't be written.*--folder"):
        training.fit(model, digits, config, tmp_path / "file" / "run", progress=False)


@pytest.mark.parametrize("fault", [torch.OutOfMemoryError("CUDA out of memory"), None])
def test_out_of_memory_says_what_to_lower(digits, smoke, fault):
    class Greedy(RealNVP):
        def loss(self, images, labels=None):
            if fault:
                raise fault
            return {"loss": torch.empty(10**15)}  # what the processor really says

    plain, config = smoke
    with pytest.raises(UserError, match="does not hold a step of 32 images.*lower batch_size"):
        training.fit(Greedy(plain.config), digits, replace(config, batch_size=32), progress=False)


def test_a_checkpoint_of_another_configuration(digits, smoke, tmp_path):
    model, config = smoke
    training.fit(model, digits, config, tmp_path, progress=False)
    for other in (replace(config, learning_rate=1.0), replace(config, epochs=9)):
        with pytest.raises(UserError, match=r"another run \(train_config\.(learning_rate: 0.01|epochs: 1) there"):
            training.fit(model, digits, other, tmp_path, resume=True, progress=False)


def test_a_checkpoint_of_other_data_of_the_same_name(digits, smoke, tmp_path):
    """As many images, one pixel of one of them another: it is told, and the checkpoint is as it was."""
    model, config = smoke
    training.fit(model, digits, config, tmp_path, progress=False)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    changed = digits.train_images.clone()
    changed[5, 0, 0, 0] ^= 1
    for other in (replace(digits, train_images=changed), digits.head(validation=20)):
        with pytest.raises(UserError, match=r"another run \(pictures, labels or classes have changed since\)"):
            training.fit(model, other, config, tmp_path, resume=True, progress=False)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("what", ["precision", "device"])
def test_a_checkpoint_of_another_precision_or_device(digits, smoke, tmp_path, what):
    """`auto` means something else on another machine: numbers rounded in two ways are no uninterrupted run."""
    model, config = smoke
    training.fit(model, digits, config, tmp_path, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    (state["identity"]["train_config"] if what == "precision" else state["identity"])[what] = "another"
    torch.save(state, tmp_path / "checkpoint.pt")
    with pytest.raises(UserError, match=rf"another run \((train_config\.)?{what}: another there"):
        training.fit(model, digits, config, tmp_path, resume=True, progress=False)


def test_what_killed_writes_left_is_swept(digits, smoke, tmp_path):
    model, config = smoke
    left = [tmp_path / f".{name}.x1{checkpoints.PARTIAL}" for name in ("checkpoint.pt", "model.safetensors")]
    for path in left:
        path.touch()
    training.fit(model, digits, config, tmp_path, progress=False)
    assert not any(path.exists() for path in left)
    old, young = (tmp_path / f".record.json.{age}{checkpoints.PARTIAL}" for age in ("old", "young"))
    for path in (old, young):  # where folders are shared, another process may be writing right now
        path.touch()
    os.utime(old, (1, 1))
    training.write_json(tmp_path / "record.json", {})
    assert not old.exists() and young.exists()


# ---- averages and compiled code


def test_the_average_is_what_is_seen_and_kept(digits, smoke):
    """By hand: the mean that moves by d = min(decay, (1 + step) / (10 + step)) from the first weights on; training itself knows nothing of it."""
    model, config = smoke
    config = replace(config, average=0.8, reports_per_epoch=5)  # a report after each step
    plain, _ = recipes.recipe("realnvp", "smoke", digits, train_images=160, epochs=1)
    weights_of, seen = [], []
    training.fit(plain, digits, replace(config, average=0.0), on_report=lambda m, _: weights_of.append(state(m)), progress=False)
    record = training.fit(model, digits, config, on_report=lambda m, _: seen.append(state(m)), progress=False)
    mean = weights_of[0]
    for step, (now, found) in enumerate(zip(weights_of[1:], seen[1:], strict=True)):
        mean = torch.lerp(mean, now, 1 - min(0.8, (1 + step) / (10 + step)))
        torch.testing.assert_close(found, mean)
    assert torch.equal(state(model), seen[-1]) and not torch.equal(state(model), state(plain))
    with training.aside(config.seed, model.eval()):  # and validation is of the average
        expected = reports.validate(model, digits, config)["loss"]
    assert record["epochs"][-1]["validation_loss"] == pytest.approx(expected)
    for decay in (-0.1, 1.0):
        with pytest.raises(UserError, match="running average of decay"):
            training.fit(model, digits, replace(config, average=decay), progress=False)


def test_a_model_does_not_stay_compiled(digits, smoke):
    """Compiled code is of one batch size: a sample of another would wait for the compiler. Neither training nor measuring leaves any behind."""
    model, config = smoke
    called = []
    for region in model.regions():
        region.compile = lambda region=region, **_: setattr(region, "_compiled_call_impl", lambda *x: (called.append(1), region._call_impl(*x))[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.training.devices.compiler_works", lambda device: True)
        assert training.fit(model, digits, replace(config, compile=True), progress=False)["compiled"] and called
        assert all(region._compiled_call_impl is None for region in model.regions())
        called.clear()
        measures.nll(model.eval(), digits.test_images[:4], 2, compile=True)
        assert called and all(region._compiled_call_impl is None for region in model.regions())
    called.clear()
    model.sample(3)
    model.log_prob(digits.test_images[:2])
    assert not called


def test_a_checkpoint_that_only_one_process_sees(digits, smoke, tmp_path, monkeypatch):
    model, config = smoke
    training.fit(model, digits, config, tmp_path, progress=False)
    monkeypatch.setattr(training.Team, "average", lambda team, tensor: tensor / 2)  # the other one stands at step 0
    with pytest.raises(UserError, match="Not every process sees the same checkpoint.*all hosts share"):
        training.fit(model, digits, config, tmp_path, resume=True, progress=False)


def test_random_states_of_more_gpus_than_there_are(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: set_to.append(device))
    checkpoints.set_rng_state({"cpu": torch.get_rng_state(), "cuda": [torch.get_rng_state()] * 2})
    assert set_to == [0]


def test_a_truncated_checkpoint(digits, smoke, tmp_path):
    model, config = smoke
    training.fit(model, digits, config, tmp_path, progress=False)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="not a whole checkpoint.*delete it"):
        training.fit(model, digits, config, tmp_path, resume=True, progress=False)


class Breaking(RealNVP):
    """Turns one term of the loss into NaN at a given step."""

    calls, breaks_at = 0, 0

    def loss(self, images, labels=None):
        terms = super().loss(images, labels)
        if self.training and torch.is_grad_enabled():
            self.calls += 1
            if self.calls == self.breaks_at:
                terms["flow"] = terms["flow"] * float("nan")
                terms["loss"] = terms["loss"] * float("nan")
        return terms


@pytest.mark.parametrize(("step", "kept"), [(3, "no checkpoint yet"), (7, "the last good checkpoint is .*checkpoint.pt")])
def test_a_loss_that_is_not_finite_stops_the_run(digits, smoke, tmp_path, monkeypatch, step, kept):
    monkeypatch.setattr(reports, "CHECKPOINT_SECONDS", 0)
    plain, config = smoke
    model = Breaking(plain.config)
    model.breaks_at = step
    with pytest.raises(training.NonFiniteLoss, match=rf"At step {step} the loss stopped being finite \(loss, flow, gradient_norm\); .*{kept}"):
        training.fit(model, digits, replace(config, epochs=3), tmp_path, progress=False)
    if (tmp_path / "checkpoint.pt").exists():
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert saved["step"] == 5 and all(v.isfinite().all() for v in saved["model"].values())


def test_a_full_disk_harms_nothing(tmp_path, monkeypatch):
    path = tmp_path / "file"
    training.write_atomically(path, lambda file: file.write(b"old"))

    def fill(file):
        file.write(b"ne")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"file could not be written \(No space left on device\).*unharmed"):
        training.write_atomically(path, fill)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_ctrl_c_while_saving_leaves_nothing_behind(tmp_path):
    def interrupt(file):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.write_atomically(tmp_path / "file", interrupt)
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_torch_save_on_a_really_full_disk(tmp_path, monkeypatch):
    """torch.save reports a full disk in its own way."""
    real = os.fdopen
    monkeypatch.setattr(checkpoints.os, "fdopen", lambda handle, mode: (os.close(handle), builtins.open("/dev/full", "wb"))[1])
    with pytest.raises(UserError, match="could not be written"):
        training.write_atomically(tmp_path / "checkpoint.pt", lambda file: torch.save({"x": torch.zeros(100_000)}, file))
    monkeypatch.setattr(checkpoints.os, "fdopen", real)
    assert os.listdir(tmp_path) == []


# ---- names


def test_unknown_names():
    with pytest.raises(UserError, match="no model 'realnvq'.*realnvp"):
        recipes.recipe("realnvq", "quick", None)
    with pytest.raises(UserError, match="no profile 'fast'.*smoke, quick, full"):
        recipes.recipe("realnvp", "fast", None)


def test_the_profile_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("PROFILE", "smoke")
    assert recipes.pick_profile() == "smoke" and recipes.pick_profile("full") == "full"


def test_without_a_compiler_it_warns_once_and_runs(digits, smoke, monkeypatch):
    model, config = smoke

    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match="torch.compile does not work here") as caught:
        record = training.fit(model, digits, replace(config, compile=True), progress=False)
    assert len(caught) == 1 and not record["compiled"]


@pytest.mark.parametrize("model", ["realnvp", "matching", "progan"])
def test_measuring_its_pace_leaves_no_trace(digits, model):
    results = []
    for progress in (True, False):
        one, config = recipes.recipe(model, "smoke", digits, train_images=96, epochs=2)
        training.fit(one, digits, config, progress=progress)
        results.append(state(one))
    assert torch.equal(*results)


@pytest.mark.parametrize("model", ["realnvp", "progan"])
def test_so_many_minutes_are_so_many_steps_of_its_pace(digits, model, monkeypatch, tmp_path):
    monkeypatch.setattr(loop.Training, "pace", lambda run: 0.5)
    monkeypatch.setattr(reports.Reporter, "seconds_of_a_report", lambda reporter: 1.5)
    one, config = recipes.recipe(model, "smoke", digits, train_images=96, minutes=0.25)
    record = training.fit(one, digits, config, tmp_path, progress=False)
    assert record["epochs"][-1]["step"] == 15  # of half a second, and half a second of each three for a report
    assert record["train_config"]["minutes"] == 0.25 and record["epochs"][-1]["epoch"] == 5
    if model == "progan":  # what it schedules itself fits
        assert record["model_config"]["stage_steps"] == one.config.stage_steps == 15 // (len(one.resolutions) + 1)


def test_what_was_planned_stands_when_a_run_goes_on(digits, monkeypatch, tmp_path):
    monkeypatch.setattr(reports, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(reports.Reporter, "seconds_of_a_report", lambda reporter: 0.0)
    results = []
    for stop, folder in ((False, tmp_path / "whole"), (True, tmp_path / "stopped")):
        monkeypatch.setattr(loop.Training, "pace", lambda run: 0.5)

        def look(model, epoch, stop=stop):
            if stop and epoch == 3:
                raise KeyboardInterrupt

        one, config = recipes.recipe("realnvp", "smoke", digits, train_images=96, minutes=0.25)
        with contextlib.suppress(KeyboardInterrupt):
            training.fit(one, digits, config, folder, progress=False, on_report=look)
        if stop:
            monkeypatch.setattr(loop.Training, "pace", lambda run: 50.0)  # another machine
            one, config = recipes.recipe("realnvp", "smoke", digits, train_images=96, minutes=0.25)
            training.fit(one, digits, config, folder, resume=True, progress=False)
        results.append(state(one))
    assert torch.equal(*results)


def test_it_ends_about_when_it_was_asked_to(digits):
    one, config = recipes.recipe("vae", "smoke", digits, minutes=0.05)
    training.fit(one, digits, config, progress=False)  # the first run warms up
    record = training.fit(one, digits, config, progress=False)
    assert 1.5 < record["seconds"] < 6
    for asked, said in (({"minutes": -1}, "-1 minutes"), ({"learning_rate": -1.0}, "learning rate of -1")):
        with pytest.raises(UserError, match=said):
            training.fit(one, digits, replace(config, **asked), progress=False)


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 minutes"), (12_600, "3.5 hours")])
def test_durations(seconds, text):
    assert reports.duration(seconds) == text


def test_schedule():
    values = [training.schedule(step, 10, 100) for step in range(101)]
    assert values[0] == pytest.approx(0.1, abs=0.01) and max(values) < 1 and values[-1] == pytest.approx(0)
    assert values.index(max(values)) in (9, 10) and sorted(values[10:], reverse=True) == values[10:]


def test_a_dataset_smaller_than_a_batch(digits, smoke):
    model, config = smoke
    record = training.fit(model, digits.head(train=7, validation=3), config, progress=False)
    assert record["train_images"] == 7 and record["epochs"][0]["step"] == 1


def test_data_dir_is_the_one_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "Bücher und Daten"))
    assert data.data_dir() == tmp_path / "Bücher und Daten" and data.data_dir("x").name == "x"
