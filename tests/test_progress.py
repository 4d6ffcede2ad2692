"""Progress in a file is a line now and then; in a terminal it is tqdm's."""

import io

from tqdm.auto import tqdm

from helpers import progress
from helpers.training.reports import BAR


def test_in_a_file_a_bar_is_a_line_each_half_minute_and_nothing_is_rewritten(monkeypatch):
    clock, file = [0.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with progress.Lines(total=100, file=file, mininterval=0, miniters=1) as bar:
        for _ in range(100):
            clock[0] += 1
            bar.update(1)
    lines = file.getvalue().splitlines()
    assert len(lines) == 3 and "\r" not in file.getvalue()
    assert all(f" {count}/100 " in line for count, line in zip((31, 61, 91), lines, strict=True))


def test_who_sees_what(monkeypatch):
    class Standard:
        def __init__(self, terminal):
            self.isatty = lambda: terminal

    monkeypatch.delitem(progress.sys.modules, "ipykernel", raising=False)
    for terminal, kind in ((True, tqdm), (False, progress.Lines)):
        monkeypatch.setattr(progress.sys, "stderr", Standard(terminal))
        assert progress.kind() is kind
    monkeypatch.setitem(progress.sys.modules, "ipykernel", None)
    assert progress.kind() is tqdm


def test_the_bar_of_two_players_fits_a_terminal():
    said = "discriminator 1.234, generator 0.891, epoch 60/60"
    line = tqdm.format_meter(51_540, 51_540, 7_000, ncols=80, bar_format=BAR, postfix=said)
    assert len(line) <= 80 and "discriminator 1.234, generator 0.891" in line
