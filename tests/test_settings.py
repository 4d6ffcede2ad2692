"""Settings of models: each field says its range, and what is out of it is one sentence."""

from dataclasses import replace
from typing import Literal, get_args, get_origin

import pytest

from helpers import UserError, recipes
from helpers.models import settings
from helpers.models.model import Model

BAD = [  # what somebody tried, and what is to be said of it
    ("autoencoder", "width", 0, "width = 0 was given: take a number from 1 up."),
    ("cgan", "betas", (0.0, 1.0), "betas = (0.0, 1.0) was given: take numbers from 0 to below 1."),
    ("cgan", "betas", (0.5,), "betas = (0.5,) was given: take 2 numbers."),
    ("ladder", "layers", (0, 0, 0), "the top needs at least one layer"),
    ("vqvae", "code_width", 0, "code_width = 0 was given: take a number from 1 up."),
    ("vqvae", "prior_heads", -1, "prior_heads = -1 was given: take a number from 1 up."),
    ("vqvae", "decay", 2.0, "decay = 2.0 was given: take a number from 0 to below 1."),
    ("vqvae", "commitment", -1.0, "commitment = -1.0 was given: take a number from 0 up."),
    ("realnvp", "margin", 0.9, "margin = 0.9 was given: take a number from 0 to below 0.5."),
    ("realnvp", "couplings", (4, -1), "couplings = (4, -1) was given: take numbers from 0 up."),
    ("classifier", "shift", -1, "shift = -1 was given: take a number from 0 up."),
    ("matching", "hidden_labels", 2.0, "hidden_labels = 2.0 was given: take a number from 0 to 1."),
    ("vae", "blocks", -3, "blocks = -3 was given: take a number from 0 up."),
    ("gan", "objective", "hing", "There is no objective 'hing': did you mean hinge? Take one of"),
    ("progan", "fade", float("nan"), "fade = nan was given: take a number from 0 to 1."),
]


@pytest.mark.parametrize(("model", "name", "value", "said"), BAD, ids=[f"{model} {name}" for model, name, *_ in BAD])
def test_what_is_out_of_its_range_is_said_in_a_sentence(model, name, value, said, digits):
    with pytest.raises(UserError) as error:
        recipes.recipe(model, "smoke", digits, {name: value})
    assert said in str(error.value)


@pytest.mark.parametrize("config", Model.of, ids=lambda config: config.__name__)
def test_every_number_and_every_name_has_its_range(config):
    """But for the strength of guidance, which may be anything."""
    if config.__module__.startswith("helpers.models"):
        for name, (kind, said) in settings.declared(config()).items():
            several = get_origin(kind) is tuple and hasattr(get_args(kind)[0], "__metadata__")
            ranged = any(isinstance(part, settings.Within) for part in said)
            assert several or ranged or kind is bool or get_origin(kind) is Literal or name in ("image_shape", "guidance"), name


UNREAD = [
    ("gan", {"network": "mlp", "stages": 3}, "stages = 3 was given, which is read only where network is conv: it is mlp."),
    ("gan", {"told": "channel"}, "read only where classes is above 0: it is 0."),
    ("matching", {"guidance": 2.0}, "guidance = 2.0 was given, which is read only where classes is above 0"),
    ("vae", {"schedule_steps": 5}, "read only where schedule is linear or cyclical: it is constant."),
    ("pixels", {"network": "pixelcnn", "layers": 5}, "read only where network is rows: it is pixelcnn."),
]


@pytest.mark.parametrize(("model", "asked", "said"), UNREAD, ids=[f"{model} {list(asked)[-1]}" for model, asked, _ in UNREAD])
def test_what_nobody_would_read_is_said(model, asked, said, digits):
    with pytest.raises(UserError) as error:
        recipes.recipe(model, "smoke", digits, asked)
    assert said in str(error.value)


def test_whole_numbers_among_floats_are_floats():
    """Adam wants both its betas to be."""
    assert [type(beta) for beta in recipes.settings_of("cgan", ["betas=(0,0.9)"])["betas"]] == [float, float]
    assert recipes.settings_of("ladder", ["layers=(1,2,1)"]) == {"layers": (1, 2, 1)}


def test_the_ends_of_a_range():
    assert [settings.Within(0, 1).holds(x) for x in (0, 1, 1.1, -0.1, float("nan"))] == [True, True, False, False, False]
    assert not settings.Within(0, 1, below=True).holds(1) and not settings.Within(0).holds(float("inf"))


def test_every_recipe_is_within_its_ranges():
    for recipe in recipes.RECIPES.values():
        for profile in recipes.PROFILES:
            settings.check(replace(recipe.kind.Config(), **getattr(recipe, profile)[0]))
