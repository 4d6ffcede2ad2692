"""A sheet of paper in a notebook, drawn on by mouse, finger or keys."""

from pathlib import Path

import anywidget
import torch
import traitlets


class Paper(anywidget.AnyWidget):
    """One grey image that somebody draws. `sheet`: its levels, 0 to 255, row by row, before anything is drawn; `value`: after, empty until then."""

    _esm = "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("stroke.js", "paper.js"))
    size = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)  # height, width
    sheet = traitlets.List(traitlets.Int()).tag(sync=True)
    value = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, sheets):
        """On the first of sheets (N, 1, H, W), uint8; `lay` takes another."""
        self.sheets = sheets.cpu()
        super().__init__(size=tuple(sheets.shape[2:]), sheet=self.sheets[0].flatten().tolist())

    def lay(self, index: int) -> None:
        """A sheet on which nothing has been drawn."""
        with self.hold_sync():
            self.sheet, self.value = self.sheets[index].flatten().tolist(), []

    def image(self, value, index: int) -> torch.Tensor:
        """What is drawn, or else that sheet: (1, 1, H, W), uint8."""
        levels = torch.tensor(value, dtype=torch.uint8) if value else self.sheets[index].flatten()
        return levels.view(1, 1, *self.size)
