"""What a number is: its heading, its unit, how it is said, and how far it may lie when it is measured again."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """One number of a record. Measured again, on another machine with other random numbers, it may differ by a share of the
    recorded value (`relative`) or absolutely, whichever is more; by default not at all."""

    heading: str = ""  # of a column in a table
    digits: int = 2
    relative: float = 0.0
    absolute: float = 0.0
    said: str = ""  # with its unit, "{:.2f} nats", among the few numbers that people ask for; "": not one of them

    def agrees(self, found, recorded) -> bool:
        """Whether a value measured again is the recorded one, within its tolerance."""
        if isinstance(found, float | int) and isinstance(recorded, float | int):
            return abs(found - recorded) <= max(self.relative * abs(recorded), self.absolute)
        return found == recorded


@dataclass(frozen=True)
class Measure:
    """A function of a helpers.measures.Task that finds some metrics, and what each of them is; what is not named here must be the same again."""

    find: Callable[..., dict]
    metrics: dict[str, Metric] = field(default_factory=dict)
