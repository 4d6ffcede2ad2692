"""Progress that fits where it is read: a bar that moves in a terminal or a notebook, a line each half minute in a file."""

import sys
import time

from tqdm import std
from tqdm.auto import tqdm

SECONDS = 30  # between two lines


class Lines(std.tqdm):
    """A bar that writes its state as a line now and then, and rewrites nothing."""

    said = None

    def display(self, msg=None, pos=None):
        now = time.monotonic()
        self.said = self.said or now
        if now - self.said >= SECONDS:
            self.said = now
            self.fp.write(f"{msg or self}\n")
            self.fp.flush()

    def clear(self, nolock=False):
        pass

    def close(self):
        if not self.disable:
            self.disable = True
            self._decr_instances(self)

    @classmethod
    def write(cls, s, file=None, end="\n", nolock=False):
        print(s, file=file or sys.stdout, end=end, flush=True)


def kind() -> type:
    """What shows progress here: standard error that is no terminal, as in a file or a log of CI, gets lines."""
    return tqdm if sys.stderr.isatty() or "ipykernel" in sys.modules else Lines


def bar(*arguments, **settings):
    """What tqdm(...) is."""
    return kind()(*arguments, **{"dynamic_ncols": True} | settings)


def write(text: str) -> None:
    """A line beside the bars."""
    kind().write(text)
