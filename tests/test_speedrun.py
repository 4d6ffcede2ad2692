"""The speedrun: a recipe meets its own claim or is not recorded."""

import json
from dataclasses import replace

import pytest

from helpers import measures, recipes, speedrun, weights

TINY = speedrun.Goal("neg_elbo", 70.0, "vae", "digits", minutes=0.02, measure="elbo", profile="smoke")


def test_goals_are_of_recipes_and_measures_that_there_are():
    for goal in speedrun.GOALS.values():
        kind = recipes.RECIPES[goal.model].kind
        assert goal.measure in measures.MEASURES and goal.measure in kind.measures
        assert set(goal.settings) | set(goal.after) <= set(kind.Config.__dataclass_fields__)


@pytest.mark.parametrize(("limit", "at_least", "met"), [(70.0, False, True), (1.0, False, False), (1.0, True, True)])
def test_a_recipe_meets_its_claim_or_is_not_recorded(limit, at_least, met, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "RESULTS", tmp_path)
    monkeypatch.setattr(speedrun, "GOALS", {"tiny": replace(TINY, limit=limit, at_least=at_least)})
    record = speedrun.run(seeds=(0, 1))
    assert ("tiny" in record["goals"]) == met == (tmp_path / "speedrun.json").exists()
    if met:
        runs = json.loads((tmp_path / "speedrun.json").read_text())["goals"]["tiny"]["runs"]
        assert [run["seed"] for run in runs] == [0, 1] and all(run["met"] and run["seconds"] > 0 for run in runs)


def test_the_record_is_of_the_recipes():
    path = weights.RESULTS / "speedrun.json"
    if path.exists():
        for name, found in json.loads(path.read_text())["goals"].items():
            assert found["recipe"] == json.loads(json.dumps(speedrun.asdict(speedrun.GOALS[name]))), name
            assert all(speedrun.GOALS[name].met(run["value"]) for run in found["runs"])
