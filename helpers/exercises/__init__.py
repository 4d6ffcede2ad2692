"""Exercises that answer: `check("coupling", my_function)` says whether it is right, and if it is not, what about it is wrong.

Nothing is compared with a hidden number. Every check is a property that can be said in a sentence: a round trip, a gradient by autograd, a density of
torch.distributions, a case that is known. Solutions are in `solutions/`, one file a notebook.
"""

from collections.abc import Callable

import torch

from helpers import UserError, take
from helpers.exercises import autoregressive, flows, gans, latents, matching, vaes  # noqa: F401 (which fill the list)
from helpers.exercises.checks import EXERCISES, Wrong
from helpers.exercises.flows import points_on_a_ring  # noqa: F401 (data of an exercise)


def check(name: str, answer: Callable, seed: int = 0) -> bool:
    """Print whether `answer` solves the exercise `name`, and why not; True if it does. UserError for an exercise that there is not.

    seed: of the numbers that the answer is tried on; with others a hidden test asks for the same.
    """
    exercise = found(name)
    try:
        torch.manual_seed(seed)
        exercise.check(answer)
    except Wrong as wrong:
        print(f"{name}: not yet. {wrong}")
        return False
    except Exception as error:  # of the student's code, whatever it is
        print(f"{name}: not yet. It stops with {type(error).__name__}: {error}")
        return False
    print(f"{name}: right.")
    return True


def task(name: str) -> str:
    """One exercise as Markdown. UserError for an exercise that there is not."""
    one = found(name)
    return f"**Exercise** {'★' * one.stars}{'☆' * (3 - one.stars)} {one.task.replace('f(', f'{name}(', 1)}"


def found(name: str):
    if name not in EXERCISES:
        raise UserError(f"There is no exercise {name!r}: {take(name, EXERCISES)}.")
    return EXERCISES[name]


def tasks(notebook: int) -> str:
    """The exercises of a notebook as Markdown, the easiest first."""
    own = sorted(((name, one) for name, one in EXERCISES.items() if one.notebook == notebook), key=lambda pair: pair[1].stars)
    return "\n".join(f"* {'★' * one.stars} **{name}.** {one.task}" for name, one in own)


def predict(what: str, guess: float | None, truth: float, within: float = 0.1) -> None:
    """Say how a guess compares with what came out; no guess, and it says no more than that one is missing."""
    if guess is None:
        print(f"{what}: set your guess above, and run this cell again.")
    else:
        verdict = "well guessed" if abs(guess - truth) <= within * abs(truth) else "what makes the difference?"
        print(f"{what}: {truth:.3g}; your guess was {guess:.3g}: {verdict}.")
