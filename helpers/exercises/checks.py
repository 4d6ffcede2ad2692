"""What the checks of exercises are made of, and where they are kept."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


class Wrong(Exception):
    """What is wrong with an answer, in a sentence."""


@dataclass(frozen=True)
class Exercise:
    notebook: int
    stars: int  # 1 to 3
    check: Callable  # of the answer; raises Wrong

    @property
    def task(self) -> str:
        return " ".join(self.check.__doc__.split())


EXERCISES: dict[str, Exercise] = {}


def exercise(notebook: int, stars: int):
    def register(function):
        EXERCISES[function.__name__] = Exercise(notebook, stars, function)
        return function

    return register


def given(found, shape: tuple, what: str = "The result"):
    """A finite tensor of that shape in float32, whatever it was computed in, or Wrong."""
    if found is None:
        raise Wrong("It returns nothing yet.")
    if isinstance(found, float | int) and not shape:
        found = torch.tensor(float(found))
    if not isinstance(found, torch.Tensor):
        raise Wrong(f"{what} should be a tensor of shape {shape}, and is a {type(found).__name__}.")
    if tuple(found.shape) != shape:
        raise Wrong(f"{what} has the shape {tuple(found.shape)}, and should have {shape}.")
    if not found.isfinite().all():
        raise Wrong(f"{what} is not finite everywhere.")
    return found.float()


def two(found, shapes: tuple, names: tuple):
    if found is None:
        raise Wrong("It returns nothing yet.")
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise Wrong(f"It should return two things: {names[0]} and {names[1]}.")
    return [given(one, shape, f"{name[0].upper()}{name[1:]}") for one, shape, name in zip(found, shapes, names, strict=True)]


def same(found, expected, why: str, tolerance: float = 1e-5) -> None:
    if not torch.allclose(found, torch.as_tensor(expected, dtype=found.dtype).expand_as(found), rtol=tolerance, atol=tolerance):
        raise Wrong(why)


def logdet(function, x):
    """log |det| of the Jacobian of function at each row of x (N, D), by autograd."""
    return torch.stack([torch.autograd.functional.jacobian(lambda one: function(one[None])[0], row).slogdet().logabsdet for row in x])
