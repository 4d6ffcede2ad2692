"""Pictures: what is shown is what was given."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.show import plots

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


@pytest.mark.parametrize("path", sorted(ROOT.glob("imgs/*")), ids=lambda path: path.name)
def test_pictures_are_small_enough_for_the_web(path):
    assert path.stat().st_size <= 4_000_000


def test_names_stand_above_their_images():
    figure = plots.named(torch.rand(3, 1, 8, 8), ["Sandal", "Bag", "Coat"], "clothes", columns=2)
    assert [axis.get_title() for axis in figure.axes] == ["Sandal", "Bag", "Coat", ""]
    plt.close(figure)
