"""Explorers of what is drawn piece by piece: pixels, words, and words all at once. `sliders` has them, too."""

from functools import lru_cache

import ipywidgets as widgets
import torch
from PIL import Image, ImageDraw

from helpers.models import diffusion
from helpers.models.layers import unit
from helpers.show import plots
from helpers.show.explorer import Explorer, check_classes, choice, one_of, scale_of, slider
from helpers.training import aside

UNKNOWN = 0.3  # the grey of what is not there yet


def in_turn(model, n: int):
    """The labels 0, 1, ... of n images, where the model is told some."""
    return torch.arange(n, device=model.device) % model.config.classes if model.labelled else None


def pixel_by_pixel(model, n: int = 8, last: int = 20) -> Explorer:
    """n images on their way, pixel after pixel: sliders for how many are drawn, for the temperature, for the draw."""
    height, width = model.config.image_shape[1:]

    @lru_cache(maxsize=8)
    def drawn(temperature, draw):
        torch.manual_seed(draw)
        return model.sample(n, temperature, in_turn(model, n))

    def draw(model, pixels, temperature, draw):
        images = drawn(temperature, draw)
        there = (torch.arange(height * width) < pixels).view(height, width).to(images.device)
        caption = f"the first {pixels} of {height * width} pixels of {n} images, temperature {temperature:.2f}, draw {draw}"
        return plots.grid(torch.where(there, images, UNKNOWN), columns=n, scale=scale_of(images)), caption

    controls = {"pixels": slider("pixels", height * width // 2, 0, height * width, width, widgets.IntSlider)}
    controls["temperature"] = slider("temperature", 1.0, 0.0, 1.2, 0.1)
    return Explorer(model, draw, controls | {"draw": slider("draw", 0, 0, last, 1, widgets.IntSlider)}, plays="pixels")


def expected(model, images) -> Explorer:
    """What is expected of one pixel of one of `images` (N, C, H, W), knowing those before it: sliders for the image, the row and the column."""
    channels, height, width = model.config.image_shape
    whole, highest = unit(images), model.config.levels - 1
    with aside():
        lines = model.lines(images)

    def draw(model, image, row, column):
        row, column = row - 1, column - 1  # people count from 1
        place = (row * width + column) * channels
        with torch.no_grad():
            odds = model.network(lines[image, None], model._label(None, 1), torch.tensor([place], device=model.device))[0].softmax(0).cpu()
        there = (torch.arange(height * width) < row * width + column).view(height, width).to(whole.device)
        scale = 2 * scale_of(images)
        seen = plots.grid(torch.where(there, whole[image], UNKNOWN)[None], scale=scale).convert("RGB")
        corner = column * scale, row * scale
        ImageDraw.Draw(seen).rectangle([*corner, corner[0] + scale, corner[1] + scale], outline="#d94801", width=2)
        chart = Image.new("RGB", (seen.width + 276, seen.height), "white")
        chart.paste(seen, (0, 0))
        bars, left, step = ImageDraw.Draw(chart), seen.width + 10, 256 / (highest + 1)
        for value, share in enumerate(((odds / odds.max()).sqrt() * (seen.height - 4)).tolist()):
            bars.rectangle([left + value * step, seen.height - share, left + (value + 1) * step - 1, seen.height], fill="#2171b5")
        truth, likeliest = lines[image].flatten()[place].item(), odds.argmax().item()
        caption = f"row {row + 1}, column {column + 1}: likeliest is {likeliest} ({odds[likeliest]:.0%}); "
        caption += f"it is {truth}, which costs {-odds[truth].log2():.1f} bits. Right: the values 0 to {highest}, heights are roots"
        return chart, caption

    controls = {"image": one_of(images)}
    controls["row"] = slider("row", height // 2 + 1, 1, height, 1, widgets.IntSlider)
    return Explorer(model, draw, controls | {"column": slider("column", width // 2 + 1, 1, width, 1, widgets.IntSlider)})


def continued(model, images, n: int = 6, last: int = 20) -> Explorer:
    """The first rows of one of `images` (N, C, H, W) are kept, and the rest is drawn pixel by pixel, n times."""
    height, width = images.shape[2:]
    whole = unit(images)

    def draw(model, image, kept, temperature, draw):
        torch.manual_seed(draw)
        known = (torch.arange(height) < kept)[:, None].expand(height, width)
        found = model.sample(n, temperature, start=images[image].expand(n, *images.shape[1:]), known=known)
        seen = torch.where(known.to(whole.device), whole[image], UNKNOWN)
        caption = f"image {image} · its first {kept} of {height} rows · {n} times continued, temperature {temperature:.2f}, draw {draw}"
        strip = torch.cat([torch.stack([whole[image], seen]), found])
        return plots.grid(strip, columns=len(strip), scale=scale_of(strip)), caption

    controls = {"image": one_of(images)}
    controls["kept"] = slider("rows kept", height // 2, 0, height, 2, widgets.IntSlider)
    controls["temperature"] = slider("temperature", 1.0, 0.0, 1.2, 0.1)
    return Explorer(model, draw, controls | {"draw": slider("draw", 0, 0, last, 1, widgets.IntSlider)})


def words(model, images) -> Explorer:
    """The words of one of `images` (N, C, H, W) under a codebook, as grey levels; the image of these words; and that with one of them exchanged."""
    rows, across = model.grid
    with aside():
        texts = model.encode(images)

    def draw(model, image, row, column, word):
        text, row, column = texts[image].clone(), row - 1, column - 1  # people count from 1
        place = row * across + column
        before, text[place] = text[place].item(), word
        rebuilt = model.decode(torch.stack([texts[image], text]))
        caption = f"image {image}: its words, with {word} for {before} in row {row + 1}, column {column + 1} · rebuilt as it was · and with that word"
        scale, (height, width) = 2 * scale_of(rebuilt), rebuilt.shape[2:]
        picture = plots.grid(torch.cat([plots.shades(model, text[None]), rebuilt]), columns=3, scale=scale).convert("RGB")
        patch = scale * width // across, scale * height // rows
        for i in range(3):  # the word's place, in each of the three
            left, top = plots.GAP + i * (scale * width + plots.GAP) + column * patch[0], plots.GAP + row * patch[1]
            ImageDraw.Draw(picture).rectangle([left - 1, top - 1, left + patch[0], top + patch[1]], outline="#ff9f1c", width=2)
        return picture, caption

    other = texts[-1, rows // 2 * across + across // 2].item()  # what the last image has there
    controls = {"image": one_of(images)}
    controls["row"] = slider("row", rows // 2 + 1, 1, rows, 1, widgets.IntSlider)
    controls["column"] = slider("column", across // 2 + 1, 1, across, 1, widgets.IntSlider)
    return Explorer(model, draw, controls | {"word": slider("word", other, 0, model.config.codes - 1, 1, widgets.IntSlider)})


def completed(model, images, classes=(), n: int = 8, last: int = 20) -> Explorer:
    """The words of one of `images` (N, C, H, W), kept row by row from the top, and a codebook's prior writes the rest: n times.

    classes: the names of the classes, where the prior was told them; a slider then says which.
    """
    if classes:
        check_classes(model, classes)
    rows, across = model.grid
    with aside():
        words = model.encode(images)
        rebuilt = model.decode(words)
    pixels = unit(images, rebuilt.dtype)

    def draw(model, image, kept, temperature, draw, **asked):
        torch.manual_seed(draw)
        start = words[image, : kept * across].expand(n, -1)
        labels = torch.full((n,), asked["label"], device=words.device) if classes else None
        strip = torch.cat([pixels[image, None], rebuilt[image, None], model.sample(n, temperature, labels, start)])
        told = f" as {classes[asked['label']]}" if classes else ""
        caption = f"image {image} · rebuilt from its words · {n} times its first {kept} of {rows} rows, completed{told}, draw {draw}"
        return plots.grid(strip, columns=len(strip), scale=scale_of(strip)), caption

    controls = {"image": one_of(images)}
    controls["kept"] = slider("rows kept", rows // 3, 0, rows, 1, widgets.IntSlider)
    controls |= {"label": choice("class", 0, classes)} if classes else {}
    controls["temperature"] = slider("temperature", 1.0, 0.0, 1.2, 0.05)
    return Explorer(model, draw, controls | {"draw": slider("draw", 0, 0, last, 1, widgets.IntSlider)})


def drafts(model, texts) -> torch.Tensor:
    """Images of texts (N, L) some of whose words are hidden: grey where they are."""
    hidden = (texts == model.config.codes).view(len(texts), 1, *model.grid)
    there = ~hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return torch.where(there, model.decode(texts.clamp(max=model.config.codes - 1)), UNKNOWN)


def passes(model, n: int = 8, last: int = 20) -> Explorer:
    """n images on their way, pass after pass of masked words: sliders for the pass, for how many there are, for the temperature, for the draw."""

    @lru_cache(maxsize=8)
    def drawn(steps, temperature, draw):
        torch.manual_seed(draw)
        empty = torch.full((n, model.latent_dim), model.config.codes, device=model.device)
        return [empty, *model.drafts(model._label(in_turn(model, n), n), temperature, steps, empty)]

    def draw(model, share, steps, temperature, draw):
        texts = drawn(steps, temperature, draw)
        done = round(share * steps / 8)
        settled = (texts[done][0] < model.config.codes).sum()
        caption = f"after {done} of {steps} passes {settled} of {model.latent_dim} words are settled, temperature {temperature:.2f}, draw {draw}"
        images = drafts(model, texts[done])
        return plots.grid(images, columns=n, scale=scale_of(images)), caption

    controls = {"share": slider("eighths done", 4, 0, 8, 1, widgets.IntSlider)}
    controls["steps"] = slider("passes in all", model.passes, 1, model.latent_dim, 1, widgets.IntSlider)
    controls["temperature"] = slider("temperature", 1.0, 0.0, 1.2, 0.1)
    return Explorer(model, draw, controls | {"draw": slider("draw", 0, 0, last, 1, widgets.IntSlider)}, plays="share")


def holes(model, images, n: int = 5, last: int = 20) -> Explorer:
    """A part of one of `images` (N, C, H, W) is hidden and filled in by masked words, n times: sliders for the image, the side, the share hidden."""
    whole = unit(images)

    def draw(model, image, side, share, steps, draw):
        torch.manual_seed(draw)
        mask = diffusion.hidden_side(model.config.image_shape, diffusion.SIDES[side], share, model.device)
        start = whole[image].expand(n, *whole.shape[1:])
        found = model.sample(n, steps=steps, start=start, known=mask.expand(model.config.image_shape)[0])
        strip = torch.cat([torch.stack([whole[image], torch.where(mask, whole[image], UNKNOWN)]), found])
        caption = f"image {image} · what is seen of it · {n} times the {diffusion.SIDES[side]} {share:.0%} in {steps} passes, draw {draw}"
        return plots.grid(strip, columns=len(strip), scale=scale_of(strip)), caption

    controls = {"image": one_of(images), "side": choice("hidden side", 0, diffusion.SIDES)}
    controls |= {
        "share": slider("share hidden", 0.5, 0.1, 1.0, 0.1),
        "steps": slider("passes", model.passes, 1, min(16, model.latent_dim), 1, widgets.IntSlider),
    }
    return Explorer(model, draw, controls | {"draw": slider("draw", 0, 0, last, 1, widgets.IntSlider)})
