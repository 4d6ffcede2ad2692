"""Explorers of velocities: guidance, noise on the way, few steps, holes. `sliders` has them, too."""

import ipywidgets as widgets
import torch

from helpers.models import diffusion
from helpers.models.matching import evaluations
from helpers.show import plots
from helpers.show.explorer import Explorer, check_classes, choice, noise_of, one_of, scale_of, slider
from helpers.training import aside


def guided(model, classes, n: int = 8, last: int = 20, guidance: float = 1.0) -> Explorer:
    """Samples of flow matching: a slider for the class (the last is none), for the strength of guidance, for the solver's steps, for the noise.

    classes: the names of the classes.
    """
    check_classes(model, classes)
    names, noises = [*classes, "no class"], [noise_of(model, n, seed) for seed in range(last + 1)]

    def draw(model, label, guidance, steps, noise):
        labels = torch.full((n,), label, device=model.device) if label < len(classes) else None
        images = model.decode(noises[noise], labels, steps, guidance)
        asked = evaluations(steps) * (2 if guidance and labels is not None else 1)
        caption = f"{n} samples of {names[label]}, guidance {guidance:.2f}, {steps} steps: {asked} evaluations an image"
        return plots.grid(images, columns=8, scale=scale_of(images)), caption

    controls = {"label": choice("class", min(3, len(classes) - 1), names)}
    controls["guidance"] = slider("guidance", guidance, 0.0, 5.0, 0.25)
    controls["steps"] = slider("steps", 5, 1, 20, 1, widgets.IntSlider)
    return Explorer(model, draw, controls | {"noise": slider("noise", 0, 0, last, 1, widgets.IntSlider)})


def stirred(model, n: int = 8, last: int = 20) -> Explorer:
    """Samples of flow matching whose paths are stirred with noise: a slider for the strength c, for the steps, for the draw."""
    noises = [noise_of(model, n, seed) for seed in range(last + 1)]

    def draw(model, strength, steps, noise):
        torch.manual_seed(noise)  # of what stirs
        found = diffusion.stochastic(model.field(n=n), noises[noise].view(n, *model.point_shape), steps, strength)[-1]
        caption = f"{n} samples, strength c = {strength:.2f}, {steps} steps: {steps} evaluations an image"
        return plots.grid(model.images(found), columns=8, scale=scale_of(model.images(found))), caption

    controls = {"strength": slider("strength c", 0.5, 0.0, 4.0, 0.25), "steps": slider("steps", 20, 5, 50, 5, widgets.IntSlider)}
    return Explorer(model, draw, controls | {"noise": slider("noise", 0, 0, last, 1, widgets.IntSlider)})


def few_steps(model, classes, n: int = 8, last: int = 20) -> Explorer:
    """Samples of a flow map from the same noises, a row for each number of steps; sliders for class, for hops or jumps, for the noise."""
    check_classes(model, classes)
    names, noises = [*classes, "no class"], [noise_of(model, n, seed) for seed in range(last + 1)]
    ways, several = ("hops", "jumps, stirred"), range(model.config.grid.bit_length())

    def draw(model, label, way, noise):
        torch.manual_seed(noise)  # of what stirs
        labels = torch.full((n,), label, device=model.device) if label < len(classes) else None
        counts = [i + 1 if way else 2**i for i in several]
        drawn = torch.cat([model.decode(noises[noise], labels, steps=steps, stir=bool(way)) for steps in counts])
        caption = f"{names[label]}, noise {noise}; from top to bottom {', '.join(map(str, counts))} {ways[way]}, an evaluation each"
        return plots.grid(drawn, columns=n, scale=scale_of(drawn)), caption

    controls = {"label": choice("class", min(3, len(classes) - 1), names), "way": choice("way", 0, ways)}
    return Explorer(model, draw, controls | {"noise": slider("noise", 0, 0, last, 1, widgets.IntSlider)})


def filled(model, images, n: int = 5, steps: int = 10, last: int = 20) -> Explorer:
    """A part of one of `images` (N, C, H, W) is hidden and filled in by flow matching, n times: sliders for the image, the side, the
    share hidden, the repeats of each step, the draw."""
    with aside():
        known = model.points(images, noise=0.5)

    def draw(model, image, side, share, repeats, noise):
        torch.manual_seed(noise)
        mask = diffusion.hidden_side(model.config.image_shape, diffusion.SIDES[side], share, model.device)
        some = known[image].expand(n, *known.shape[1:])
        found = model.images(diffusion.inpaint(model.field(n=n), some, mask, steps, repeats))
        seen = torch.where(mask, model.images(some[:1]), 0.3)
        strip = torch.cat([model.images(some[:1]), seen, found])
        asked = f"{n} times the {diffusion.SIDES[side]} {share:.0%}, in {steps * repeats} evaluations"
        caption = f"image {image} · what is seen of it · {asked}, draw {noise}"
        return plots.grid(strip, columns=len(strip), scale=scale_of(strip)), caption

    controls = {"image": one_of(images), "side": choice("hidden side", 0, diffusion.SIDES)}
    controls |= {"share": slider("share hidden", 0.5, 0.1, 1.0, 0.1), "repeats": slider("repeats", 2, 1, 8, 1, widgets.IntSlider)}
    return Explorer(model, draw, controls | {"noise": slider("draw", 0, 0, last, 1, widgets.IntSlider)})
