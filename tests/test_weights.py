"""Weights: files that come back, and are refused when they are not what they say."""

import hashlib
import json
import re
import shlex
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from helpers import UserError, training, weights


@pytest.fixture
def saved(smoke, tmp_path):
    model, _ = smoke
    path = tmp_path / "mine.safetensors"
    weights.save_model(model, path, {"dataset": "digits"})
    return model, path


def same(model, other):
    return all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


def test_weights_come_back(saved):
    model, path = saved
    back, info = weights.load_model(path)
    assert same(model, back) and back.config == model.config and info == {"dataset": "digits"}
    torch.manual_seed(0)
    first = model.sample(2)
    torch.manual_seed(0)
    torch.testing.assert_close(back.sample(2), first)


def test_weights_that_are_damaged_or_unknown(saved):
    _, path = saved
    whole = path.read_bytes()
    for broken in (whole[:200], b"PK\x03\x04 a pickle", b""):
        path.write_bytes(broken)
        with pytest.raises(UserError, match="damaged or not a model of this project"):
            weights.load_model(path)
    with pytest.raises(UserError, match="no weights 'realnvp-mnits'.*realnvp-mnist"):
        weights.load_model("realnvp-mnits")


def test_weights_of_a_training_that_broke_are_said_to_be_so(saved):
    model, path = saved
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    weights.save_model(model, path, {"dataset": "digits"})
    with pytest.raises(UserError, match="not finite"):
        weights.load_model(path)


def test_shipped_weights_are_checked(saved, tmp_path, monkeypatch):
    _, path = saved
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    training.write_json(tmp_path / "index.json", {"mine": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}})
    weights.load_model("mine")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for name in ("mine", path):
        with pytest.raises(UserError, match="sha256 .* not the recorded"):
            weights.load_model(name)


def test_what_was_checked_is_what_is_used(saved, monkeypatch):
    """The file is read once: whoever changes it afterwards changes nothing."""
    model, path = saved
    content = path.read_bytes()
    path.write_bytes(b"something else")
    monkeypatch.setattr(type(path), "read_bytes", lambda self: content)
    assert same(weights.load_model(path)[0], model)


def test_many_write_to_the_index_at_once(tmp_path):
    """Each reads, changes and writes it: nobody's entry gets lost."""
    script = f"""
import sys
from pathlib import Path
from helpers import weights
weights.WEIGHTS = Path({str(tmp_path)!r})
for i in range(20):
    weights.enter(f"{{sys.argv[1]}}-{{i}}", {{"metrics": {{}}}})
"""
    writers = [subprocess.Popen([sys.executable, "-c", script, name]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert len(json.loads((tmp_path / "index.json").read_text())) == 60


def test_half_precision_keeps_what_fits_and_says_what_does_not(saved):
    _, path = saved
    content = path.read_bytes()
    halved = weights.halved(content)
    path.write_bytes(halved)
    (model, info), before = weights.load_model(path), safetensors.torch.load(content)
    assert info["dataset"] and all(p.dtype == torch.float32 for p in model.parameters())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-3, atol=1e-7)
    huge = safetensors.torch.save({"w": torch.tensor([1e5])}, metadata={"model": "x"})
    with pytest.raises(UserError, match="w has values beyond the range of half precision"):
        weights.halved(huge)


def test_what_a_training_left_alone_is_not_kept_twice(saved, tmp_path, monkeypatch):
    """The file of a model that started from shipped weights borrows what is the same in both; of other weights it takes nothing."""
    model, path = saved
    for folder in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, folder, tmp_path)
    result = {"model": "RealNVP", "model_config": {}, "dataset": "digits", "parameters": 1, "seconds": 1.0, "device": "here", "metrics": {"n": 1}}
    weights.store("first", path.read_bytes(), result, {})
    model, _ = weights.load_model("first")
    changed = max(model.state_dict(), key=lambda name: model.state_dict()[name].numel())
    model.state_dict()[changed].add_(1)
    weights.save_model(model, tmp_path / "run.safetensors", {"dataset": "digits"})
    weights.store("second", (tmp_path / "run.safetensors").read_bytes(), result | {"start": "first"}, {})
    index = weights.shipped()
    assert index["second"]["bytes"] < index["first"]["bytes"]
    torch.testing.assert_close(dict(weights.load_model("second")[0].state_dict()), dict(model.state_dict()), rtol=1e-3, atol=1e-3)
    own = safetensors.torch.load((tmp_path / "second.safetensors").read_bytes())
    assert [name for name, tensor in own.items() if tensor.numel() > 1] == [changed]
    weights.store("second", (tmp_path / "second.safetensors").read_bytes(), result | {"start": "second"}, {})  # trained on: it can't lend to itself
    weights.store("first", (tmp_path / "run.safetensors").read_bytes(), result, {})  # and stands alone, whatever becomes of the first
    assert weights.load_model("second")[0].state_dict()[changed].isfinite().all()
    weights.store("second", (tmp_path / "run.safetensors").read_bytes(), result | {"start": "first"}, {})
    before = weights.load_model("second")[0]
    weights.store("first", path.read_bytes(), result | {"seconds": 2.0}, {})  # the lender is replaced, and the borrower keeps what it had
    assert same(weights.load_model("second")[0], before) and "lent" not in weights.metadata((tmp_path / "second.safetensors").read_bytes())
    weights.store("second", (tmp_path / "run.safetensors").read_bytes(), result | {"start": "first"}, {})
    (tmp_path / "first.safetensors").write_bytes(path.read_bytes())  # changed behind its back
    with pytest.raises(UserError, match="first.safetensors has the sha256"):
        weights.load_model("second")


def test_every_shipped_file_is_in_order():
    """Index, weights and record agree; the metrics themselves are measured again by `evaluate`."""
    for name, entry in weights.shipped().items():
        model, info = weights.load_model(name)
        record = json.loads((weights.ROOT / entry["record"]).read_text())
        assert training.count_parameters(model) == entry["parameters"] == record["parameters"]
        assert entry["metrics"] == record["metrics"] and info["dataset"] == entry["dataset"]
        assert (weights.WEIGHTS / f"{name}.safetensors").stat().st_size <= 8 * 2**20
        assert record["epochs"] and record["seconds"] > 0 and record["device"]
    files = list(weights.WEIGHTS.glob("*.safetensors"))
    assert set(weights.shipped()) == {path.stem for path in files} and sum(path.stat().st_size for path in files) <= 60 * 2**20


def records():
    return [(path.stem, record) for path in sorted(weights.RESULTS.glob("*.json")) if "command" in (record := json.loads(path.read_text()))]


@pytest.mark.parametrize(("name", "record"), records(), ids=lambda part: part if isinstance(part, str) else "")
def test_a_record_says_where_it_comes_from(name, record):
    """Its command can be pasted; the weights at its start are shipped, or it says where they are; it says on which images it was measured."""
    assert all(part.isprintable() for part in shlex.split(record["command"].split(", before")[0]))
    assert "=(" not in re.sub("'[^']*'", "", record["command"])
    if record.get("start"):
        shipped = weights.shipped().get(record["start"])
        today = shipped is not None and record.get("start_sha256") == shipped["sha256"]
        assert today or record["start_note"], "it starts from weights that nobody can find"
        assert record["seconds_before"] > 0
    if "rows" in record:
        splits = {row["metrics"].get("split") for row in record["rows"] if row.get("metrics")} or {record.get("split")}
        assert splits <= {"validation", "test", "train"}
    elif "goals" in record or "metrics" not in record:
        assert record["split"] in ("validation", "test")
