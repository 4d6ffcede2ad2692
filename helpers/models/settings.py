"""What a setting of a model may be: each field of a configuration says it in its type, and one check reads them all.

width: Size = 32            a whole number from 1 up
network: Literal["conv", "mlp"] = "conv"
couplings: tuple[Count, ...] = (4, 6)     each of them from 0 up
stages: Annotated[Size, Only("network", ("conv",))] = 2     and nobody reads it where the network is another
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

from helpers import UserError, take


@dataclass(frozen=True)
class Within:
    """Numbers from low to high; below: high itself is too much."""

    low: float
    high: float = math.inf
    below: bool = False

    def holds(self, value) -> bool:
        return self.low <= value < self.high or (value == self.high < math.inf and not self.below)  # a NaN is nowhere

    def __str__(self) -> str:
        return f"from {self.low:g} " + ("up" if self.high == math.inf else f"to {'below ' * self.below}{self.high:g}")


@dataclass(frozen=True)
class Only:
    """A setting that is read only where another one has one of these values; without any, where that is above 0."""

    setting: str
    values: tuple[str, ...] = ()

    def holds(self, config) -> bool:
        found = getattr(config, self.setting)
        return found in self.values if self.values else bool(found)

    def __str__(self) -> str:
        return f"{self.setting} is {' or '.join(self.values) or 'above 0'}"


Size = Annotated[int, Within(1)]
Count = Annotated[int, Within(0)]
Weight = Annotated[float, Within(0)]
Share = Annotated[float, Within(0, 1)]
Rest = Annotated[float, Within(0, 1, below=True)]  # a decay, a dropout: never all of it


def declared(config) -> dict:
    """name -> the type of a setting, and what else is said of it: its range (`Within`), where it is read (`Only`)."""
    found = {}
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        inside, said = (get_args(kind)[0], kind.__metadata__) if get_origin(kind) is Annotated else (kind, ())
        found[name] = inside, said
    return found


def check(config) -> None:
    """UserError for the first setting that is out of its range, or none of its names."""
    for name, (kind, said) in declared(config).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise UserError(f"There is no {name} {value!r}: {take(str(value), get_args(kind))}.")
        several = get_origin(kind) is tuple
        if several and get_args(kind)[-1] is not Ellipsis and len(value) != len(get_args(kind)):
            raise UserError(f"{name} = {value} was given: take {len(get_args(kind))} numbers.")
        for allowed in getattr(get_args(kind)[0], "__metadata__", ()) if several else said:
            if isinstance(allowed, Within) and not all(map(allowed.holds, value if several else (value,))):
                raise UserError(f"{name} = {value} was given: take {'numbers' if several else 'a number'} {allowed}.")


def check_read(config, asked) -> None:
    """UserError for the first of the settings `asked` for that is not as it is by default, and that nobody would read."""
    usual = type(config)()
    for name, (_, said) in declared(config).items():
        given = getattr(config, name)
        for only in said if name in asked and given != getattr(usual, name) else ():
            if isinstance(only, Only) and not only.holds(config):
                raise UserError(f"{name} = {given} was given, which is read only where {only}: it is {getattr(config, only.setting)}.")
