"""Folders that mean something else, pictures from strangers, and too few of them."""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from test_cli import run
from test_own_data import drawn, write

from helpers import data, own_data


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "kept"))
    monkeypatch.setenv("PROFILE", "smoke")  # of a judge, too
    return lambda folder, **settings: data.load(str(folder), **settings)


def test_folders_that_are_split_already(tmp_path, load, capsys):
    for train, held, test in (("train", None, "test"), ("Train", None, "Test"), ("training", None, "testing"), ("train", "valid", "test")):
        top = tmp_path / f"{train}-{held}-{test}"
        for part, n in ((train, 20), (held, 6), (test, 8)):
            for name in ("cat", "dog") if part else ():
                write(top / part / name, n)
        found = load(top)
        assert found.classes == ("cat", "dog") and len(found.test_images) == 16
        assert (len(found.train_images), len(found.validation_images)) == ((40, 12) if held else (36, 4))
        assert "is split already" in capsys.readouterr().out
    for name in ("cat", "dog"):
        write(tmp_path / "two" / "train" / name, 20), write(tmp_path / "two" / "val" / name, 5)
    assert len(load(tmp_path / "two").test_images) == 10 and "test: val/" in capsys.readouterr().out
    for name in ("train", "bus", "test"):  # classes may be called so
        write(tmp_path / "traffic" / name, 20)
    assert load(tmp_path / "traffic").classes == ("bus", "test", "train")
    write(tmp_path / "plain" / "train", 20), write(tmp_path / "plain" / "test", 5)  # of one class
    assert load(tmp_path / "plain").classes == ("plain",) and len(load(tmp_path / "plain").test_images) == 5
    write(tmp_path / "two" / "unlabelled", 9)
    capsys.readouterr()
    assert load(tmp_path / "two").classes == ("cat", "dog") and "unlabelled of" in (said := capsys.readouterr().out) and "is left out" in said


def test_one_level_too_many_and_classes_that_are_one_are_said(tmp_path, load, capsys):
    for name in ("cat", "dog"):
        write(tmp_path / "top" / "pets" / name, 12)
    assert load(tmp_path / "top").classes == ("pets",)
    assert f"are of one class, pets: give {tmp_path / 'top' / 'pets'} if cat, dog" in capsys.readouterr().out
    (tmp_path / "top" / "pets" / "hound").symlink_to(tmp_path / "top" / "pets" / "dog")
    (tmp_path / "top" / "pets" / "cat" / "again").symlink_to(tmp_path / "top")
    assert load(tmp_path / "top" / "pets").classes == ("cat", "dog")
    assert "hound is left out: it is" in capsys.readouterr().out


def test_a_lone_split_is_said_to_be_taken_for_a_class(tmp_path, load, capsys):
    write(tmp_path / "alone" / "train" / "cat", 24)
    assert load(tmp_path / "alone").classes == ("train",) and "are of one class, train: give" in capsys.readouterr().out


def test_what_was_found_is_said_first(tmp_path, load, capsys):
    for name in ("cat", "dog"):
        write(tmp_path / "pets" / name, 40)
    assert data.described(load(tmp_path / "pets")) == "2 classes (cat 40, dog 40): 65 training, 7 validation, 8 test pictures"


def test_many_classes_are_split_in_no_time():
    listed = [(f"{i % 2_000}", i) for i in range(40_000)]
    begun = time.perf_counter()
    parts = own_data._split(listed, 0)
    assert time.perf_counter() - begun < 2 and len(parts["test"]) == 4_000 and sorted(parts["test"] + parts["train"]) == sorted(listed)


def test_content_that_another_program_would_read_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "holiday.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    called = []
    monkeypatch.setattr(os, "posix_spawn", lambda *a, **k: called.append(a), raising=False)
    monkeypatch.setattr("subprocess.Popen.__init__", lambda *a, **k: called.append(a))
    assert "damaged or no picture" in own_data.read_picture(tmp_path / "holiday.png", 28) and not called


def test_a_picture_that_would_fill_the_memory_is_too_large(tmp_path):
    Image.new("L", (9_000, 9_000)).save(tmp_path / "huge.png")
    assert own_data.read_picture(tmp_path / "huge.png", 28) == "it is too large, 9000x9000: make it at most 64 megapixels"
    Image.new("L", (14_000, 14_000)).save(tmp_path / "larger.png")
    assert "it is too large: make it at most 64 megapixels" in own_data.read_picture(tmp_path / "larger.png", 28)


def test_reading_takes_little_more_memory_than_the_pictures_do(tmp_path, load):
    """They go straight to their places, and are put in order there; the second time they come from what was kept."""
    for name in ("cat", "dog"):
        write(tmp_path / "pets" / name, 2_000, colour="colour", sizes=((70, 64),))
    for _ in range(2):
        tracemalloc.start()
        found = load(tmp_path / "pets", size=64)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        size = sum(found.part(split)[0].numel() for split in ("train", "validation", "test"))
        assert size == 4_000 * 3 * 64 * 64 and peak <= 1.5 * size, peak / size
        assert found.train_images.untyped_storage().data_ptr() == found.validation_images.untyped_storage().data_ptr()


def test_arranging_in_place_is_indexing():
    order = np.random.default_rng(0).permutation(50)
    images = np.arange(200).reshape(50, 4)
    expected = images[order]
    own_data.arrange(images, order.tolist())
    assert (images == expected).all()


@pytest.mark.parametrize("kind", ["floats", "whole numbers", "16 bits in 32"])
def test_scientific_pictures_are_not_black(tmp_path, kind):
    grey = np.asarray(drawn(40, 40, number=3).convert("L")).astype(np.float32)
    values = {"floats": grey / 255, "whole numbers": grey.astype(np.int32), "16 bits in 32": (grey * 257).astype(np.int32)}[kind]
    Image.fromarray(values).save(tmp_path / "x.tif")
    expected = np.asarray(Image.fromarray(grey.astype(np.uint8)).convert("RGB").resize((28, 28), Image.BOX))
    assert np.abs(own_data.read_picture(tmp_path / "x.tif", 28).astype(int) - expected).max() <= 3


def test_pictures_that_cannot_be_read_are_counted(tmp_path, load, capsys):
    write(tmp_path / "phone", 20, ending="jfif" if ".jfif" in Image.registered_extensions() else "jpg")
    (tmp_path / "phone" / "inside").mkdir()
    for name in ("a.HEIC", "b.heic", "c.dng"):
        (tmp_path / "phone" / name).write_bytes(b"x")
    assert len(load(tmp_path / "phone").train_images) > 10
    assert "3 pictures under" in (said := capsys.readouterr().out) and ".dng, .heic can't be read; save them as JPEG or PNG" in said


def test_a_class_with_a_comma_can_be_asked_for(tmp_path, load):
    for name in ("red, green", "blue"):
        write(tmp_path / "colours" / name, 16)
    folder = tmp_path / "run"
    assert run("train", "matching-conditional", "--dataset", tmp_path / "colours", "--profile", "smoke", "--epochs", 1, "--folder", folder) == 0
    for asked, count in (("red, green", 4), ('"red, green",blue', 2)):
        assert run("sample", folder / "model.safetensors", "--labels", asked, "--count", count, "--out", tmp_path / "x.png") == 0


# ---- too few, or too much alike


@pytest.mark.parametrize("kind", ["eight of each", "all alike", "alike within a class"])
def test_few_or_equal_pictures_divide_by_nothing(tmp_path, load, kind, capsys):
    for i, name in enumerate(("cat", "dog")):
        if kind == "eight of each":
            write(tmp_path / "pets" / name, 8)
        else:
            (tmp_path / "pets" / name).mkdir(parents=True)
            for k in range(60):
                drawn(32, 32, number=0 if kind == "all alike" else 3 * i).save(tmp_path / "pets" / name / f"{k}.png")
    folder = tmp_path / "run"
    assert run("train", "cgan", "--dataset", tmp_path / "pets", "--profile", "smoke", "--epochs", 1, "--folder", folder) == 0
    found = json.loads((folder / "result.json").read_text())["metrics"]
    assert "not_measured" not in found
    if kind == "eight of each":
        assert "2 real images are too few" in capsys.readouterr().out and "frechet_distance" not in found
    else:
        assert found["frechet_distance"] >= 0 and "diversity_within_class" not in found and ("diversity" in found) is (kind != "all alike")
