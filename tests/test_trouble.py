"""A generator of trouble: folders, arrays and settings as nobody would write them on purpose.

Whatever comes ends in a trained smoke model with its record, or in one sentence: never in a traceback, and never with classes or counts
changed without a word. 200 cases with the other tests; TROUBLE=2000 tries as many and keeps the counts in results/trouble.json.
"""

import contextlib
import io
import json
import math
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import UserError, data, recipes, training, weights
from helpers.models.settings import declared

CASES = int(os.environ.get("TROUBLE", 200))
COUNTS = {kind: Counter() for kind in ("folders", "arrays", "asked_for")}
often = settings(max_examples=CASES // 3, deadline=None, derandomize=CASES == 200, database=None, suppress_health_check=list(HealthCheck))

MODES = {"L": "png", "RGB": "jpg", "RGBA": "png", "P": "gif", "LA": "png", "1": "png", "I;16": "png", "F": "tif", "CMYK": "jpg", "I": "tif"}
NAMES = st.sampled_from(["cat", "dog", "äpfel und birnen", "red, green", "7", "-1", "train", "test", "val", "None", "a" * 60, "x.y", "Cat", "新"])
SIDES = st.integers(1, 70)
JUNK = st.sampled_from(["empty.png", "text.jpg", "cut.png", "notes.txt", ".hidden.png", "phone.heic", "circle", "nested"])
CLASS = st.tuples(NAMES, st.integers(0, 24), st.sampled_from(sorted(MODES)), SIDES, SIDES, st.booleans())
FOLDER = st.fixed_dictionaries(
    {
        "classes": st.lists(CLASS, min_size=0, max_size=4, unique_by=lambda found: found[0]),
        "splits": st.sampled_from([(), (), ("train", "test"), ("Train", "Val"), ("training", "valid", "testing"), ("train",)]),
        "flat": st.booleans(),
        "junk": st.lists(JUNK, max_size=3, unique=True),
    }
)


def outcome(kind: str, work) -> str:
    """ "trained" or "refused", counted; what it printed is the second."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            record = work()
        except UserError as error:
            sentence = str(error)
            assert "\n" not in sentence.strip() and sentence.rstrip().endswith((".", ")", "?")) and len(sentence) < 600, sentence
            COUNTS[kind]["refused"] += 1
            return "refused", said.getvalue() + sentence
    json.dumps(record)
    assert all(math.isfinite(value) for row in record["epochs"] for name, value in row.items() if name.endswith("loss"))
    COUNTS[kind]["trained"] += 1
    return "trained", said.getvalue()


def trained(dataset, name="autoencoder", asked=None):
    """The record of a smoke training of a few steps."""
    model, config = recipes.recipe(name, "smoke", dataset, asked, epochs=1, batch_size=8, train_images=24, validation_images=8)
    return training.fit(model, dataset.head(24, 8, 8), config, progress=False)


# ---------------------------------------------------------------------------------------------------------- folders


def picture(mode: str, width: int, height: int, number: int, alike: bool) -> Image.Image:
    values = np.random.default_rng(0 if alike else number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if mode in ("F", "I", "I;16"):
        grey = values[..., 0].astype({"F": np.float32, "I": np.int32, "I;16": np.uint16}[mode])
        return Image.fromarray(grey / 255 if mode == "F" else grey)
    return Image.fromarray(values).convert(mode)


def written(top: Path, case: dict) -> int:
    """The folder of a case; how many pictures are in it that can be read."""
    count = 0
    for part in case["splits"] or (".",):
        (top / part).mkdir(parents=True, exist_ok=True)
        for i, (name, n, mode, width, height, alike) in enumerate(case["classes"]):
            folder = top / part if case["flat"] else top / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(n):
                picture(mode, width, height, 100 * i + k, alike).save(folder / f"{i}-{k}.{MODES[mode]}")
            count += n
    for junk in case["junk"]:
        spoil(top, junk)
    return count


def spoil(top: Path, junk: str) -> None:
    if junk == "circle":
        with contextlib.suppress(OSError):
            (top / "again").symlink_to(top, target_is_directory=True)
    elif junk == "nested":
        (top / "deep" / "deeper").mkdir(parents=True, exist_ok=True)
    elif junk == "cut.png":
        buffer = io.BytesIO()
        picture("RGB", 40, 40, 0, False).save(buffer, "PNG")
        (top / junk).write_bytes(buffer.getvalue()[:200])
    else:
        (top / junk).write_bytes({"text.jpg": b"no picture", "notes.txt": b"hello"}.get(junk, b""))


@given(case=FOLDER)
@often
def folders(case):
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        top, loaded = Path(place) / "pictures", []
        top.mkdir()
        patch.setenv("DATA_DIR", str(Path(place) / "kept"))
        count = written(top, case)

        def work():
            loaded.append(data.load(str(top), size=28))
            return trained(loaded[0])

        _, said = outcome("folders", work)
        if loaded:
            dataset = loaded[0]
            kept = sum(len(dataset.part(split)[0]) for split in ("train", "validation", "test"))
            assert kept == count or "left out" in said, (kept, count, said)
            named = {name for name, n, *_ in case["classes"] if n} if not case["flat"] else set()
            assert case["flat"] or set(dataset.classes) == named or "left out" in said or "of one class" in said, (dataset.classes, said)
            labels = sum(dataset.part(split)[1].bincount(minlength=len(dataset.classes)) for split in ("train", "validation", "test"))
            assert int(labels.sum()) == kept


# ----------------------------------------------------------------------------------------------------------- arrays

PLAIN = {"dtype": "uint8", "n": 40, "side": (8, 8), "channels": None, "n_test": 20, "test": "alike", "labels": "none", "span": (0, 1)}
CHANGES = {
    "dtype": ["uint16", "float32", "float64", "int64", "bool", "object"],
    "n": [0, 1, 5, 11, 30],
    "side": [(8, 12), (9, 7), (1, 1), (4, 8), (30, 30)],
    "channels": [0, 1, 2, 3, 4, 5],
    "n_test": [0, 1, 2, 5],
    "test": ["larger", "empty"],
    "labels": ["whole", "names", "negative", "floats", "short", "square", "strangers"],
    "span": [(-1, 1), (0, 255), (0, math.nan), (0.5, 0.5)],
}
ARRAYS = st.lists(st.sampled_from([(key, value) for key, values in CHANGES.items() for value in values]), max_size=3).map(
    lambda some: PLAIN | dict(some)
)


def labelled(kind: str, n: int):
    whole = np.arange(n) % 3
    return {
        "whole": whole, "names": np.array(["a", "b", "c"])[whole], "negative": whole - 1, "floats": whole / 2, "short": whole[1:],
        "square": whole[:, None], "strangers": whole + 2,
    }[kind]  # fmt: skip


@given(case=ARRAYS)
@often
def arrays(case):
    n, n_test, labels = case["n"], case["n_test"] * (case["test"] != "empty"), case["labels"]
    shape = case["side"] if case["channels"] is None else (*case["side"], case["channels"])
    low, high = case["span"]
    values = np.random.default_rng(0).uniform(size=(n + n_test, *shape)) * (high - low) + low
    whole = case["dtype"].startswith(("uint", "int"))
    images = (np.nan_to_num(values).clip(0, 1) * 255).astype(case["dtype"]) if whole else values.astype(case["dtype"])
    other = np.concatenate([images[n:]] * 2, axis=1) if case["test"] == "larger" else images[n:]
    saved = {"train_images": images[:n], "test_images": other}
    if labels != "none":
        saved |= {"train_labels": labelled(labels, n), "test_labels": np.arange(n_test) % 3}
    with tempfile.TemporaryDirectory() as place:
        path, loaded = Path(place) / "mine.npz", []
        np.savez(path, **saved)

        def work():
            loaded.append(data.load(str(path)))
            return trained(loaded[0])

        _, said = outcome("arrays", work)
        if loaded:
            dataset = loaded[0]
            kept = [len(dataset.part(split)[0]) for split in ("train", "validation", "test")]
            assert kept[0] + kept[1] == n and (kept[2] == n_test or "left out" in said)
            assert len(dataset.classes) == (1 if labels == "none" else len(np.unique(saved["train_labels"])))


# --------------------------------------------------------------------------------------------------------- settings

WORDS = st.sampled_from(["", "None", "()", "(1,)", "(0,0)", "(2,-1)", "(1,2,1)", "(0.5,0.9)", "[]", "1;2", "nan", "inf", "True", "shout"])
VALUES = {
    int: st.integers(-1, 6).map(str),
    float: st.sampled_from(["-0.5", "0", "0.1", "0.3", "0.5", "0.9", "1.0", "1.5"]),
    bool: st.booleans().map(str),
    tuple: st.sampled_from(["(1,1)", "(2,4)", "(1,2,1)", "(0.5,0.9)", "(0,0)", "(2,-1)", "(1,)", "()"]),
}
WHOLE = [name for name, recipe in recipes.RECIPES.items() if not recipe.after]


def asked_of(name: str):
    """Settings of a model, "width=3": mostly of the right type; one is of no model."""
    config = recipes.RECIPES[name].kind.Config()
    types = {field: type(getattr(config, field)) for field in config.__dataclass_fields__ if field != "image_shape"} | {"widht": int}
    choices = {field: get_args(kind) for field, (kind, _) in declared(config).items() if get_origin(kind) is Literal}

    def pair(field):
        own = st.sampled_from(list(map(str, choices[field]))) if field in choices else VALUES[types[field]]
        return st.one_of(*[own] * 5, WORDS).map(lambda text: f"{field}={text}")

    return st.tuples(st.just(name), st.lists(st.sampled_from(sorted(types)).flatmap(pair), min_size=1, max_size=2))


@given(asked=st.sampled_from(WHOLE).flatmap(asked_of))
@often
def asked_for(asked):
    (name, pairs), digits = asked, data.load("digits")
    outcome("asked_for", lambda: trained(digits, name, recipes.settings_of(name, pairs)))


@pytest.mark.parametrize("cases", [folders, arrays, asked_for], ids=lambda cases: cases.__name__)
def test_whatever_comes(cases):
    """And it is not all so strange that it is refused, or so tame that it is not."""
    cases()
    kind, found = cases.__name__, COUNTS[cases.__name__]
    print(kind, dict(found))
    assert min(found["trained"], found["refused"]) > sum(found.values()) / 5
    if CASES > 200:
        path, what = (
            weights.RESULTS / "trouble.json",
            {"what": __doc__.splitlines()[0], "made_by": f"TROUBLE={CASES} python -m pytest tests/test_trouble.py"},
        )
        before = json.loads(path.read_text())["kinds"] if path.exists() else {}
        training.write_json(path, what | {"kinds": before | {kind: {"tried": sum(found.values()), **found}}})
