"""The check of a GPU runs without one, in small; and by count no notebook's `full` takes a free GPU longer than it should."""

import gpu
import pytest
import torch

from helpers import data, recipes


@pytest.mark.parametrize("book", gpu.BOOKS)
def test_full_is_sized_for_a_free_gpu(book):
    """40 minutes for the trainings of a notebook, of which a fifth is left for what it measures."""
    grey, colour = (
        data.Dataset("some", data.DIGITS, *3 * (torch.randint(0, 256, (count, *shape), dtype=torch.uint8), torch.arange(count) % 10))
        for count, shape in ((55_000, (1, 28, 28)), (45_000, (3, 32, 32)))
    )
    minutes = {f"{name} {settings}": gpu.counted_minutes(name, settings, colour if name == "progan" else grey) for name, settings in gpu.BOOKS[book]}
    assert sum(minutes.values()) < 32, minutes


def test_the_check_goes_its_way_on_a_processor(monkeypatch):
    monkeypatch.setattr(gpu.recipes, "RECIPES", {name: recipes.RECIPES[name] for name in ("vae", "cgan")})
    found = gpu.check(torch.device("cpu"), "smoke", ())
    assert found["resumed differs by"] == 0.0 and found["smoke"].keys() == {"vae", "cgan"}
    assert all(row["finite"] and row["ms a step"] > 0 for row in found["steps, smoke"].values())
