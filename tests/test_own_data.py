"""One's own pictures, with everything that can be odd about them."""

import json
import os
import re

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_cli import run

from helpers import UserError, data, own_data, recipes, weights
from helpers.models.autoregressive import Pixels
from helpers.models.masked import MaskedWords
from helpers.show import sliders

# ---- a folder


def drawn(width, height, colour="grey", number=0):
    """A disk that says which picture it is by its size, on a ground of another grey or colour."""
    picture = Image.new("RGB", (width, height), (200, 60, 30) if colour == "colour" else (60, 60, 60))
    side = min(width, height)
    left, top, reach = width // 2, height // 2, side * (0.15 + 0.3 * (number % 7) / 7)
    ImageDraw.Draw(picture).ellipse([left - reach, top - reach, left + reach, top + reach], fill=(240, 240, 240))
    return picture


def write(folder, n=24, colour="grey", ending="jpg", sizes=((40, 30), (30, 64), (33, 33))):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        drawn(*sizes[i % len(sizes)], colour, i).save(folder / f"{i:03}.{ending}")
    return folder


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "kept"))
    return lambda folder, **settings: data.load(str(folder), **settings)


def test_sub_folders_are_the_classes(tmp_path, load):
    for name, n in {"oranges and lemons": 30, "äpfel": 20}.items():
        write(tmp_path / "fruit" / name, n)
    found = load(tmp_path / "fruit")
    assert found.classes == ("oranges and lemons", "äpfel") and found.image_shape == (1, 28, 28)
    assert len(found.test_images) == 5 and set(found.test_labels.tolist()) == {0, 1}  # a tenth of each
    assert len(found.train_images) + len(found.validation_images) == 45
    every = torch.cat([found.part(split)[0] for split in ("train", "validation", "test")])
    assert len(torch.unique(every.flatten(1), dim=0)) >= 20 and every.float().std() > 20
    other = load(tmp_path / "fruit", seed=1)
    assert not torch.equal(other.test_images, found.test_images) and torch.equal(load(tmp_path / "fruit").test_images, found.test_images)


def test_without_any_all_are_of_one_class_and_one_in_colour_makes_all_colour(tmp_path, load):
    folder = write(tmp_path / "mine")
    assert load(folder).classes == ("mine",) and load(folder).image_shape == (1, 28, 28)
    drawn(50, 50, "colour").save(folder / "x.png")
    assert load(folder).image_shape == (3, 28, 28)
    assert load(folder, size=64).image_shape == (3, 64, 64)


def test_train_and_test_that_are_there_are_kept(tmp_path, load, capsys):
    for part, name, n in (("train", "a", 20), ("train", "b", 20), ("test", "a", 5), ("test", "c", 3)):
        write(tmp_path / "set" / part / name, n)
    found = load(tmp_path / "set")
    assert found.classes == ("a", "b") and len(found.test_images) == 5
    assert "3 test pictures are left out: of c there are none to train on" in capsys.readouterr().out


KINDS = {
    "grey": lambda p: p.convert("L"),
    "16 bits": lambda p: Image.fromarray(np.asarray(p.convert("L")).astype(np.uint16) * 257),
    "palette": lambda p: p.convert("P", palette=Image.Palette.ADAPTIVE),
    "alpha": lambda p: p.convert("RGBA"),
    "grey with alpha": lambda p: p.convert("LA"),
    "bits": lambda p: p.convert("1"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ending", ["png", "webp"])
def test_every_kind_of_picture_is_read_as_the_plain_one(tmp_path, kind, ending):
    picture = drawn(40, 40, number=3)
    path = tmp_path / f"picture.{ending}"
    if ending == "webp" and kind in ("16 bits", "bits"):
        pytest.skip("WebP has none")
    KINDS[kind](picture).save(path, **{"lossless": True} if ending == "webp" else {})
    expected = np.asarray(picture.convert("1").convert("RGB") if kind == "bits" else picture)
    assert np.abs(own_data.read_picture(path, 28).astype(int) - np.asarray(Image.fromarray(expected).resize((28, 28), Image.BOX))).max() <= 3


def test_transparent_is_white_and_a_camera_held_upright_is(tmp_path):
    clear = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert own_data.read_picture(tmp_path / "clear.png", 28).min() == 255
    half = Image.new("RGB", (60, 40))
    half.paste((255, 255, 255), (0, 0, 60, 20))  # its upper half is white
    turned = half.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned.save(tmp_path / "turned.jpg", exif=exif)
    found = own_data.read_picture(tmp_path / "turned.jpg", 28)
    assert found[:10].min() > 230 and found[-10:].max() < 25


def test_the_square_in_the_middle_by_area(tmp_path):
    stripes = np.zeros((56, 112, 3), np.uint8)
    stripes[::2] = 255
    stripes[:, :28] = stripes[:, -28:] = 7  # what is cut off
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    found = own_data.read_picture(tmp_path / "stripes.png", 28)
    assert found.min() >= 127 and found.max() <= 128


def test_broken_files_are_named_and_left_out(tmp_path, load, capsys):
    folder = write(tmp_path / "mine")
    (folder / "cut.jpg").write_bytes((folder / "000.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("no ending of a picture")
    (folder / "nowhere.png").symlink_to(folder / "gone.png")
    found = load(folder)
    said = capsys.readouterr().out
    assert len(found.train_images) + len(found.validation_images) + len(found.test_images) == 24
    assert said.count("is left out") == 2 and "cut.jpg is left out" in said and "text.png is left out: it is damaged or no picture" in said
    assert "notes.txt" not in said
    load(folder)
    assert "cut.jpg is left out" in capsys.readouterr().out  # what is kept says so, too


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path, load, capsys):
    folder = write(tmp_path / "mine")
    (folder / "001.jpg").chmod(0)
    load(folder)
    assert "001.jpg is left out: Permission denied" in capsys.readouterr().out
    folder.chmod(0)
    with pytest.raises(UserError, match="can't be read"):
        load(folder)
    folder.chmod(0o755)


def test_links_in_a_circle_end(tmp_path, load):
    folder = tmp_path / "mine"
    write(folder / "a", 12)
    write(folder / "b", 12)
    (folder / "a" / "round").symlink_to(folder)
    (folder / "c").symlink_to(folder / "b")
    found = load(folder)
    assert found.classes == ("a", "b") and sum(len(found.part(split)[0]) for split in ("train", "validation", "test")) == 24


def test_read_once_and_anew_where_a_file_has_changed(tmp_path, load, monkeypatch):
    folder, read = write(tmp_path / "mine"), []
    real = own_data.read_picture
    monkeypatch.setattr(own_data, "read_picture", lambda path, size: read.append(path) or real(path, size))
    first = load(folder)
    assert len(read) == 24 and torch.equal(load(folder).train_images, first.train_images) and len(read) == 24
    drawn(40, 40, number=5).save(folder / "000.jpg")
    load(folder)
    assert len(read) == 48
    kept = next((tmp_path / "kept" / "pictures").glob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:100])  # cut off
    load(folder)
    assert len(read) == 72
    assert not list(kept.parent.glob("*.part"))


def test_without_rights_to_keep_it_is_read_all_the_same(tmp_path, load, capsys):
    (tmp_path / "kept").write_text("a file where the folder should be")
    assert len(load(write(tmp_path / "mine")).train_images) > 10
    assert "can't be kept" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder.mkdir(), "holds no pictures"),
        (lambda folder: write(folder, 1), "1 training and 0 test images: at least 10 and 2"),
        (lambda folder: write(folder / "deep" / "deeper", 3), "at least 10 and 2"),
    ],
)
def test_too_few(tmp_path, load, make, says):
    make(tmp_path / "mine")
    with pytest.raises(UserError, match=says):
        load(tmp_path / "mine")


def test_no_folder(tmp_path, load, monkeypatch):
    (tmp_path / "mine.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"mine.zip is a file of another kind: unpack it"):
        load(tmp_path / "mine.zip")
    with pytest.raises(UserError, match="folder of pictures, or of an .npz"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="27x27.*28, 32, 64"):
        load(write(tmp_path / "mine"), size=27)
    monkeypatch.setenv("SIZE", "big")
    with pytest.raises(UserError, match="SIZE is 'big'"):
        load(tmp_path / "mine")
    monkeypatch.setenv("SIZE", "32")
    assert load(tmp_path / "mine").image_shape == (1, 32, 32)


# ---- an .npz


def write_npz(folder, **changes):
    train = np.arange(60)
    arrays = {
        "train_images": np.broadcast_to(train.astype(np.uint8)[:, None, None], (60, 8, 8)),
        "train_labels": train % 3,
        "test_images": np.zeros((40, 8, 8), np.uint8),
        "test_labels": np.arange(40) % 3,
    }
    path = folder / "mine é.npz"
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def test_own_grey_and_colour_images(tmp_path):
    grey = data.load(str(write_npz(tmp_path)))
    assert grey.image_shape == (1, 8, 8) and grey.classes == ("0", "1", "2")
    assert grey.name == str(tmp_path / "mine é.npz")  # from this name `evaluate` finds it again
    colour = {"train_images": np.zeros((60, 8, 8, 3), np.uint8), "test_images": np.zeros((40, 8, 8, 3), np.uint8)}
    assert data.load(str(write_npz(tmp_path, **colour))).image_shape == (3, 8, 8)


def test_classes_are_those_of_the_training_set_by_name(tmp_path, capsys):
    ones = {"train_labels": np.arange(60) % 3 + 1, "test_labels": np.arange(40) % 3 + 1}
    found = data.load(str(write_npz(tmp_path, **ones)))
    assert found.classes == ("1", "2", "3") and set(found.train_labels.tolist()) == {0, 1, 2}  # no phantom 0
    stray = ones["test_labels"].copy()
    stray[:2] = 255
    found = data.load(str(write_npz(tmp_path, **ones | {"test_labels": stray})))
    assert found.classes == ("1", "2", "3") and len(found.test_images) == 38
    assert "2 test images are left out: of 255 there are none to train on" in capsys.readouterr().out
    names = np.array(["cat", "dog", "bird"])
    found = data.load(str(write_npz(tmp_path, train_labels=names[np.arange(60) % 3], test_labels=names[np.arange(40) % 3])))
    assert found.classes == ("bird", "cat", "dog") and found.classes[found.test_labels[1]] == "dog"


@pytest.mark.parametrize(
    ("images", "says", "value"),
    [
        (np.full((60, 8, 8), 0.5), "floats are made 8 bits", 128),
        (np.full((60, 8, 8), 257 * 9, np.uint16), "16 bits are made 8", 9),
        (np.zeros((60, 8, 8, 4), np.uint8), "laid on white", 255),
        (np.full((60, 8, 8, 2), 255, np.uint8), "laid on white", 255),
        (np.full((60, 6, 9), 7, np.uint8), "repeated up to 8x12", 7),
    ],
)
def test_what_does_not_fit_is_made_to_and_said(tmp_path, capsys, images, says, value):
    found = data.load(str(write_npz(tmp_path, train_images=images, test_images=images[:40])))
    assert says in capsys.readouterr().out
    assert found.train_images.dtype == torch.uint8 and found.train_images.unique().tolist() == [value]
    assert all(side % 4 == 0 for side in found.image_shape[1:]) and found.image_shape[0] == (3 if images.shape[-1] == 4 else 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"test_labels": None}, "lacks test_labels"),
        ({"train_images": np.full((60, 8, 8), 2.0)}, "from 2 to 2: floats must be from 0 to 1"),
        ({"train_images": np.full((60, 8, 8), np.nan)}, "floats must be from 0 to 1"),
        ({"train_images": np.zeros((60, 8, 8), np.int64)}, "int64.*uint8, uint16, or floats"),
        ({"train_images": np.zeros((60, 64), np.uint8)}, r"\(60, 64\).*\(N, H, W\)"),
        ({"train_labels": np.arange(59)}, "60 whole numbers"),
        ({"train_labels": np.arange(60) - 1}, "from 0 up"),
        ({"train_labels": np.arange(60) / 60}, "float64.*60 whole numbers from 0 up, or names"),
        ({"train_images": np.zeros((60, 8, 8, 5), np.uint8)}, r"8, 5\).*grey \(1\) or colour \(3\)"),
        ({"train_images": np.zeros((9, 8, 8), np.uint8), "train_labels": np.arange(9)}, "9 training and 40 test images: at least 10 and 2"),
        ({"test_labels": np.full(40, 7)}, "60 training and 0 test images"),
        ({"test_images": np.zeros((40, 8, 12), np.uint8)}, r"\(1, 8, 8\).*\(1, 8, 12\)"),
        ({"train_labels": np.array([None] * 60, object)}, "can't be read"),
    ],
)
def test_own_images_that_do_not_fit(tmp_path, changes, says):
    with pytest.raises(UserError, match=says):
        data.load(str(write_npz(tmp_path, **changes)))


def test_own_file_missing_or_truncated(tmp_path):
    with pytest.raises(UserError, match="no file"):
        data.load(str(tmp_path / "none.npz"))
    path = write_npz(tmp_path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="can't be read"):
        data.load(str(path))


# ---- every family on a folder of JPEGs of odd sizes, grey and in colour, two of them broken


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("300 Bilder für später")
    for name, colour in {"grey ones": "grey", "bunte": "colour"}.items():
        write(folder / name, 149, colour, sizes=((40, 30), (31, 64), (33, 33), (200, 90)))
        (folder / name / "broken.jpg").write_bytes((folder / name / "000.jpg").read_bytes()[:200])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(folder.parent / "kept"))
        patch.setenv("PROFILE", "smoke")
        patch.chdir(folder.parent)
        yield folder


def explorer_of(model, dataset):
    """A sliders' explorer of what this model can do, and one of its controls."""
    if hasattr(model, "writer"):
        return sliders.completed(model, dataset.test_images[:2], dataset.classes if model.labelled else ()), "kept"
    if model.labelled and hasattr(model, "blend"):
        return sliders.classes_and_noise(model, dataset.classes), "noise"
    if model.labelled and hasattr(model.config, "guidance"):
        return sliders.guided(model, dataset.classes), "noise"
    if isinstance(model, MaskedWords):
        return sliders.passes(model), "share"
    if isinstance(model, Pixels):
        return sliders.pixel_by_pixel(model), "pixels"
    if model.labelled:
        return sliders.chosen(model, dataset.classes), "temperature"
    return sliders.temperature(model), "temperature"


@pytest.mark.parametrize("family", [name for name, recipe in recipes.RECIPES.items() if recipe.kind.draws])
def test_every_family_is_trained_measured_drawn_and_explored(family, pictures, tmp_path, capsys):
    how, start = ("--dataset", pictures, "--profile", "smoke", "--epochs", 1, "--images", 160, "--folder"), []
    if first := recipes.RECIPES[family].after:
        assert run("train", first, *how, tmp_path / "first") == 0
        start = ["--start", tmp_path / "first" / "model.safetensors"]
    assert run("train", family, *how, tmp_path, *start) == 0
    said = capsys.readouterr().out
    assert re.search(r"^Fréchet +\d", said, re.M) and "not measured" not in said and "a classifier of its own" in said
    assert run("evaluate", tmp_path / "model.safetensors", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["judge"].startswith("a classifier of its own") and found["n"] == 28 and found["frechet_distance"] > 0
    labelled = recipes.RECIPES[family].labelled
    asked = ["--labels", "bunte"] if labelled else []
    assert run("sample", tmp_path / "model.safetensors", "--count", 5, *asked, "--out", tmp_path / "five.png") == 0
    with Image.open(tmp_path / "five.png") as picture:
        assert picture.mode == "RGB"
    model, info = weights.load_model(tmp_path / "model.safetensors")
    explorer, control = explorer_of(model, data.load(info["dataset"]))
    before, slider = bytes(explorer.picture.value), explorer.controls[control]
    slider.value = slider.min if slider.value != slider.min else slider.max
    assert bytes(explorer.picture.value) != before


def test_of_one_class_the_judge_is_an_autoencoder(pictures, tmp_path, capsys):
    assert run("train", "vae", "--dataset", pictures / "bunte", "--profile", "smoke", "--epochs", 1, "--folder", tmp_path) == 0
    said = capsys.readouterr().out
    assert "the codes of an autoencoder of its own" in said and "Fréchet" in said and "\nlegible " not in said
    assert run("train", "cgan", "--dataset", pictures / "bunte", "--profile", "smoke", "--folder", tmp_path) == 1
    assert "bunte has one class" in capsys.readouterr().err
