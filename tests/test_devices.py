"""What a device can do, and what is done where it can't: precision, Apple's GPU."""

import contextlib
import re
from dataclasses import replace

import pytest
import torch
from test_training import state

from helpers import measures, recipes, training
from helpers.training import Team, devices, loop


@pytest.mark.parametrize("name", [name for name, recipe in recipes.RECIPES.items() if recipe.kind.halves and not recipe.after])
def test_in_float16_it_learns_as_well(digits, name):
    """By what the validation says in float32, after the same steps."""
    ends = {}
    for precision in ("float32", "float16"):
        model, config = recipes.recipe(name, "smoke", digits, precision=precision, epochs=4)
        record = training.fit(model, digits, config, progress=False)
        assert record["precision"] == precision
        ends[precision] = [row["validation_loss"] for row in record["epochs"]]
    assert ends["float16"] != ends["float32"] and ends["float16"][-1] < ends["float16"][0]
    assert ends["float16"][-1] == pytest.approx(ends["float32"][-1], rel=0.03)


@pytest.mark.parametrize("name", ["vae", "matching"])  # of AdamW and of Muon
def test_a_step_that_overflows_in_float16_is_not_taken(digits, name):
    model, config = recipes.recipe(name, "smoke", digits, precision="float16")
    run = loop.Training(model, digits, config, Team())
    run.start(None)
    before = state(model)
    run.state.scaler.scale(torch.ones(()))
    run.state.scaler.update(2.0**40)  # beyond float16, whatever the loss
    terms = loop.train_step(run, run.images[:32], run.labels[:32])
    assert torch.equal(state(model), before) and torch.stack(list(terms.values())).isfinite().all()
    while torch.equal(state(model), before):
        loop.train_step(run, run.images[:32], run.labels[:32])
    assert run.state.scaler.get_scale() < 2.0**40 and state(model).isfinite().all()


def test_which_precision_a_device_is_given(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))  # Colab's T4
    assert [devices.pick_precision("cuda", halves) for halves in (True, False)] == ["float16", "float32"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert devices.pick_precision("cuda", True) == "bfloat16" and devices.pick_precision("mps", True) == "float32"


@pytest.mark.parametrize("works", [True, False])
def test_apples_gpu_is_taken_where_it_works(monkeypatch, capsys, works):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    if works:
        monkeypatch.setattr(devices, "learns", lambda device, learns=devices.learns: learns("cpu"))
    assert devices.pick_device().type == ("mps" if works else "cpu")
    assert ("the processor is taken" in capsys.readouterr().out) != works


def test_the_time_that_is_said_is_the_time_that_is_taken(digits, capsys):
    """Within a quarter; of three tries the best, for a machine may be busy with something else meanwhile."""
    off = []
    for _ in range(3):
        model, config = recipes.recipe("matching", "smoke", digits, epochs=30)
        record = training.fit(model, digits, config)
        said = int(re.search(r"about (\d+) s on", capsys.readouterr().out).group(1))
        off.append(abs(said / record["seconds"] - 1))
        if off[-1] < 0.25:
            return
    raise AssertionError(off)


def test_a_model_that_the_compiler_breaks_on_is_trained_eagerly(digits, monkeypatch):
    """The weights in the end are those of a training that nobody wanted to compile."""

    def breaks(*_):
        raise torch._dynamo.exc.TorchDynamoException("PassManager::run failed")

    monkeypatch.setattr("helpers.training.devices.compiler_works", lambda device: True)
    ends = []
    for broken in (False, True):
        model, config = recipes.recipe("realnvp", "smoke", digits, train_images=160, epochs=1)
        for region in model.regions() if broken else []:
            region.compile = lambda region=region, **_: setattr(region, "_compiled_call_impl", breaks)
        with pytest.warns(UserWarning, match="torch.compile breaks on this model") if broken else contextlib.nullcontext():
            record = training.fit(model, digits, replace(config, compile=broken), progress=False)
        assert not record["compiled"]
        ends.append(state(model))
    assert torch.equal(*ends)


def test_a_likelihood_that_the_compiler_breaks_on_is_measured_eagerly(digits, monkeypatch):
    def breaks(*_):
        raise torch._dynamo.exc.TorchDynamoException("PassManager::run failed")

    monkeypatch.setattr("helpers.training.devices.compiler_works", lambda device: True)
    model, _ = recipes.recipe("vae", "smoke", digits)
    expected = measures.nll(model, digits.test_images[:4], samples=3)
    for region in model.regions():
        region.compile = lambda region=region, **_: setattr(region, "_compiled_call_impl", breaks)
    with pytest.warns(UserWarning, match="torch.compile breaks on this model"):
        assert measures.nll(model, digits.test_images[:4], samples=3, compile=True) == expected
