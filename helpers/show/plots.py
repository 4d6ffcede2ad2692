"""Pictures: grids of images, training curves, and the source of a class shown in place."""

import base64
import inspect
import io
import math
import os
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, display
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

from helpers.models.layers import levels

SCALE = 2  # screen pixels an image pixel
GAP = 2  # screen pixels between images
FONT = ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 10)  # comes with matplotlib, and has Greek letters
HEADLINE = "application/vnd.image-generative-models.headline+json"  # how a notebook hands its numbers to `make run`


ROUNDING = 1e-3  # by which floats may miss [0, 1] and still be images


def to_uint8(images) -> np.ndarray:
    """(N, C, H, W), uint8 or floats in [0, 1], as uint8 (N, H, W, C); a float is put into its bin of 256. UserError for what is neither."""
    images = images.detach()
    if images.is_floating_point():
        images = images.float()
        images = torch.where((images - 0.5).abs() < 0.5 + ROUNDING, images.clamp(0, 1), images)
    return levels(images).cpu().permute(0, 2, 3, 1).numpy()


def grid(images, columns: int | None = None, scale: int = SCALE) -> Image.Image:
    """Images (N, C, H, W) side by side, `columns` to a row (default: as square as it gets), as one PIL image."""
    pixels = to_uint8(images)
    n, height, width, channels = pixels.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + GAP, width * scale + GAP
    canvas = np.full((rows * height + GAP, columns * width + GAP, channels), 96, dtype=np.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * height + GAP, i % columns * width + GAP
        canvas[top : top + height - GAP, left : left + width - GAP] = image
    return Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas)


def labelled(images, names: list[str], scale: int = SCALE) -> Image.Image:
    """Images (N, C, H, W) in a row, each under its name (of up to two lines), as one PIL image: fast enough for a slider."""
    strip = grid(images, columns=len(names), scale=scale).convert("RGB")
    canvas, width = Image.new("RGB", (strip.width, strip.height + 26), "white"), images.shape[3] * scale + GAP
    canvas.paste(strip, (0, 26))
    for i, name in enumerate(names):
        ImageDraw.Draw(canvas).multiline_text((i * width + width / 2, 13), name, fill="black", font=FONT, anchor="mm", align="center", spacing=1)
    return canvas


def shades(model, words) -> torch.Tensor:
    """The words (N, L) of a codebook as images (N, C, H, W), each a grey level over its patch; near levels say nothing of near words."""
    channels, height, width = model.config.image_shape
    levels = (words / (model.config.codes - 1)).view(-1, 1, *model.grid)
    return torch.nn.functional.interpolate(levels, size=(height, width)).expand(-1, channels, -1, -1)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def show(picture, alt: str) -> None:
    """Show a matplotlib figure, which is closed, or a PIL image, as a PNG of at most 256 colours. alt: what is seen, for who can't see it."""
    if isinstance(picture, plt.Figure):
        figure, picture = picture, rendered(picture, 100)
        plt.close(figure)
    encoded = base64.b64encode(small_png(picture)).decode()
    display({"image/png": encoded, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def rendered(figure, dpi: int) -> Image.Image:
    """A figure as a PIL image without its empty margins."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return Image.open(buffer)


def small_png(image: Image.Image, optimize: bool = True) -> bytes:
    """A PIL image as a small PNG: grey ones as they are, others in the 256 colours that are nearest. optimize: smaller yet, and slower."""
    rgb = image.convert("RGB")
    bands, buffer = rgb.split(), io.BytesIO()
    grey = all(band.tobytes() == bands[0].tobytes() for band in bands[1:])
    small = bands[0] if grey else rgb.quantize(256, dither=Image.Dither.NONE)
    small.save(buffer, format="PNG", optimize=optimize)
    return buffer.getvalue()


def rows(named: dict, title: str, scale: float = 0.55, columns: int | None = None):
    """A figure with one row of images for each entry of `named`, label -> images (N, C, H, W)."""
    strips = {label: grid(images, columns=columns or len(images)) for label, images in named.items()}
    ratio = [strip.height / strip.width for strip in strips.values()]
    width = min(11.0, max(scale * (columns or max(len(images) for images in named.values())), 3.0))
    figure, axes = plt.subplots(
        len(strips), 1, figsize=(width + 1.4, width * sum(ratio) + 0.08 * len(strips) + 0.4), height_ratios=ratio, squeeze=False, layout="constrained"
    )
    for axis, (label, strip) in zip(axes[:, 0], strips.items(), strict=True):
        axis.imshow(strip, cmap="gray", vmin=0, vmax=255, aspect="equal")
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


def named(images, names: list[str], title: str, columns: int = 8):
    """A figure of images (N, C, H, W), each under its name."""
    count, aspect = math.ceil(len(images) / columns), images.shape[2] / images.shape[3]
    figure, axes = plt.subplots(count, columns, figsize=(1.15 * columns, (1.1 * aspect + 0.25) * count + 0.4), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, pixels, name in zip(axes.flat, to_uint8(images), names, strict=False):
        axis.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255)
        axis.set_title(name, fontsize=8, pad=2)
    figure.suptitle(title)
    return figure


def curves(epochs: list[dict], title: str, unit: str, reference: dict | None = None):
    """Training and validation loss by epoch; `reference`: label -> value, drawn as horizontal lines."""
    figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    numbers = [row["epoch"] for row in epochs]
    axis.plot(numbers, [row["train_loss"] for row in epochs], "o-", label="training (mean since the last point)")
    axis.plot(numbers, [row["validation_loss"] for row in epochs], "s-", label="validation")
    for i, (label, value) in enumerate((reference or {}).items()):
        axis.axhline(value, color=f"C{i + 2}", linestyle="--", label=f"{label}: {value:.3f}")
    axis.set(xlabel="epoch", ylabel=unit, title=title)
    axis.grid(alpha=0.3)
    axis.legend()
    return figure


def lines(rows: dict, title: str, unit: str, reference: dict | None = None, axis=None):
    """Numbers by epoch: `rows`, label -> list of (epoch, value); `reference`: label -> value, drawn as horizontal lines."""
    if axis is None:
        _, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for label, points in rows.items():
        axis.plot(*zip(*points, strict=True), "o-", markersize=3, label=label)
    for i, (label, value) in enumerate((reference or {}).items()):
        axis.axhline(value, color=f"C{i}", linestyle="--", label=f"{label}: {value:.2f}")
    axis.set(xlabel="epoch", ylabel=unit, title=title)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    return axis.figure


def scatter_map(codes, labels, classes, size: int = 360):
    """A map of codes (N, 2) coloured by class, as a PIL image, and a function from a code to its pixel there."""
    figure = plt.figure(figsize=(size / 100 * 1.3, size / 100), dpi=100)
    axis = figure.add_axes((0.09, 0.08, 0.65, 0.9))
    for label, name in enumerate(classes):
        axis.scatter(*codes[labels == label].T, s=3, color=plt.get_cmap("tab10")(label % 10), label=name)
    axis.legend(markerscale=3, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return _map(figure, axis)


def importance(log_weights, k: int):
    """Importance weights (K,) of one image and the bound of the first k of them: a caption, and a histogram as a PIL image."""
    bound = (log_weights[:k].logsumexp(0) - math.log(k)).item()
    edges = torch.linspace(*log_weights.aminmax(), 40).tolist()
    figure, axis = plt.subplots(figsize=(5.2, 2.4), layout="constrained")
    axis.hist(log_weights.cpu(), edges, color="lightgrey", label=f"all {len(log_weights):,}")
    axis.hist(log_weights[:k].cpu(), edges, label=f"the first {k:,}")
    axis.axvline(bound, color="C3", label=f"their bound: {bound:.1f}")
    axis.set(xlabel="log weight of a draw, nats", ylabel="draws", yscale="log")
    axis.legend(fontsize=7, loc="upper left")
    return f"K = {k:,}: {bound:.1f} nats", picture(figure)


def curve_map(points: dict, xlabel: str, ylabel: str, size: int = 320):
    """A curve through `points`, label -> (x, y), as a PIL image, and a function from a point to its pixel there."""
    figure = plt.figure(figsize=(size / 100 * 1.2, size / 100), dpi=100)
    axis = figure.add_axes((0.16, 0.13, 0.81, 0.84))
    axis.plot(*zip(*points.values(), strict=True), "o-", markersize=4)
    for label, point in points.items():
        axis.annotate(label, point, xytext=(6, 4), textcoords="offset points", fontsize=7)
    axis.margins(0.18, 0.1)
    axis.set_xlabel(xlabel, fontsize=8)
    axis.set_ylabel(ylabel, fontsize=8)
    axis.grid(alpha=0.3)
    return _map(figure, axis)


def _map(figure, axis):
    """A figure as a PIL image, and a function from the coordinates of its axis to pixels; the figure is closed."""
    axis.tick_params(labelsize=7)
    picture_, height, to_pixels = picture(figure), figure.bbox.height, axis.transData.frozen()

    def place(x, y):
        right, up = to_pixels.transform((x, y))
        return float(right), float(height - up)

    return picture_, place


def picture(figure) -> Image.Image:
    """A figure as a PIL image of its own size, 100 pixels an inch; the figure is closed."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    plt.close(figure)
    return Image.open(buffer).convert("RGB")


def beside(*pictures) -> Image.Image:
    """PIL images side by side on white, in the middle of the highest."""
    height = max(one.height for one in pictures)
    canvas, left = Image.new("RGB", (sum(one.width for one in pictures) + 6 * (len(pictures) - 1), height), "white"), 0
    for one in pictures:
        canvas.paste(one, (left, (height - one.height) // 2))
        left += one.width + 6
    return canvas


def contact_sheet(pages: list[tuple[str, Image.Image]], widest: int = 1_080) -> Image.Image:
    """(caption, PIL image) pairs, all of one size, on one sheet: as many to a row as fit, at most three; large ones three to a row, made smaller."""
    first = pages[0][1]
    fit = (widest + 12) // (first.width + 12)
    columns = min(len(pages), 3 if fit > 2 or first.width <= 2.5 * first.height else max(1, fit))
    shrunk = min(1.0, (widest - 12 * (columns - 1)) / columns / first.width)
    size = round(first.width * shrunk), round(first.height * shrunk)
    made = [captioned(image.convert("RGB").resize(size, Image.Resampling.LANCZOS) if shrunk < 1 else image, caption) for caption, image in pages]
    height = max(one.height for one in made) + 8
    canvas = Image.new("RGB", (columns * (size[0] + 12) - 12, math.ceil(len(made) / columns) * height - 8), "white")
    for i, one in enumerate(made):
        canvas.paste(one, (i % columns * (size[0] + 12), i // columns * height))
    return canvas


def bars(values: dict, width: int = 230, height: int = 17) -> Image.Image:
    """Shares of 1 as horizontal bars, name -> value, as a PIL image: fast enough for a slider."""
    canvas = Image.new("RGB", (width, height * len(values)), "white")
    pen, full = ImageDraw.Draw(canvas), width - 100
    for i, (name, value) in enumerate(values.items()):
        top = i * height
        pen.text((2, top + 3), str(name)[:10], fill="black", font=FONT)
        pen.rectangle((58, top + 3, 58 + max(1, round(full * value)), top + height - 3), fill=(31, 119, 180))
        pen.text((64 + full * value, top + 3), f"{value:.2f}", fill="black", font=FONT)
    return canvas


def captioned(image: Image.Image, caption: str, line: int = 15) -> Image.Image:
    """A PIL image with its caption above it, broken into lines that fit."""
    text = textwrap.wrap(caption, max(20, image.width // 6))
    canvas = Image.new("RGB", (image.width, image.height + line * len(text) + 4), "white")
    canvas.paste(image, (0, canvas.height - image.height))
    for i, row in enumerate(text):
        ImageDraw.Draw(canvas).text((2, 1 + line * i), row, fill="black", font=FONT)
    return canvas


def source(*objects) -> None:
    """Show the highlighted source of classes or functions, so that a notebook never holds a second copy of them."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    code = "\n\n".join(inspect.getsource(thing) for thing in objects)
    look = "color: #222; font-size: 12px; line-height: 1.35; padding: 8px; overflow-x: auto; white-space: pre"  # on the style's own light ground
    formatter = HtmlFormatter(noclasses=True, style="default", prestyles=look)
    display(HTML(highlight(code, PythonLexer(), formatter)))


def table(header: list[str], rows: list[list], caption: str = "") -> None:
    """Show a small table; floats get four digits."""

    def text(value):
        return f"{value:.4f}" if isinstance(value, float) else str(value)

    head = "".join(f"<th style='text-align:left'>{name}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td style='text-align:left'>{text(value)}</td>" for value in row) + "</tr>" for row in rows)
    plain = "\n".join(" | ".join(text(value) for value in row) for row in [header, *rows])
    html = f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    display({"text/html": html, "text/plain": plain}, raw=True)


def headline(dataset: str, **metrics) -> None:
    """Show what this notebook measured; `make run` collects it for its table."""
    text = ", ".join([dataset, *(f"{name} {value}" for name, value in metrics.items())])
    display({HEADLINE: {"dataset": dataset} | metrics, "text/plain": text}, raw=True)


def keep(name: str, content: bytes) -> None:
    """A picture of a run goes under runs/; those of README and REPORT, in imgs/, change only by `make pictures`, which sets PICTURES."""
    folder = Path(os.environ.get("PICTURES", "runs/imgs"))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def save(figure, name: str) -> None:
    """Keep a figure as a PNG."""
    keep(name, small_png(rendered(figure, 110)))


def film(frames: dict, name: str | None = None, milliseconds: int = 250, columns: int | None = None) -> bytes:
    """An animated GIF of `frames`, label -> images (N, C, H, W), the label above each; kept where it has a name."""
    pictures = []
    for label, images in frames.items():
        picture = grid(images, columns).convert("L" if images.shape[1] == 1 else "RGB")
        canvas = Image.new(picture.mode, (picture.width, picture.height + 16), "white")
        canvas.paste(picture, (0, 16))
        ImageDraw.Draw(canvas).text((4, 2), label, fill="black", font=FONT)
        pictures.append(canvas)
    buffer = io.BytesIO()
    times = [milliseconds] * (len(pictures) - 1) + [8 * milliseconds]
    pictures[0].save(buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0, optimize=True)
    if name:
        keep(name, buffer.getvalue())
    return buffer.getvalue()


def show_film(gif: bytes) -> None:
    """Show an animated GIF, inside the notebook itself."""
    code = base64.b64encode(gif).decode()
    display({"text/html": f"<img src='data:image/gif;base64,{code}'>", "text/plain": f"a film of {len(gif):,} bytes"}, raw=True)
