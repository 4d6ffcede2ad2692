"""Pictures: what is shown is what was given."""

import base64
import inspect
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.show import drawings, plots

ROOT = Path(__file__).parent.parent


def test_a_grid_shows_every_image_in_its_place():
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 4, 4) * 40
    picture = np.asarray(plots.grid(images, columns=3, scale=1))
    assert [[picture[2 + 6 * row, 2 + 6 * column] for column in range(3)] for row in range(2)] == [[0, 40, 80], [120, 160, 200]]
    assert plots.grid(torch.rand(2, 3, 4, 4)).mode == "RGB"


def test_floats_fall_into_their_bins():
    assert plots.to_uint8(torch.tensor([0.0, 1 / 256, 0.999, 1.0]).view(1, 1, 2, 2)).flatten().tolist() == [0, 1, 255, 255]


def test_a_film_has_its_frames_and_plays_again():
    frames = {f"epoch {i}": torch.full((4, 1, 8, 8), i / 4) for i in range(4)}
    film = Image.open(io.BytesIO(plots.film(frames)))
    assert film.n_frames == 4 and film.info["loop"] == 0
    film.seek(3)
    assert film.info["duration"] == 2_000  # the last is shown for longer
    assert film.convert("L").getpixel((10, 24)) == pytest.approx(192, abs=3)


def test_a_run_leaves_the_pictures_of_the_readme_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PICTURES", raising=False)
    plots.film({"a": torch.rand(1, 1, 8, 8)}, "a.gif")
    assert [path.name for path in (tmp_path / "runs" / "imgs").iterdir()] == ["a.gif"]
    monkeypatch.setenv("PICTURES", "imgs")
    figure = plots.named(torch.rand(1, 1, 8, 8), ["Bag"], "clothes")
    plots.save(figure, "b.png")
    plt.close(figure)
    assert [path.name for path in (tmp_path / "imgs").iterdir()] == ["b.png"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("imgs/*")), ids=lambda path: path.name)
def test_pictures_are_small_enough_for_the_web(path):
    assert path.stat().st_size <= 4_000_000


def test_names_stand_above_their_images():
    figure = plots.named(torch.rand(3, 1, 8, 8), ["Sandal", "Bag", "Coat"], "clothes", columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["Sandal", "Bag", "Coat", ""]
    plt.close(figure)


def test_a_picture_is_shown_small_and_says_what_it_shows(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda bundle, raw, metadata: shown.append((bundle, metadata)))
    figure = plots.named(torch.rand(2, 1, 8, 8), ["Bag", "Coat"], "clothes")
    plots.show(figure, "two grey squares")
    (bundle, metadata) = shown[0]
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.mode == "L" and metadata == {"image/png": {"alt": "two grey squares"}} and bundle["text/plain"] == "two grey squares"
    assert not plt.fignum_exists(figure.number)
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert np.abs(np.asarray(Image.open(io.BytesIO(plots.small_png(colours))).convert("RGB")).astype(int) - np.asarray(colours)).max() <= 1


def test_pages_lie_on_a_sheet_in_their_order():
    wide = plots.contact_sheet([(f"page {i}", Image.new("L", (700, 40), 100 * i)) for i in range(3)])
    tall = plots.contact_sheet([(f"page {i}", Image.new("L", (400, 300), 100 * i)) for i in range(4)])
    assert wide.width == 700 and [wide.getpixel((5, y))[0] for y in (45, 105, wide.height - 2)] == [0, 100, 200]
    assert tall.width <= 1_080 and [tall.getpixel((x, tall.height // 2 - 20))[0] for x in (5, 370, 740)] == [0, 100, 200]


def test_names_of_two_lines_stand_above_a_strip():
    strip = plots.labelled(torch.zeros(2, 1, 8, 8), ["image 0", "flow\nchord"], scale=4)
    assert strip.height == plots.grid(torch.zeros(2, 1, 8, 8), columns=2, scale=4).height + 26
    assert np.asarray(strip)[:26].min() < 128 and np.asarray(strip)[0].min() == 255


@pytest.mark.parametrize("draw", [f for name, f in vars(drawings).items() if inspect.isfunction(f) and not inspect.signature(f).parameters])
def test_a_drawing_draws(draw):
    assert draw.__doc__
    picture = np.asarray(plots.picture(draw()))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
