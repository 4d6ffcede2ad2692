"""What can be explored: each function makes an Explorer of a model, with the sliders that move through what it learned."""

import math
from collections.abc import Callable

import ipywidgets as widgets
import torch
from PIL import Image, ImageDraw

from helpers import UserError
from helpers.models.layers import unit
from helpers.show import plots
from helpers.show.explorer import Explorer, check_classes, choice, noise_of, one_of, scale_of, slider
from helpers.show.paper import Paper
from helpers.show.piece_sliders import completed, continued, expected, holes, passes, pixel_by_pixel, words  # noqa: F401 (which belong here, too)
from helpers.show.velocity_sliders import few_steps, filled, guided, stirred  # noqa: F401 (which belong here, too)
from helpers.training import aside


def temperature(model, n: int = 16, seed: int = 0, highest: float = 1.2, told: Callable | None = None) -> Explorer:
    """The same n latents at every temperature, so that what changes in the picture is the temperature alone.

    told(latents, images) -> what else to say of them in the caption.
    """
    noise = noise_of(model, n, seed)

    def draw(model, temperature):
        images, more = model.decode(temperature * noise), ""
        if told is not None:
            more = "; " + told(temperature * noise, images)
        return plots.grid(images, scale=scale_of(images)), f"{n} samples at temperature {temperature:.2f} (the model's own is 1.00){more}"

    return Explorer(model, draw, {"temperature": slider("temperature", min(0.8, highest), 0.0, highest, 0.05)})


def chosen(model, classes, n: int = 8, seed: int = 0) -> Explorer:
    """n samples of a chosen class of a conditional model, a slider for the class of each part: the latents stay the same.

    classes: the names of the classes of one part.
    """
    count, parts = model.config.classes, model.config.parts
    check_classes(model, classes)
    noise = noise_of(model, n, seed)
    names = ["class"] if parts == 1 else ["left", "right"] if parts == 2 else [f"part {i + 1}" for i in range(parts)]

    def draw(model, temperature, **columns):
        label = sum(column * count**i for i, column in enumerate(reversed(columns.values())))
        images = model.decode(temperature * noise, torch.full((n,), label, device=noise.device))
        asked = " and ".join(classes[column] for column in columns.values())
        caption = f"{n} samples of {asked} at temperature {temperature:.2f}"
        return plots.grid(images, columns=min(n, 16 // (2 * parts)), scale=scale_of(images)), caption

    controls = {name: choice(name, (3, 7)[i % 2] % count, classes) for i, name in enumerate(names)}
    return Explorer(model, draw, controls | {"temperature": slider("temperature", 0.8, 0.0, 1.2, 0.05)})


def classes_and_noise(model, classes, n: int = 8, last: int = 20) -> Explorer:
    """Samples of a conditional GAN: a slider for the class, one for which noise is drawn, one for how far out it reaches.

    classes: the names of the classes. Truncation multiplies the noise: nearer to 0 samples are more typical, and more alike.
    """
    check_classes(model, classes)
    noises = [noise_of(model, n, seed) for seed in range(last + 1)]

    def draw(model, label, noise, truncation):
        images = model.decode(truncation * noises[noise], torch.full((n,), label, device=noises[noise].device))
        return plots.grid(images, columns=8, scale=scale_of(images)), f"{n} samples of {classes[label]}, noise {noise} multiplied by {truncation:.2f}"

    controls = {"label": choice("class", 3, classes)}
    controls["noise"] = slider("noise", 0, 0, last, 1, widgets.IntSlider)
    return Explorer(model, draw, controls | {"truncation": slider("truncation", 1.0, 0.0, 2.0, 0.05)})


def morph(model, classes, n: int = 6, seed: int = 0) -> Explorer:
    """Within a class and between two: n samples of a conditional GAN on their way to n others.

    The noise moves along an arc, the class along a line between the learned vectors of two labels, each by its own slider.
    """
    check_classes(model, classes)
    start, end = noise_of(model, n, seed), noise_of(model, n, seed + 1)

    def draw(model, first, second, towards, noise):
        a, b = (torch.full((n,), label, device=start.device) for label in (first, second))
        images = model.blend(slerp(start, end, noise), a, b, towards)
        return plots.grid(
            images, columns=n, scale=scale_of(images)
        ), f"{towards:.0%} of the way from {classes[first]} to {classes[second]}; noise {noise:.0%} of its own"

    controls = {name: choice(name, value, classes) for name, value in (("first", 3), ("second", 8))}
    return Explorer(model, draw, controls | {name: slider(name, value, 0.0, 1.0, 0.05) for name, value in (("towards", 0.5), ("noise", 0.0))})


def growth(model, n: int = 8, seed: int = 0) -> Explorer:
    """A ProGAN at each of its stages: the resolution and how far its newest layers are faded in, by hand."""
    noise, size = noise_of(model, n, seed), model.config.image_shape[1:]

    def draw(model, stage, alpha):
        resolution = model.resolutions[stage]
        images = torch.nn.functional.interpolate(model.decode(noise, resolution=resolution, alpha=alpha), size=size)
        what = "the stage before, enlarged" if alpha == 0 and stage else "between two stages" if alpha < 1 and stage else "this stage alone"
        return plots.grid(images, columns=n, scale=scale_of(images)), f"{resolution} pixels high, α = {alpha:.2f}: {what}"

    last = len(model.resolutions) - 1
    return Explorer(model, draw, {"stage": slider("stage", last, 0, last, 1, widgets.IntSlider), "alpha": slider("α", 1.0, 0.0, 1.0, 0.05)})


def between(models: dict, images) -> Explorer:
    """Between any two of `images` (N, C, H, W), by each of `models`, name -> model: along the chord, and along the arc about its prior's mean."""
    with aside():
        latents = {name: model.encode(images) for name, model in models.items()}
        centres = {name: model.prior(1, 0.0) for name, model in models.items()}  # of an autoencoder the mean code
    pixels = unit(images)

    def draw(models, first, second, position):
        strip = [pixels[first], torch.lerp(pixels[first], pixels[second], position)]
        for name, model in models.items():
            a, b, centre = latents[name][first, None], latents[name][second, None], centres[name]
            strip += [*model.decode(torch.cat([(1 - position) * a + position * b, centre + slerp(a - centre, b - centre, position)])).float()]
        strip = torch.stack([*strip, pixels[second]])
        names = [f"image {first}", "pixels\nblended", *(f"{name}\n{way}" for name in models for way in ("chord", "arc")), f"image {second}"]
        return plots.labelled(strip, names, scale_of(strip)), f"at {position:.2f} between image {first} and image {second}"

    controls = {name: one_of(images, name, value) for name, value in (("first", 0), ("second", 1))}
    return Explorer(models, draw, controls | {"position": slider("position", 0.5, 0.0, 1.0, 0.05)})


def plane(model, images, labels, classes) -> Explorer:
    """A latent space of two dimensions: a map of the codes of `images`, coloured by class, and the image at any point of it."""
    if model.latent_dim != 2:
        raise UserError(f"This model has {model.latent_dim} latents: a plane needs one that was trained with 2.")
    with aside():
        codes = model.encode(images).float().cpu()
    low, high = ([math.floor(10 * value) / 10 for value in ends.tolist()] for ends in (codes.amin(0), codes.amax(0) + 0.1))
    background, place = plots.scatter_map(codes, labels.cpu(), classes)

    def draw(model, horizontal, vertical):
        z = torch.tensor([[horizontal, vertical]], dtype=model.dtype, device=model.device)
        image = plots.grid(model.decode(z), scale=background.height // images.shape[2] - 1).convert("RGB")
        canvas = Image.new("RGB", (background.width + image.width, background.height), "white")
        canvas.paste(background)
        canvas.paste(image, (background.width, 0))
        _cross(canvas, *place(horizontal, vertical))
        return canvas, f"the image at ({horizontal:.2f}, {vertical:.2f})"

    # on whole steps: a browser would move a slider there by itself, and say so again and again
    axes = zip(("horizontal", "vertical"), codes.mean(0).tolist(), low, high, strict=True)
    return Explorer(model, draw, {name: slider(name, round(value, 1), a, b, 0.1) for name, value, a, b in axes})


def flipbook(pages: dict, name: str = "step", first: int = 0) -> Explorer:
    """Pictures made beforehand, caption -> PIL image, all of one size, a slider from one to the next, beginning with page `first`."""
    captions = list(pages)

    def draw(pages, **page):
        caption = captions[page[name]]
        return pages[caption], caption

    control = slider(name, first, 0, len(pages) - 1, 1, widgets.IntSlider)
    control.readout = False  # the number of a page; the caption has that of the thing
    return Explorer(pages, draw, {name: control}, plays=name)


def redrawn(model, parts: dict[str, slice], n: int = 8, seed: int = 0, temperature: float = 0.8, last: int = 20) -> Explorer:
    """n samples whose latents are drawn anew part by part; `parts`: name -> which latents, in order, each part with a slider of its own.

    UserError where a part has no latents, or a latent no part.
    """
    sizes = [len(range(model.latent_dim)[part]) for part in parts.values()]
    if not all(sizes) or sum(sizes) != model.latent_dim:
        raise UserError(f"Parts of {sizes} latents were given: this model has {model.latent_dim}, of which each must be in one part.")
    noises = [noise_of(model, n, seed + i) for i in range(last + 1)]

    def draw(model, **draws):
        images = model.decode(temperature * torch.cat([noises[draws[name]][:, part] for name, part in parts.items()], dim=1))
        return plots.grid(images, columns=n, scale=scale_of(images)), ", ".join(f"{name} latents of draw {i}" for name, i in draws.items())

    return Explorer(model, draw, {name: slider(f"{name} latents", 0, 0, last, 1, widgets.IntSlider) for name in parts}, dice=tuple(parts))


def drawn(models: dict, sheets, names: list[str] | None = None) -> Explorer:
    """Draw an image, and see what each of `models`, name -> model, makes of it: encoded and decoded.

    sheets (N, C, H, W), uint8: what one may begin with.
    """
    controls = _paper(sheets, names)

    def draw(models, sheet, paper):
        image = controls["paper"].image(paper, sheet)
        rebuilt = {name: model.decode(model.encode(image.to(model.device))).float().cpu() for name, model in models.items()}
        far = {name: (found - unit(image)).square().mean().item() for name, found in rebuilt.items()}
        strip = torch.cat([unit(image), *rebuilt.values()])
        caption = "mean squared error a pixel: " + ", ".join(f"{name} {error:.4f}" for name, error in far.items())
        return plots.labelled(strip, ["drawn", *rebuilt], 2 * scale_of(strip)), caption

    return Explorer(models, draw, controls)


def pen(model, sheets, classes, names: list[str] | None = None) -> Explorer:
    """Draw, and see what a conditional flow thinks of the drawing: its bits per dimension, all labels being equally likely, and the
    posterior of each label.

    sheets (N, 1, H, W), uint8: what one may begin with.
    """
    check_classes(model, classes)
    controls, (height, width) = _paper(sheets, names), sheets.shape[2:]

    def draw(model, sheet, paper):
        image = controls["paper"].image(paper, sheet).to(model.device)
        log_p = model.class_log_probs(image)[0]
        bits = -(log_p.logsumexp(0).item() - math.log(len(classes))) / (height * width * math.log(2))
        shares = dict(zip(classes, log_p.softmax(0).tolist(), strict=True))
        seen = plots.grid(image, scale=2 * scale_of(image)).convert("RGB")
        return plots.beside(seen, plots.bars(shares)), f"{bits:.3f} bits/dim, read as {max(shares, key=shares.get)}"

    return Explorer(model, draw, controls)


def _paper(sheets, names) -> dict:
    """The controls of a drawing: which sheet it begins with, and the sheet itself."""
    paper, sheet = Paper(sheets), choice("sheet", 0, names or [f"sheet {i}" for i in range(len(sheets))])
    sheet.observe(lambda change: paper.lay(change["new"]), names="value")
    return {"sheet": sheet, "paper": paper}


def walk(model, image, directions, reach: float = 3.0) -> Explorer:
    """Steps from `image` (C, H, W) along one of `directions` (K, D) in latent space, in units of that direction."""
    if directions.ndim != 2 or directions.shape[1] != model.latent_dim:
        raise UserError(f"Directions of shape {tuple(directions.shape)} were given: they must be (K, {model.latent_dim}).")
    with aside():
        start = model.encode(image[None])
    offsets = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=start.dtype, device=start.device)[:, None]

    def draw(model, direction, step):
        images = model.decode(start + (step + offsets) * directions[direction])
        caption = f"direction {direction}: steps {', '.join(f'{step + k:+g}' for k in range(-2, 3))} from the image's code"
        return plots.grid(images, columns=5, scale=scale_of(images)), caption

    controls = {
        "direction": slider("direction", 0, 0, len(directions) - 1, 1, widgets.IntSlider),
        "step": slider("step", 0.0, -reach, reach, 0.25),
    }
    return Explorer(model, draw, controls)


def dimensions(model, images, order, names=None, reach: float = 3.0) -> Explorer:
    """Every latent of `order` at once, a slider each, around the code of one of `images` (N, C, H, W), which is chosen too.

    order: indices of latents, for instance the active ones by their KL; names: index -> what a latent was found to stand for.
    UserError for a latent that this model doesn't have.
    """
    order, names = [int(k) for k in order], names or {}
    for k in [*order, *names]:
        if not 0 <= k < model.latent_dim:
            raise UserError(f"There is no latent {k}: this model's are 0 to {model.latent_dim - 1}.")
    with aside():
        codes = model.encode(images)
    pixels = unit(images, codes.dtype)

    def draw(model, image, **steps):
        moved = codes[image].clone()
        for k, step in zip(order, steps.values(), strict=True):
            moved[k] += step
        strip = torch.cat([pixels[image, None], model.decode(torch.stack([codes[image], moved]))])
        far = ", ".join(f"z{k} {step:+.1f}" for k, step in zip(order, steps.values(), strict=True) if step)
        return plots.grid(strip, columns=3, scale=2 * scale_of(strip)), f"test image {image} · rebuilt · moved by {far or 'nothing'}"

    controls = {"image": one_of(images)}
    controls |= {f"z{k}": slider(f"z{k} {names.get(k, '')}".strip(), 0.0, -reach, reach, 0.25) for k in order}
    return Explorer(model, draw, controls)


def rate_distortion(models: dict, images, points: dict, n: int = 6, seed: int = 0) -> Explorer:
    """Along models of several β, label -> VAE: the point on the curve of rate and distortion, images rebuilt, and samples.

    points: label -> (rate, distortion) in nats, of all of these labels, and maybe of more.
    """
    if not set(models) <= set(points):
        raise UserError(f"Models {', '.join(models)} but points {', '.join(points)} were given: give a point for each model.")
    labels, first = list(models), next(iter(models.values()))
    noise = noise_of(first, n, seed)
    background, place = plots.curve_map(points, "rate: KL, nats an image", "distortion: reconstruction, nats an image")
    with aside():
        codes = {label: model.encode(images[:n]) for label, model in models.items()}
    pixels = unit(images[:n], noise.dtype)

    def draw(models, beta):
        label = labels[beta]
        strip = torch.cat([pixels, models[label].decode(torch.cat([codes[label], noise]))])
        picture = plots.grid(strip, columns=n, scale=max(1, background.height // (3 * strip.shape[2]))).convert("RGB")
        canvas = Image.new("RGB", (background.width + picture.width, max(background.height, picture.height)), "white")
        canvas.paste(background)
        canvas.paste(picture, (background.width, 0))
        rate, distortion = points[label]
        _cross(canvas, *place(rate, distortion))
        return canvas, f"{label}: rate {rate:.1f}, distortion {distortion:.1f} nats · rows: test images, rebuilt, samples"

    return Explorer(models, draw, {"beta": slider("β", min(3, len(labels) - 1), 0, len(labels) - 1, 1, widgets.IntSlider)})


def _cross(canvas, x, y, colour="black") -> None:
    """A cross with a white rim."""
    pen = ImageDraw.Draw(canvas)
    for radius, width, fill in ((12, 7, "white"), (10, 3, colour)):
        pen.line([(x - radius, y), (x + radius, y)], fill=fill, width=width)
        pen.line([(x, y - radius), (x, y + radius)], fill=fill, width=width)


def slerp(a, b, t: float):
    """Between latents a and b (N, D) along the arc of a sphere: Gaussian noise lives near one, its chords don't (White 2016)."""
    unit_a, unit_b = (v / v.norm(dim=1, keepdim=True) for v in (a, b))
    angle = (unit_a * unit_b).sum(1, keepdim=True).clamp(-1, 1).acos().clamp_min(1e-6)
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)
