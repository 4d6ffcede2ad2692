"""Drawings that stand before a formula: what goes where. Each function returns a matplotlib figure; nothing in them is measured."""

import itertools
import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

KEPT, CHANGED, NETWORK, LATENT = "#9ecae1", "#fdae6b", "#d9d9d9", "#a1d99b"  # told apart by a colour-blind eye, too
INK = "#333333"


def canvas(width: float, height: float, title: str = "", scale: float = 1.0):
    """An empty axis on which a unit is `scale` inches, its origin in the lower left corner."""
    figure, axis = plt.subplots(figsize=(width * scale, height * scale), layout="constrained")
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal", title=title)
    axis.axis("off")
    return figure, axis


def box(axis, x, y, width, height, text="", colour="white", size=10):
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08", facecolor=colour, edgecolor=INK))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size, color=INK)


def arrow(axis, start, end, text="", colour=INK, style="-|>", bend=0.0, size=9, offset=(0.0, 0.1), **how):
    patch = FancyArrowPatch(
        start, end, arrowstyle=style, mutation_scale=13, color=colour, connectionstyle=f"arc3,rad={bend}", shrinkA=0, shrinkB=0, **how
    )
    axis.add_patch(patch)
    middle = ((start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1])
    axis.text(*middle, text, ha="center", va="bottom", fontsize=size, color=colour)


def cells(axis, x, y, colours, side=0.4, numbers=None):
    """A grid of squares, colours[row][column], its upper left corner at (x, y); numbers: what stands in each."""
    for i, row in enumerate(colours):
        for j, colour in enumerate(row):
            corner = (x + j * side, y - (i + 1) * side)
            axis.add_patch(Rectangle(corner, side, side, facecolor=colour, edgecolor="white"))
            if numbers is not None:
                axis.text(corner[0] + side / 2, corner[1] + side / 2, numbers[i][j], ha="center", va="center", fontsize=8, color=INK)


def normal(x):
    return np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


# ---------------------------------------------------------------------------------------------------------- flows


def change_of_variables():
    """A bend in one dimension: equal masses under the density of z, left, and under that of x, below."""
    x = np.linspace(-2.6, 2.6, 400)
    z, slope = x + 0.9 * np.tanh(2 * x) - 0.35 * x, 0.65 + 1.8 / np.cosh(2 * x) ** 2
    figure, axes = plt.subplots(2, 2, figsize=(6.4, 4.6), width_ratios=(1, 2.6), height_ratios=(2.2, 1), layout="constrained")
    (left, curve), (corner, below) = axes
    corner.axis("off")
    curve.plot(x, z, color=INK)
    curve.set(title="an invertible map z = f(x)", xlim=(-2.6, 2.6), ylim=(-2.8, 2.8))
    left.fill_betweenx(z, normal(z), color=KEPT)
    left.set(ylabel="z", title="known: p(z)", xlim=(0.45, 0), ylim=(-2.8, 2.8), xticks=[])
    below.fill_between(x, normal(z) * slope, color=CHANGED)
    below.set(xlabel="x", ylabel="p(x)", xlim=(-2.6, 2.6), ylim=(0, None), yticks=[])
    for low, high in ((-0.12, 0.12), (1.25, 1.75)):
        inside = (x >= low) & (x <= high)
        curve.fill_between(x[inside], -2.8, z[inside], color=CHANGED, alpha=0.5, linewidth=0)
        curve.fill_betweenx(z[inside], -2.6, x[inside], color=KEPT, alpha=0.5, linewidth=0)
        below.fill_between(x[inside], (normal(z) * slope)[inside], color="#d94801")
        left.fill_betweenx(z[inside], normal(z[inside]), color="#08519c")
    below.set_title("dark: the same mass; p(x) = p(z) × the slope of f", fontsize=9)
    return figure


def coupling():
    """One coupling: the kept part goes through and steers what happens to the other; and two ways to choose the parts."""
    figure, axis = canvas(10, 3.6)
    for y, name, colour in ((2.55, "A", KEPT), (0.45, "B", CHANGED)):
        box(axis, 0.2, y, 1.0, 0.7, f"$x_{name}$", colour, 13)
        box(axis, 5.4, y, 1.0, 0.7, f"$z_{name}$", colour, 13)
    arrow(axis, (1.2, 2.9), (5.4, 2.9), "unchanged")
    box(axis, 1.5, 1.5, 1.5, 0.7, "network", NETWORK)
    arrow(axis, (2.25, 2.9), (2.25, 2.2))
    box(axis, 2.6, 0.45, 0.8, 0.7, "+ t", "white", 12)
    box(axis, 4.0, 0.45, 0.9, 0.7, "× $e^s$", "white", 12)
    arrow(axis, (1.2, 0.8), (2.6, 0.8))
    arrow(axis, (3.4, 0.8), (4.0, 0.8))
    arrow(axis, (4.9, 0.8), (5.4, 0.8))
    arrow(axis, (2.9, 1.5), (3.0, 1.15), "t", offset=(0.17, -0.05))
    arrow(axis, (3.0, 1.8), (4.45, 1.15), "s", bend=-0.25, offset=(0.25, 0.2))
    for x, name, kept in ((7.0, "checkerboard", lambda i, j: (i + j) % 2 == 0), (8.7, "halves", lambda i, j: j < 2)):
        cells(axis, x, 2.6, [[KEPT if kept(i, j) else CHANGED for j in range(4)] for i in range(4)], 0.32)
        axis.text(x + 0.64, 2.75, name, ha="center", fontsize=10, color=INK)
    axis.text(7.0, 0.75, "a mask of 1s (A: kept)\nand 0s (B: changed)", fontsize=9, va="center", color=INK)
    return figure


def dequantisation():
    """From whole numbers to a density on the line: the bins, noise that fills them, the logit."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 2.7), layout="constrained")
    levels, mass = np.arange(8), np.array([0.46, 0.06, 0.04, 0.03, 0.04, 0.06, 0.09, 0.22])
    axes[0].vlines(levels, 0, mass, color="#d94801", linewidth=3)
    axes[0].plot(levels, mass, "o", color="#d94801")
    axes[0].set(title="1. whole numbers: probabilities P(x)", xlabel="grey level (8 of them here)", ylim=(0, 0.55))
    axes[1].bar((levels + 0.5) / 8, mass, width=0.97 / 8, color=CHANGED)
    axes[1].annotate("", (0, 0.49), (1 / 8, 0.49), arrowprops={"arrowstyle": "<->", "color": INK})
    axes[1].text(0.15, 0.47, "a bin, filled by noise u", fontsize=9, color=INK)
    axes[1].set(title="2. (x + u) / levels: a density on [0, 1]", xlabel="y", ylim=(0, 0.55))
    z = np.linspace(-6, 6, 600)
    y = 1 / (1 + np.exp(-z))
    axes[2].fill_between(z, 8 * mass[np.minimum((y * 8).astype(int), 7)] * y * (1 - y), color=KEPT)
    axes[2].set(title="3. logit: a density on the whole line", xlabel="z = log(y / (1 - y))", ylim=(0, None))
    for axis in axes:
        axis.set_yticks([])
    return figure


PATCH = ("#9ecae1", "#fdae6b", "#a1d99b", "#dadaeb")  # the four pixels of a 2x2 patch


def squeeze_and_split():
    """A 4x4 image becomes four channels of 2x2; half of them leave as latents, the others are squeezed again."""
    figure, axis = canvas(10, 3.0)
    colours = [[PATCH[2 * (i % 2) + j % 2] for j in range(4)] for i in range(4)]
    numbers = [[str(4 * i + j + 1) for j in range(4)] for i in range(4)]
    cells(axis, 0.2, 2.4, colours, 0.45, numbers)
    axis.text(1.1, 0.25, "1 channel, 4×4", ha="center", fontsize=9)
    arrow(axis, (2.2, 1.5), (3.0, 1.5), "squeeze")
    for k in range(4):
        part = [[numbers[2 * i + k // 2][2 * j + k % 2] for j in range(2)] for i in range(2)]
        cells(axis, 3.2 + 1.15 * (k % 2), 2.6 - 1.15 * (k // 2), [[PATCH[k]] * 2] * 2, 0.45, part)
    axis.text(4.2, 0.05, "4 channels, 2×2", ha="center", fontsize=9)
    arrow(axis, (5.6, 1.5), (6.4, 1.5), "couplings")
    box(axis, 6.6, 1.75, 1.5, 0.8, "2 channels:\nlatents", NETWORK, 9)
    box(axis, 6.6, 0.5, 1.5, 0.8, "2 channels:\ngo on", "white", 9)
    arrow(axis, (8.1, 2.15), (9.6, 2.15), "done")
    arrow(axis, (8.1, 0.9), (9.6, 0.9), "squeeze again")
    return figure


# -------------------------------------------------------------------------------------------------- flow matching


def matching():
    """Two lines of training that cross, and the velocity where they do: the mean of both directions."""
    figure, axis = canvas(9, 3.6)
    ends = (((0.8, 0.7), (6.2, 3.1)), ((0.8, 2.9), (6.2, 0.5)))
    for (start, end), name in zip(ends, ("", "'"), strict=True):
        axis.plot(*zip(start, end, strict=True), color="#999999", linestyle="--", linewidth=1)
        axis.add_patch(Circle(start, 0.13, facecolor="white", edgecolor=INK))
        axis.add_patch(Circle(end, 0.13, facecolor=CHANGED, edgecolor=INK))
        axis.text(start[0] - 0.25, start[1], f"noise $x_0{name}$", ha="right", va="center", fontsize=10)
        axis.text(end[0] + 0.25, end[1], f"data $x_1{name}$", va="center", fontsize=10)
    here = (3.275, 1.8)
    for start, end in ends:
        arrow(axis, here, (here[0] + (end[0] - start[0]) / 4, here[1] + (end[1] - start[1]) / 4), colour="#2171b5")
    arrow(axis, here, (here[0] + 1.35, here[1]), colour="#d94801", linewidth=2.5)
    axis.text(4.75, 1.8, "the mean direction: $v(x, t)$", color="#d94801", va="center", fontsize=10)
    axis.text(here[0], here[1] + 0.55, "$x_t$", ha="center", fontsize=11)
    axis.text(3.3, 0.15, "blue: the two lines go on differently from here", ha="center", color="#2171b5", fontsize=9)
    axis.set_xlim(-1, 9)
    return figure


def guidance():
    """Two velocities at one point, told nothing and told the class, and guided ones beyond the second."""
    figure, axis = canvas(9, 3.4)
    here, free, told = (0.8, 0.6), (4.6, 0.7), (4.0, 1.7)
    beyond = [(told[0] + w * (told[0] - free[0]), told[1] + w * (told[1] - free[1])) for w in (0.5, 1.0)]
    axis.plot(*zip(free, beyond[-1], strict=True), color="#999999", linestyle="--", linewidth=1)
    arrow(axis, here, free, colour="#2171b5", linewidth=2)
    arrow(axis, here, told, colour=INK, linewidth=2)
    for end in beyond:
        arrow(axis, here, end, colour="#d94801", linewidth=1.5)
    axis.add_patch(Circle(here, 0.1, facecolor=INK))
    axis.text(0.8, 0.25, "$x_t$", ha="center", fontsize=11)
    for place, text, colour in (
        (free, "$v(x, t)$: told nothing", "#2171b5"),
        (told, "$v(x, t | y)$: told the class, $w = 0$", INK),
        (beyond[0], "guided, $w = 0.5$", "#d94801"),
        (beyond[1], "guided, $w = 1$", "#d94801"),
    ):
        axis.text(place[0] + 0.2, place[1], text, va="center", fontsize=10, color=colour)
    return figure


def chord():
    """A bent path: the velocity at its start, the chord of all of it, and those of its two halves."""
    figure, axis = canvas(9, 3.4)
    s = np.linspace(0, 1, 100)
    x, y = 0.8 + 6.4 * s, 0.7 + 2.3 * s**3
    points = [(x[i], y[i]) for i in (0, 50, 99)]
    axis.plot(x, y, color="#999999", linewidth=2)
    arrow(axis, points[0], (points[0][0] + 2.4, points[0][1]), colour="#2171b5", linewidth=2)
    arrow(axis, points[0], points[2], colour="#d94801", linewidth=2)
    for start, end in itertools.pairwise(points):
        arrow(axis, start, end, colour="#d94801", linewidth=1.2, linestyle=":")
    for place, colour in zip(points, ("white", "white", CHANGED), strict=True):
        axis.add_patch(Circle(place, 0.11, facecolor=colour, edgecolor=INK, zorder=3))
    axis.text(0.6, 0.7, "noise, $t = 0$", ha="right", va="center", fontsize=10)
    axis.text(7.4, points[2][1], "image, $s = 1$", va="center", fontsize=10)
    axis.text(1.2, 0.3, "velocity: where to, now", color="#2171b5", fontsize=10)
    axis.text(3.6, 2.2, "mean velocity:\nthe chord of the whole way", ha="right", color="#d94801", fontsize=10)
    axis.text(5.9, 1.25, "dotted: the two halves", color="#d94801", fontsize=10)
    axis.set_xlim(-1, 9)
    return figure


def latent():
    """An autoencoder that stays as it is, and a velocity from noise to its codes."""
    figure, axis = canvas(9.4, 2.6)
    for i, (text, colour) in enumerate(
        (("image\n784 pixels", "white"), ("encoder", NETWORK), ("code\n32 numbers", LATENT), ("decoder", NETWORK), ("image", "white"))
    ):
        box(axis, 0.2 + 1.85 * i, 1.5, 1.35, 0.8, text, colour)
        if i:
            arrow(axis, (1.85 * i - 0.3, 1.9), (0.2 + 1.85 * i, 1.9))
    box(axis, 0.2 + 1.85 * 2, 0.1, 1.35, 0.6, "noise", LATENT)
    arrow(axis, (4.575, 0.7), (4.575, 1.5), colour="#d94801", linewidth=2.5)
    axis.text(4.75, 1.1, "a velocity, of codes", color="#d94801", va="center", fontsize=10)
    return figure


# ------------------------------------------------------------------------------------- autoencoders, codebooks, GANs


def elbo():
    """An autoencoder whose code is a distribution, and the two terms of its bound: where each is measured."""
    figure, axis = canvas(11, 3.4)
    for x, text, colour in ((0.2, "image $x$", CHANGED), (9.5, "$p(x | z)$", CHANGED)):
        box(axis, x, 1.6, 1.3, 0.8, text, colour, 11)
    box(axis, 2.1, 1.6, 1.3, 0.8, "encoder", NETWORK)
    box(axis, 4.0, 1.6, 1.5, 0.8, "$q(z | x)$", KEPT, 11)
    box(axis, 5.9, 1.6, 1.1, 0.8, "draw $z$", "white", 10)
    box(axis, 7.6, 1.6, 1.3, 0.8, "decoder", NETWORK)
    for start, end in ((1.5, 2.1), (3.4, 4.0), (5.5, 5.9), (7.0, 7.6), (8.9, 9.5)):
        arrow(axis, (start, 2.0), (end, 2.0))
    box(axis, 4.0, 0.1, 1.5, 0.7, "prior $N(0, I)$", LATENT, 10)
    arrow(axis, (4.75, 0.8), (4.75, 1.6), style="<|-|>", colour="#d94801")
    axis.text(4.95, 1.2, "KL: how far the code is from the prior", color="#d94801", va="center", fontsize=10)
    arrow(axis, (10.15, 2.4), (0.85, 2.4), style="<|-|>", colour="#d94801", bend=0.13)
    axis.text(5.5, 3.12, "reconstruction: how likely the image is under what comes out", color="#d94801", ha="center", fontsize=10)
    return figure


def codebook():
    """A picture, its grid of vectors, the number of the nearest word of each, and the way back."""
    figure, axis = canvas(11, 3.4)
    box(axis, 0.2, 1.2, 1.2, 1.0, "image", CHANGED)
    box(axis, 1.9, 1.2, 1.2, 1.0, "encoder", NETWORK)
    cells(axis, 3.6, 2.3, [["#deebf7", "#9ecae1", "#deebf7"], ["#c6dbef", "#6baed6", "#9ecae1"], ["#deebf7", "#c6dbef", "#9ecae1"]])
    axis.text(4.2, 0.75, "a vector\nat each place", ha="center", fontsize=9)
    for i, colour in enumerate(("#deebf7", "#c6dbef", "#9ecae1", "#6baed6")):
        cells(axis, 5.2 + 0.42 * i, 3.2, [[colour]], 0.4, [[str(i)]])
    axis.text(7.0, 2.98, "codebook: four words", va="center", fontsize=9)
    arrow(axis, (4.9, 1.7), (6.3, 1.7), "nearest word", offset=(0, 0.05))
    cells(axis, 6.5, 2.3, [[c] * 3 for c in ("white",) * 3], 0.4, [["0", "2", "0"], ["1", "3", "2"], ["0", "1", "2"]])
    axis.add_patch(Rectangle((6.5, 1.1), 1.2, 1.2, fill=False, edgecolor=INK))
    axis.text(7.1, 0.75, "words: what is kept,\nand what a prior writes", ha="center", va="center", fontsize=9)
    box(axis, 8.2, 1.2, 1.2, 1.0, "decoder", NETWORK)
    box(axis, 9.8, 1.2, 1.1, 1.0, "image", CHANGED)
    for start, end in ((1.4, 1.9), (3.1, 3.6), (7.7, 8.2), (9.4, 9.8)):
        arrow(axis, (start, 1.7), (end, 1.7))
    return figure


def players():
    """A GAN's two networks, and which way each of them pulls the score of a fake image."""
    figure, axis = canvas(10.5, 3.4)
    box(axis, 0.2, 0.8, 1.2, 0.8, "noise $z$", LATENT)
    box(axis, 1.9, 0.8, 1.5, 0.8, "generator G", NETWORK)
    box(axis, 3.9, 0.8, 1.3, 0.8, "fake\n$G(z)$", CHANGED, 9)
    box(axis, 3.9, 2.1, 1.3, 0.8, "real $x$", KEPT)
    box(axis, 6.0, 1.3, 1.9, 0.8, "discriminator D", NETWORK)
    box(axis, 8.5, 1.3, 1.7, 0.8, "a score:\nreal or fake?", "white", 9)
    for start, end in (
        ((1.4, 1.2), (1.9, 1.2)),
        ((3.4, 1.2), (3.9, 1.2)),
        ((5.2, 1.2), (6.0, 1.55)),
        ((5.2, 2.5), (6.0, 1.9)),
        ((7.9, 1.7), (8.5, 1.7)),
    ):
        arrow(axis, start, end)
    axis.text(6.95, 2.75, "D learns: up for real,\ndown for fake", ha="center", color="#2171b5", fontsize=10)
    arrow(axis, (9.35, 1.3), (2.65, 0.8), colour="#d94801", bend=-0.16)
    axis.text(6.2, -0.32, "G learns: up for its fakes (the gradient comes back through D)", ha="center", color="#d94801", fontsize=10)
    return figure


# --------------------------------------------------------------------------------------------------- autoregressive

UNSEEN = "#f0f0f0"


def reading_order():
    """A picture of 16 pixels of which 6 are known; beside it who may look at whom, a row for each pixel."""
    figure, axis = canvas(10, 3.6)
    known = [[KEPT if 4 * i + j < 6 else CHANGED if 4 * i + j == 6 else UNSEEN for j in range(4)] for i in range(4)]
    cells(axis, 0.4, 3.0, known, 0.6, [[f"{4 * i + j + 1}" for j in range(4)] for i in range(4)])
    axis.text(1.6, 0.25, "pixel 7 is next: it may see 1 to 6", ha="center", fontsize=10)
    arrow(axis, (3.1, 1.8), (4.6, 1.8), "for every pixel")
    mask = [[CHANGED if j == i else KEPT if j < i else UNSEEN for j in range(16)] for i in range(16)]
    cells(axis, 5.0, 3.4, mask, 0.18)
    axis.text(6.44, 0.25, "columns: what is seen", ha="center", fontsize=10)
    axis.text(4.9, 2.0, "rows: who sees", ha="center", va="center", rotation=90, fontsize=10)
    axis.text(8.1, 2.9, "blue: comes before", fontsize=10, color="#2171b5")
    axis.text(8.1, 2.4, "orange: the pixel itself,\nnever seen", fontsize=10, color="#d94801", va="top")
    axis.text(8.1, 1.4, "grey: comes after", fontsize=10, color="#777777")
    return figure


def rows_and_neighbours():
    """The network of a pixel: a transformer has read the rows above, a window shows the neighbours as they are, and a value is predicted."""
    figure, axis = canvas(11, 3.8)
    colours = [[KEPT] * 8 for _ in range(3)]
    colours += [[KEPT] * 3 + [LATENT] * 5 for _ in range(2)]
    colours += [[UNSEEN] * 3 + [LATENT] * 2 + [CHANGED] + [UNSEEN] * 2, *[[UNSEEN] * 8 for _ in range(2)]]
    cells(axis, 0.2, 3.5, colours, 0.38)
    axis.text(1.72, 0.1, "rows above · neighbours · the pixel", ha="center", fontsize=9)
    box(axis, 4.2, 2.4, 2.0, 0.9, "transformer,\na row is a word", NETWORK, 9)
    box(axis, 4.2, 0.9, 2.0, 0.9, "window,\nas it is", LATENT, 9)
    box(axis, 7.0, 1.6, 1.5, 1.0, "small\nnetwork", NETWORK, 9)
    arrow(axis, (3.3, 2.9), (4.2, 2.85), colour="#2171b5")
    arrow(axis, (3.3, 1.7), (4.2, 1.35), colour="#238b45")
    arrow(axis, (6.2, 2.85), (7.0, 2.3))
    arrow(axis, (6.2, 1.35), (7.0, 1.9))
    arrow(axis, (8.5, 2.1), (9.1, 2.1))
    heights = (0.9, 0.25, 0.12, 0.1, 0.14, 0.2, 0.35, 0.6)
    for i, height in enumerate(heights):
        axis.add_patch(Rectangle((9.2 + 0.2 * i, 1.6), 0.16, height, facecolor=CHANGED, edgecolor=INK, linewidth=0.5))
    axis.text(10.0, 1.3, "0      value      255", ha="center", fontsize=9)
    axis.text(10.0, 2.75, "how likely is each?", ha="center", fontsize=9)
    return figure


def masked_passes():
    """Sixteen words in four passes: all hidden, the surest settled first, none hidden in the end."""
    figure, axis = canvas(11, 3.2)
    settled = [(), (5, 6, 10), (1, 4, 5, 6, 9, 10, 13, 15), tuple(range(16))]
    for step, done in enumerate(settled):
        fresh = set(done) - set(settled[step - 1]) if step else set()
        colours = [[CHANGED if 4 * i + j in fresh else KEPT if 4 * i + j in done else UNSEEN for j in range(4)] for i in range(4)]
        cells(axis, 0.2 + 2.9 * step, 2.8, colours, 0.5, [["" if 4 * i + j in done else "?" for j in range(4)] for i in range(4)])
        axis.text(1.2 + 2.9 * step, 0.35, "all hidden" if step == 0 else f"after pass {step}", ha="center", fontsize=10)
        if step:
            arrow(axis, (2.9 * step - 0.6, 1.8), (0.1 + 2.9 * step, 1.8))
    return figure
