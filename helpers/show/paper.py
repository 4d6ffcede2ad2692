"""A sheet of paper in a notebook, drawn on by mouse, finger or keys."""

from pathlib import Path

import anywidget
import torch
import traitlets


class Paper(anywidget.AnyWidget):
    """One image that somebody draws, in grey. `sheet`: levels, 0 to 255, row by row, before anything is drawn; `value`: after, empty until then."""

    _esm = "\n".join(Path(__file__).with_name(name).read_text("utf-8") for name in ("stroke.js", "paper.js"))
    size = traitlets.Tuple(traitlets.Int(), traitlets.Int()).tag(sync=True)  # height, width
    sheet = traitlets.List(traitlets.Int()).tag(sync=True)
    value = traitlets.List(traitlets.Int()).tag(sync=True)

    def __init__(self, sheets):
        """On the first of sheets (N, C, H, W), uint8; `lay` takes another."""
        self.sheets = sheets.cpu()
        super().__init__(size=tuple(sheets.shape[2:]), sheet=self.grey(0))

    def grey(self, index: int) -> list[int]:
        return self.sheets[index].float().mean(0).round().int().flatten().tolist()

    def lay(self, index: int) -> None:
        """A sheet on which nothing has been drawn."""
        with self.hold_sync():
            self.sheet, self.value = self.grey(index), []

    def image(self, value, index: int) -> torch.Tensor:
        """What is drawn, or else that sheet: (1, C, H, W), uint8."""
        if not value:
            return self.sheets[index, None]
        return torch.tensor(value, dtype=torch.uint8).view(1, 1, *self.size).expand(1, self.sheets.shape[1], *self.size)
