"""Where this repository can be read on the web: what opens a lesson on Colab must say it."""

import contextlib
import os
import re
import subprocess
from pathlib import Path

from helpers import UserError

LINE = re.compile(r'REPOSITORY = \\"[^"\\]*\\"')  # as the first cell of a notebook has it, within JSON


def address() -> str | None:
    """https://github.com/owner/name, of the variable REPOSITORY or of git's origin; None where that is nowhere on GitHub."""
    found = os.environ.get("REPOSITORY")
    if not found:
        with contextlib.suppress(OSError):  # without git there is no origin
            found = subprocess.run(["git", "remote", "get-url", "origin"], cwd=Path(__file__).parent, capture_output=True, text=True).stdout
    match = re.search(r"github\.com[/:]([\w.-]+)/([\w.-]+?)(?:\.git)?/?$", (found or "").strip())
    if match is None and os.environ.get("REPOSITORY"):
        raise UserError(f"REPOSITORY={found} was given: take an address like https://github.com/owner/name.")
    return f"https://github.com/{match[1]}/{match[2]}" if match else None


def badge(notebook: str) -> str:
    """A link that opens a notebook on Colab, as Markdown on a line of its own; nothing where the address is not known."""
    found = address()
    if found is None:
        return ""
    target = found.replace("https://github.com", "https://colab.research.google.com/github")
    return f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({target}/blob/HEAD/{notebook})<br>"


def carry(notebooks) -> None:
    """Put the address into the first cell of each of these notebooks, so that on Colab it needs not ask."""
    found = address()
    for path in notebooks if found else ():
        text = path.read_text("utf-8")
        path.write_text(LINE.sub(lambda _: f'REPOSITORY = \\"{found}\\"', text, count=1), "utf-8")
