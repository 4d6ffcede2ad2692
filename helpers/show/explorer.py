"""An explorer: controls above one picture that is redrawn in place.

Moving a slider sets the bytes of a single widgets.Image of fixed size, so nothing flickers or jumps, and setting
`.value` from a test does exactly what a hand does. Works with ipywidgets 7.7 (Colab's) and 8.
"""

import base64
import html
import random
from collections.abc import Callable

import ipywidgets as widgets
import torch
from IPython.display import display
from PIL import Image

from helpers import UserError
from helpers.show import plots
from helpers.training import aside


class Explorer:
    """Controls above one picture.

    draw(model, **values) -> (PIL image, caption): called with the value of each control, after each change.
    controls: name -> widget. Every picture must be of the size of the first. plays: a slider of whole numbers that a play button moves.
    dice: of these, sliders of whole numbers, which only number draws, a button rolls.
    """

    moving = False  # several controls at once

    def __init__(
        self,
        model,
        draw: Callable[..., tuple[Image.Image, str]],
        controls: dict[str, widgets.Widget],
        plays: str | None = None,
        dice: tuple[str, ...] = ("noise", "draw"),
    ):
        self.model, self.draw, self.controls = model, draw, controls
        self.picture = widgets.Image(format="png")
        self.caption = widgets.HTML()  # a Label would be cut off where the window is narrow
        self.refresh()
        size = self.image.size
        self.picture.width, self.picture.height = size
        # as wide as there is room for, and always as high: a picture that is exchanged must not move what stands below it
        self.picture.layout = widgets.Layout(width="100%", max_width=f"{size[0]}px", height=f"{size[1]}px", object_fit="contain")
        rows = [widgets.HBox([player(control), control]) if name == plays else control for name, control in controls.items()]
        start = {name: control.value for name, control in controls.items()}
        buttons = [button("reset", lambda: self.move(start))]
        rolled = [name for name in dice if isinstance(controls.get(name), widgets.IntSlider)]
        if rolled:
            buttons.append(button("roll", lambda: self.move({name: another(controls[name]) for name in rolled})))
        self.box = widgets.VBox([*rows, widgets.HBox(buttons), self.caption, self.picture])
        for control in controls.values():
            control.observe(self.refresh, names="value")

    def refresh(self, change=None) -> None:
        if self.moving:
            return
        with aside():
            self.image, caption = self.draw(self.model, **{name: control.value for name, control in self.controls.items()})
        self.picture.value = plots.small_png(self.image, optimize=False)
        self.caption.value = html.escape(caption)

    def move(self, values: dict) -> None:
        """Set several controls, and draw once."""
        self.moving = True
        try:
            for name, value in values.items():
                self.controls[name].value = value
        finally:
            self.moving = False
        self.refresh()

    def states(self, along: str, count: int) -> list[tuple[str, Image.Image]]:
        """Caption and picture at `count` values of one control, from its first to its last; the other controls stay where they are."""
        control, values = self.controls[along], {name: control.value for name, control in self.controls.items()}
        if isinstance(control, widgets.ToggleButtons):
            options = [value for _, value in control.options]
        else:
            options = [type(control.value)(control.min + i * control.step) for i in range(round((control.max - control.min) / control.step) + 1)]
        places = dict.fromkeys(round(i * (len(options) - 1) / max(1, count - 1)) for i in range(count))
        found = []
        with aside():
            for place in places:
                image, caption = self.draw(self.model, **values | {along: options[place]})
                found.append((caption, image))
        return found

    def show(self, *along: str, count: int = 6) -> None:
        """Display the widget, and for viewers that show no widgets its picture at `count` values of each control named (default: the first)."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        along = along or (next(iter(self.controls)),)
        self.picture.value = plots.small_png(self.image)  # the same picture, smaller: what a notebook keeps
        states = list(dict(state for name in along for state in self.states(name, count)).items())  # by caption: where two controls cross, once
        alt = f"{len(states)} states of the slider {' and '.join(along)}: {states[0][0]} ... {states[-1][0]}"
        moved = ", ".join(getattr(control, "description", "") or name for name, control in self.controls.items())
        sheet = plots.captioned(plots.contact_sheet(states), f"Run this cell to move: {moved}. Without that, {len(states)} states:")
        png = base64.b64encode(plots.small_png(sheet)).decode()
        shown = {"application/vnd.jupyter.widget-view+json": view, "image/png": png, "text/plain": alt}
        display(shown, raw=True, metadata={"image/png": {"alt": alt}})


def player(control: widgets.IntSlider) -> widgets.Play:
    """A button that moves a slider of whole numbers by itself; the browser links them."""
    button = widgets.Play(value=control.value, min=control.min, max=control.max, step=control.step, interval=500)
    widgets.jslink((button, "value"), (control, "value"))
    return button


def button(text: str, pressed: Callable[[], None]) -> widgets.Button:
    found = widgets.Button(description=text, layout=widgets.Layout(width="auto"))
    found.on_click(lambda _: pressed())
    return found


def another(control: widgets.IntSlider) -> int:
    """A value of a slider that it has not, at random: not of the generator that draws images."""
    return random.choice([value for value in range(control.min, control.max + 1) if value != control.value])


STYLE = {"description_width": "110px"}


def slider(label, value, low, high, step, kind=widgets.FloatSlider):
    layout = widgets.Layout(width="100%", max_width="460px")
    return kind(value=value, min=low, max=high, step=step, description=label, style=STYLE, layout=layout)


def choice(label, value, names):
    """A button for each name, of which one is pressed; its value is that name's place."""
    options = [(str(name), i) for i, name in enumerate(names)]
    style = STYLE | {"button_width": "auto"}
    return widgets.ToggleButtons(options=options, value=min(value, len(names) - 1), description=label, style=style)


def one_of(images, label: str = "image", value: int = 0):
    """A button for each of the first twelve images, which have no order."""
    return choice(label, value, range(min(12, len(images))))


def check_classes(model, classes):
    if model.config.classes != len(classes):
        raise UserError(f"{len(classes)} names of classes were given: this model has {model.config.classes or 'none'}.")


def scale_of(images):
    """Screen pixels an image pixel, so that an image is about 84 high."""
    return max(1, 84 // images.shape[2])


def noise_of(model, n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, model.latent_dim, generator=generator, dtype=model.dtype).to(model.device)
