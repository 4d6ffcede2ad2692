"""The comparisons: what is recorded is what the code says, and a run that was cut off goes on."""

import json
from dataclasses import replace

import pytest
import torch

from helpers import UserError, data, experiments, training, weights
from helpers.experiments.flow_variants import VariantConfig
from helpers.models.autoencoders import AutoencoderConfig, VAEConfig
from helpers.models.gans import GAN, GANConfig
from helpers.models.growing import ProGAN, ProGANConfig
from helpers.training import TrainConfig

TINY = VariantConfig((1, 8, 8), couplings=(1, 1), width=(4, 4), blocks=1, dequantization_couplings=0)
TRAIN = TrainConfig(epochs=1, batch_size=32, train_images=96, compile=False, validation_images=50)


def tiny() -> dict:
    """Two flows of scikit-learn's digits."""
    rows = {"channel": TINY, "batch": replace(TINY, norm="batch")}
    return {label: experiments.Row(config, TRAIN, "digits", measure=("pixels",)) for label, config in rows.items()}


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_every_row_can_be_built_and_the_record_is_of_these_rows(name):
    rows = experiments.rows_of(name)
    for row in rows.values():
        experiments.build(row)
    if (weights.RESULTS / f"{name}.json").exists():
        for done in experiments.load(name)["rows"]:
            row = rows[done["label"]]
            now = replace(row, train=replace(row.train, seed=done["seed"]))
            assert experiments.known(done, now) == experiments.plain(now), done["label"]
            assert {"device", "seconds", "parameters"} <= set(done)


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_rows_that_are_compared_were_rounded_alike(name):
    """float32 beside bfloat16 would be two changes at once: of one data set all rows ran in one precision."""
    if (weights.RESULTS / f"{name}.json").exists():
        ran = {}
        for done in experiments.load(name)["rows"]:
            ran.setdefault(done["row"]["dataset"], set()).add(done.get("precision"))
        assert all(len(precisions) == 1 for precisions in ran.values()), ran


def test_runs_are_kept_and_not_repeated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", (tiny, (0, 1)))
    experiments.run("tiny", only="channel", seed=0)
    kept = (tmp_path / "tiny.json").read_text()
    record = experiments.run("tiny")
    assert capsys.readouterr().out.count("== tiny") == 4  # one, then the three that were missing
    assert record["rows"][0] == json.loads(kept)["rows"][0]
    assert {(row["label"], row["seed"]) for row in record["rows"]} == {(label, seed) for label in ("channel", "batch") for seed in (0, 1)}
    assert {row["metrics"]["split"] for row in record["rows"]} == {"validation"} and record["rows"][0]["metrics"]["n"] == 150
    assert "bits_per_dim_training_mode" in next(row for row in record["rows"] if row["label"] == "batch")["metrics"]
    assert set(experiments.pictures("tiny")) == {f"{label} @ {t}" for label in ("channel", "batch") for t in (1.0, 0.8)}
    mean, spread = experiments.summary(record, ("bits_per_dim",))["channel"]["bits_per_dim"]
    values = [row["metrics"]["bits_per_dim"] for row in record["rows"] if row["label"] == "channel"]
    assert mean == pytest.approx(sum(values) / 2) and spread == pytest.approx(abs(values[0] - values[1]) / 2)


def test_a_row_that_was_measured_on_test_images_is_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", (tiny, (0,)))
    record = experiments.run("tiny", only="channel")
    record["rows"][0]["metrics"]["split"] = "test"
    training.write_json(tmp_path / "tiny.json", record)
    capsys.readouterr()
    assert experiments.splits(record) == "test" and experiments.splits(experiments.run("tiny", only="channel")) == "validation"
    assert capsys.readouterr().out.count("== tiny") == 1


def test_two_processes_share_an_experiment(tmp_path, monkeypatch):
    """What another one has recorded meanwhile is kept."""
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "tiny", (tiny, (0,)))
    real = experiments.train_row

    def meanwhile(row, *rest):
        monkeypatch.setattr(experiments, "train_row", real)
        experiments.run("tiny", only="batch", seed=1)
        return real(row, *rest)

    monkeypatch.setattr(experiments, "train_row", meanwhile)
    experiments.run("tiny", only="channel")
    assert {(row["label"], row["seed"]) for row in experiments.load("tiny")["rows"]} == {("channel", 0), ("batch", 1)}


def test_effects_are_taken_seed_by_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    values = {"a": (1.0, 2.0, 3.0), "b": (0.9, 1.8, 2.9), "c": (1.1, 1.9, 3.0)}
    rows = [{"label": label, "seed": seed, "metrics": {"bits_per_dim": value}} for label, found in values.items() for seed, value in enumerate(found)]
    training.write_json(tmp_path / "some.json", {"rows": [*rows, {"label": "a", "seed": 3, "metrics": {}}]})
    shown = []
    monkeypatch.setattr(experiments.plots, "table", lambda header, rows, caption: shown.extend(rows))
    experiments.effects(("some",), {"to b": ("a", "b"), "to c": ("a", "c"), "back": ("b", "a")})
    assert [row[-1] for row in shown] == ["better", "undecided", "worse"]
    assert shown[0][1:4] == ["2.000", "1.867", "-0.133 (-0.200 to -0.100)"]


def test_autoencoders_are_compared_too(tmp_path, monkeypatch):
    """An autoencoder's pictures are test images rebuilt, a VAE's are samples."""
    train = replace(TRAIN, learning_rate=1e-2)
    shape = {"image_shape": (1, 8, 8), "latent": 2, "width": 4}

    def both() -> dict:
        """Two kinds."""
        rows = {"ae": AutoencoderConfig(**shape), "vae": VAEConfig(**shape)}
        return {label: experiments.Row(config, train, "digits", measure=("pictures",)) for label, config in rows.items()}

    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "both", (both, (0,)))
    found = {row["label"]: row["metrics"] for row in experiments.run("both")["rows"]}
    assert found["ae"]["mse"] > 0 and found["vae"]["neg_elbo"] == pytest.approx(found["vae"]["reconstruction"] + found["vae"]["kl"])
    assert set(experiments.pictures("both")) == {"ae @ rebuilt", "vae @ 1.0", "vae @ 0.8"}


def test_gans_are_compared_too(tmp_path, monkeypatch):
    """Both players' losses are in the record, and of seed 0 the samples, also in colour."""

    def game() -> dict:
        """A GAN."""
        return {"gan": experiments.Row(GANConfig((1, 8, 8), latent=4, width=4), TRAIN, "digits", measure=("pictures", "weights"))}

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "game", (game, (0,)))
    row = experiments.run("game")["rows"][0]
    assert {"train_discriminator_loss", "train_generator_loss", "lowest_discriminator_loss"} <= set(row["epochs"][0])
    assert experiments.pictures("game")["gan @ 1.0"].shape == (12, 8, 8, 1)
    model, _ = weights.load_model(tmp_path / "runs" / "game" / "gan" / "model.safetensors")
    assert model.config == GANConfig((1, 8, 8), latent=4, width=4)
    monkeypatch.setitem(experiments.EXPERIMENTS, "colour", (lambda: {"first": None, "grown": None}, (0,)))
    colour = ProGAN(ProGANConfig((3, 8, 8), latent=4, width=4)).eval()
    for label in ("grown", "first"):
        experiments.keep_pictures("colour", label, colour, None)
    assert list(experiments.pictures("colour")) == ["first @ 1.0", "first @ 0.8", "grown @ 1.0", "grown @ 0.8"]  # as in the experiment
    with training.aside(0):
        expected = experiments.plots.to_uint8(colour.sample(12))
    assert torch.equal(experiments.pictures("colour")["grown @ 1.0"], torch.from_numpy(expected))


def test_a_loss_that_is_not_finite_is_a_result(tmp_path, monkeypatch):
    def broken():
        """One that breaks."""
        return {"broken": experiments.Row(TINY, replace(TRAIN, learning_rate=1e9, warmup_steps=0, clip_norm=1e9), "digits", measure=())}

    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setitem(experiments.EXPERIMENTS, "broken", (broken, (0,)))
    row = experiments.run("broken")["rows"][0]
    assert row["metrics"] == {} and "stopped being finite" in row["stopped"]


def test_the_inside_of_the_box_is_told_from_the_outside():
    model = experiments.build(tiny()["channel"]).eval()
    images = torch.randint(0, 256, (64, 1, 8, 8), dtype=torch.uint8)
    model.initialize(images)
    assert experiments.pixels(model, images, n=32)["outside"] == pytest.approx(0, abs=0.01)
    raw = experiments.build(replace(tiny()["channel"], config=replace(TINY, logit=False))).eval()
    raw.initialize(images)
    assert experiments.pixels(raw, images, n=32)["outside"] > 0.05


def test_a_missing_record_says_how_to_make_it(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"no record pieces.json.*helpers experiment pieces"):
        experiments.load("pieces")


def test_no_two_experiments_share_a_name():
    """A union of dicts would keep the later one, in silence."""
    names = [name for module in experiments.NOTEBOOKS for name in [*module.EXPERIMENTS, *module.MEASUREMENTS]]
    assert sorted(names) == sorted(set(names)) == sorted([*experiments.EXPERIMENTS, *experiments.MEASUREMENTS])


def test_pictures_of_rows_that_are_gone_go(tmp_path, monkeypatch):
    """A record is kept to the rows that there are, and so is its picture."""
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    rows = {"first": None, "second": None}
    monkeypatch.setattr(experiments, "rows_of", lambda name, only=None: rows)
    dataset, model = data.load("digits"), GAN(GANConfig((1, 8, 8), latent=4, width=4)).eval()
    for label in rows:
        experiments.keep_pictures("game", label, model, dataset)
    del rows["first"]
    experiments.keep_pictures("game", "second", model, dataset)
    assert list(experiments.pictures("game")) == ["second @ 1.0", "second @ 0.8"]
