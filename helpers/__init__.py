"""Image generative models, small enough to read: the package behind the notebooks."""

import difflib


class UserError(ValueError):
    """A problem that the user can mend. Its message is one sentence: what was given, what is allowed, what to do."""


def take(given: str, known, between: str = ", ") -> str:
    """What to say after a name that there is not: the one that was probably meant, and those that there are."""
    known = list(map(str, known))
    near = difflib.get_close_matches(given, known, n=1)
    known = known if len(known) < 100 else [*known[:2], f"... {known[-1]}"]
    return f"{f'did you mean {near[0]}? Take' if near else 'take'} one of {between.join(known)}"
