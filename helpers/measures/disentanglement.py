"""What single latents stand for, measured: attributes of a stroke, and disentanglement where the factors are known.

Everything here takes codes (N, D), for instance the means of a VAE's posterior over the test images, and what there is to
know of each image. Nothing here looks at a model.
"""

import torch

from helpers import UserError
from helpers.models.layers import precise, unit

BINS = 20  # of equal count, into which a latent is cut
CARRIES = 0.1  # nats: a latent whose KL is below this stands for nothing, whatever its mean does

# ----------------------------------------------------------------------------------------- attributes of a drawing


def area(ink):
    """Pixels of ink, grey ones by their part."""
    return ink.sum((1, 2))


def thickness(ink):
    """Pixels across the stroke, from its area A and the length P of its boundary.

    A stroke of width w and length l with round ends has A = w l + π w² / 4 and P = 2 l + π w; w is what solves both.
    P is the image's total variation (coarea formula), over the axes and over the diagonals, whose errors are opposite.
    """
    padded = torch.nn.functional.pad(ink, (1, 1, 1, 1))
    right, down = padded[:, :-1, 1:] - padded[:, :-1, :-1], padded[:, 1:, :-1] - padded[:, :-1, :-1]
    fall, rise = padded[:, 1:, 1:] - padded[:, :-1, :-1], padded[:, 1:, :-1] - padded[:, :-1, 1:]
    straight = (right.square() + down.square()).sqrt().sum((1, 2))
    diagonal = (fall.square() + rise.square()).sqrt().sum((1, 2)) / 2**0.5
    boundary = 0.5 * (straight + diagonal)
    return (boundary - (boundary.square() - 4 * torch.pi * area(ink)).clamp(min=0).sqrt()) / torch.pi


def slant(ink):
    """Degrees to the right of upright: how far the ink's middle moves sideways from row to row, by its moments."""
    x, y = _middle(ink)
    sideways, upright = (ink * x * y).sum((1, 2)), (ink * y * y).sum((1, 2))
    return torch.rad2deg(torch.atan2(-sideways, upright))  # rows are counted downwards


def width(ink):
    """Columns with ink, each counted by its brightest pixel."""
    return ink.amax(1).sum(1)


def height(ink):
    """Rows with ink, each counted by its brightest pixel."""
    return ink.amax(2).sum(1)


def _middle(ink):
    """Coordinates of the pixels seen from the ink's middle, (N, 1, W) and (N, H, 1)."""
    columns, rows = (torch.arange(size, dtype=ink.dtype, device=ink.device) for size in (ink.shape[2], ink.shape[1]))
    total = area(ink)
    x = (ink * columns).sum((1, 2)) / total
    y = (ink * rows[:, None]).sum((1, 2)) / total
    return columns - x[:, None, None], rows[:, None] - y[:, None, None]


ATTRIBUTES = {"thickness": thickness, "slant": slant, "width": width, "height": height, "area": area}


def attributes(images, names=tuple(ATTRIBUTES)) -> dict[str, torch.Tensor]:
    """Attributes of grey images of bright strokes on black, (N, 1, H, W), uint8 or floats in [0, 1]: name -> (N,), in pixels or degrees.

    UserError for a name there is not, for colour, and for an image without ink.
    """
    for name in names:
        if name not in ATTRIBUTES:
            raise UserError(f"There is no attribute {name!r}: take some of {', '.join(ATTRIBUTES)}.")
    if images.ndim != 4 or images.shape[1] != 1:
        raise UserError(f"Images of shape {tuple(images.shape)} were given: strokes have attributes on grey images, (N, 1, H, W).")
    ink = precise(unit(images[:, 0]))
    empty = (ink.sum((1, 2)) == 0).nonzero()
    if len(empty):
        raise UserError(f"Image {int(empty[0])} is black: without ink there is no {', '.join(names)}.")
    return {name: ATTRIBUTES[name](ink) for name in names}


def explained(codes, values) -> torch.Tensor:
    """Share of the variance of `values` (N,) that each latent of `codes` (N, D) explains on its own, (D,), by any function of it.

    The function is the mean of `values` in each of BINS bins of the latent, taken from every other image and judged on
    the rest, so that a latent that says nothing gets 0, up to noise that can be negative. It doesn't see scale: of means of
    a VAE's posterior look only at latents that carry something, see CARRIES.
    """
    codes, values = precise(codes), precise(values)
    shares = []
    for bins in quantile_bins(codes).T:
        table = torch.zeros(2, BINS, dtype=torch.double, device=values.device)  # count and sum in each bin
        table[0].index_add_(0, bins[::2], torch.ones_like(values[::2]))
        table[1].index_add_(0, bins[::2], values[::2])
        means = torch.where(table[0] > 0, table[1] / table[0].clamp(min=1), values[::2].mean())
        judged = values[1::2]
        shares.append(1 - (judged - means[bins[1::2]]).square().mean() / judged.var(correction=0))
    return torch.stack(shares)


# ------------------------------------------------------------------------------------------------ known factors


def quantile_bins(codes) -> torch.Tensor:
    """Which of BINS bins of equal count each code is in, int64 (N, D). Equal codes share a bin."""
    codes = precise(codes)
    edges = torch.quantile(codes, torch.linspace(0, 1, BINS + 1, dtype=torch.double, device=codes.device)[1:-1], dim=0)
    return torch.stack([torch.searchsorted(edge.contiguous(), column.contiguous()) for edge, column in zip(edges.T, codes.T, strict=True)], dim=1)


def entropy(counts) -> torch.Tensor:
    """In nats, of a table of counts."""
    p = precise(counts).flatten() / counts.sum()
    return -torch.xlogy(p, p).sum()


def mutual_information(bins, factor) -> torch.Tensor:
    """In nats, between two sets of whole numbers from 0 up, (N,) each."""
    size = int(factor.max()) + 1
    table = torch.bincount(bins * size + factor, minlength=(int(bins.max()) + 1) * size).view(-1, size)
    return entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)


def mutual_information_gap(codes, factors) -> float:
    """How far the best latent is ahead of the second for each factor, in parts of the factor's entropy; the mean of the factors.

    (Chen et al. 2018, equation 5, with the latents cut into bins.) Near 1 where each factor has a latent of its own, see
    `gap_ceiling`; 0 where each is spread over several. codes: (N, D); factors: whole numbers (N, K).
    """
    check_factors(codes, factors)
    bins, gaps = quantile_bins(codes), []
    for factor in factors.to(bins.device).T:
        first, second = torch.stack([mutual_information(column, factor) for column in bins.T]).topk(2).values
        gaps.append((first - second) / entropy(torch.bincount(factor)))
    return torch.stack(gaps).mean().item()


def gap_ceiling(factors, seed: int = 0) -> float:
    """The gap of perfect latents: each is one factor, spread evenly over half of the way to its next value.

    Not 1: a bin of equal count can reach over the border between two values, and a finite table shows some information by chance.
    """
    noise = torch.rand(factors.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    return mutual_information_gap(factors + 0.5 * noise.to(factors.device), factors)


def factor_vae_score(codes, factors, votes: int = 800, batch: int = 64, seed: int = 0) -> float:
    """Share of right guesses of which factor was held fixed (Kim & Mnih 2018, section 4).

    A vote: images that share the value of one factor; of their codes, each divided by its deviation over all images, the
    latent that varies least. A classifier by majority learns from half of the votes which factor that latent stands for,
    and is judged on the rest. Latents of a variance below 0.05 are left out, the prior's being 1; where all are, it is chance.
    """
    check_factors(codes, factors)
    deviation = codes.std(0)
    alive = deviation > 0.05**0.5
    scaled = (codes / deviation)[:, alive] if alive.any() else codes[:, :1]
    generator = torch.Generator().manual_seed(seed)
    count = torch.zeros(2, scaled.shape[1], factors.shape[1])
    for vote in range(votes):
        k = int(torch.randint(factors.shape[1], (), generator=generator))
        value = factors[int(torch.randint(len(factors), (), generator=generator)), k]
        same = (factors[:, k] == value).nonzero()[:, 0]
        chosen = same[torch.randint(len(same), (batch,), generator=generator).to(same.device)]
        count[vote % 2, scaled[chosen].var(0).argmin(), k] += 1
    learned = count[0].argmax(1)
    return (count[1].gather(1, learned[:, None]).sum() / count[1].sum()).item()


def check_factors(codes, factors) -> None:
    """UserError unless codes (N, D) of two latents or more come with whole numbers (N, K)."""
    if codes.ndim != 2 or codes.shape[1] < 2 or factors.ndim != 2 or len(codes) != len(factors) or factors.is_floating_point():
        raise UserError(
            f"Codes {tuple(codes.shape)} and factors {tuple(factors.shape)} of {factors.dtype} were given: codes (N, D) of at least "
            "two latents and whole numbers (N, K) are needed."
        )
