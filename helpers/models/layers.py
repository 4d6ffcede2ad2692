"""What the families share: blocks of networks, what an image is, how a prior is drawn from."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError


def check_values(images) -> None:
    """UserError unless images are uint8, or float32 or float64 in [0, 1]."""
    if images.dtype == torch.uint8:
        return
    if images.dtype not in (torch.float32, torch.float64):  # half precision can't tell 256 levels apart
        raise UserError(f"Images of {images.dtype} were given: they must be uint8, or float32 or float64 in [0, 1].")
    if not ((images >= 0) & (images <= 1)).all():  # a NaN fails too
        raise UserError("Float images must lie in [0, 1] without NaN: divide 8-bit values by 255.")


def check_images(images, shape) -> None:
    """UserError unless images are (N, *shape), uint8 or float32 or float64 in [0, 1]."""
    if images.ndim != 4 or tuple(images.shape[1:]) != tuple(shape):
        raise UserError(f"This model takes images (N, {', '.join(map(str, shape))}), and {tuple(images.shape)} were given.")
    check_values(images)


def unit(images, dtype=torch.float32):
    """Images of any shape as floats in [0, 1]. UserError for what is neither 8-bit nor in [0, 1]."""
    check_values(images)
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def levels(images):
    """Images of any shape as uint8: a float in [0, 1] is put into its bin of 256. UserError for what is neither."""
    check_values(images)
    return images if images.dtype == torch.uint8 else (images * 256).floor().clamp(max=255).to(torch.uint8)


def precise(x):
    """A tensor in float64: where the device has none, as Apple's GPU, on the processor."""
    return x.cpu().double() if x.device.type == "mps" else x.double()


def pixels(model, images):
    """The images as floats in [0, 1], in the model's precision. UserError for what is no image of this model."""
    check_images(images, model.config.image_shape)
    return images.to(model.dtype) / 255 if images.dtype == torch.uint8 else images.to(model.dtype)


def at_once(device, cpu: int = 100) -> int:
    """How many images to send through a network at a time where nothing is learned: few enough for a processor's cache, many for a GPU."""
    return cpu if torch.device(device).type == "cpu" else 1_000


def check_labels(model, labels, n) -> None:
    """UserError unless labels (n,) are what this model needs: none, or whole numbers below classes ** parts; or none where it is `free`."""
    classes, name = getattr(model.config, "classes", 0), type(model).__name__
    if not classes:
        if labels is not None:
            raise UserError(f"Labels were given, but this {name} knows none: leave them out.")
        return
    count = classes**model.config.parts
    if labels is None and model.free:
        return
    if labels is None:
        raise UserError(f"No labels were given to a conditional {name}: give each image a whole number from 0 to {count - 1}.")
    if labels.shape != (n,) or labels.is_floating_point():
        raise UserError(f"Labels of {labels.dtype} {tuple(labels.shape)} were given: {n} whole numbers from 0 to {count - 1} are needed.")
    if labels.min() < 0 or labels.max() >= count:
        raise UserError(f"Labels from {labels.min()} to {labels.max()} were given: they must be whole numbers from 0 to {count - 1}.")


def check_latents(z, size) -> None:
    """UserError unless latents are (N, size)."""
    if z.ndim != 2 or z.shape[1] != size:
        raise UserError(f"Latents of shape {tuple(z.shape)} were given: this model takes (N, {size}).")


def check_draw(n: int, temperature: float) -> None:
    """UserError unless at least one sample is asked for, at a temperature from 0 up."""
    if n < 1:
        raise UserError(f"{n} samples were asked for: ask for at least 1.")
    if not 0 <= temperature < math.inf:
        raise UserError(f"The temperature {temperature} was given: take a number from 0 up, 1 being the model's own.")


def pick(logits, temperature: float) -> torch.Tensor:
    """Whole numbers (...) drawn from logits (..., K) divided by the temperature; at 0 the likeliest."""
    if temperature == 0:
        return logits.argmax(-1)
    odds = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(odds.flatten(0, -2), 1).view(logits.shape[:-1])


def prior_noise(model, n: int, temperature: float) -> torch.Tensor:
    """(n, model.latent_dim) from a normal distribution of standard deviation `temperature`."""
    check_draw(n, temperature)
    # drawn on the processor: one seed, one picture, on any device
    return temperature * torch.randn(n, model.latent_dim, dtype=model.dtype).to(model.device)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each pixel (Ba et al. 2016), (N, C, H, W) to the same.

    Unlike batch normalisation it treats every image alone: training and evaluation compute the same density, and a
    sample does not depend on who else is in the batch.
    """

    def __init__(self, channels, eps=1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(dim=1, keepdim=True)
        variance = centred.square().mean(dim=1, keepdim=True)
        return centred * torch.rsqrt(variance + self.eps) * self.gain + self.bias


class ELU(nn.Module):
    """x where it is positive, exp(x) - 1 where not (Clevert et al. 2016, equation 1).

    The function of nn.ELU, but through exp instead of expm1: compiled for a processor, that is much faster.
    """

    def forward(self, x):
        return x.clamp(min=0) + (x.clamp(max=0).exp() - 1)


class GatedBlock(nn.Module):
    """Residual block with a gated update: norm(x + a * sigmoid(b)), where [a, b] = net(x); (N, C, H, W) to the same.

    The gate lets the block decide pixel by pixel how much to change (van den Oord et al. 2016, equation 2, without
    its tanh).
    """

    def __init__(self, channels):
        super().__init__()
        self.net = nn.Sequential(
            ELU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            ELU(),
            nn.Conv2d(channels, 2 * channels, 1),
        )
        self.norm = ChannelNorm(channels)

    def forward(self, x):
        a, b = self.net(x).chunk(2, dim=1)
        return self.norm(x + a * torch.sigmoid(b))


class GatedConvNet(nn.Module):
    """3x3 convolution, gated residual blocks, 3x3 convolution: (N, in, H, W) to (N, out, H, W).

    Its last layer starts at zero, so that a coupling that uses it starts alike for all it looks at: an affine one as the identity
    (Kingma & Dhariwal 2018, section 3.3), a mixture coupling as one fixed curve.
    """

    def __init__(self, in_channels, out_channels, width=32, blocks=2):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, padding=1),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)

    def forward(self, x):
        return self.net(x)


class Attention(nn.Module):
    """Every position looks at all others, added to x: (N, C, H, W) to the same (Vaswani et al. 2017; its last layer starts at 0)."""

    def __init__(self, channels, heads=4):
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(8, channels), heads
        self.ask, self.tell = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(self, x):
        query, key, value = self.ask(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)  # (N, heads, C / heads, H W) each
        looks = (query.transpose(2, 3) @ key / query.shape[2] ** 0.5).softmax(3)  # few positions: plain products are faster than a fused kernel
        return x + self.tell((value @ looks.transpose(2, 3)).reshape(x.shape))


def attend(query, key, value, causal: bool = False):
    """softmax(query key' / sqrt(D)) value of (N, heads, L, D); causal: each of L looks at those up to itself.

    Written out on a processor, where the backward pass of PyTorch's fused kernel takes most of a step on texts as short as ours (`bench`).
    """
    if query.device.type != "cpu" or key.shape[2] > 512:
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    score = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    if causal:
        later = torch.ones(score.shape[2:], dtype=torch.bool, device=score.device).triu(1)
        score = score.masked_fill(later, -torch.inf)
    return score.softmax(3).to(value.dtype) @ value


class Block(nn.Module):
    """A transformer's block (Vaswani et al. 2017; normalised before): x (N, L, W) to the same.

    Every position looks at those up to itself, or where it isn't causal at all of them.
    kept: the keys and values of positions before x, (2, N, heads, L', W / heads), and what is returned beside x is those and x's own.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0, causal: bool = True):
        super().__init__()
        self.heads, self.causal, self.drop = heads, causal, nn.Dropout(dropout)
        self.norm, self.ask, self.tell = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x, kept=None):
        query, *now = self.ask(self.norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        kept = torch.stack(now) if kept is None else torch.cat([kept, torch.stack(now)], dim=3)
        found = attend(query, *kept, causal=self.causal and x.shape[1] > 1)
        x = x + self.drop(self.tell(found.transpose(1, 2).flatten(2)))
        return x + self.think(x), kept


class ConvEncoder(nn.Module):
    """Images (N, C, H, W) to features (N, out): squeezed once, halved once, gated blocks at both resolutions."""

    def __init__(self, image_shape, out, width=32, blocks=1):
        super().__init__()
        channels, height, width_of_image = image_shape
        self.net = nn.Sequential(
            nn.PixelUnshuffle(2),  # a quarter of the positions, four times the channels: nothing is lost, and it is faster
            nn.Conv2d(4 * channels, width, 3, padding=1),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            *(GatedBlock(2 * width) for _ in range(blocks)),
            ELU(),
            nn.Flatten(),
            nn.Linear(2 * width * (height // 4) * (width_of_image // 4), out),
        )

    def forward(self, x):
        return self.net(x)


class ConvDecoder(nn.Module):
    """Latents (N, D) to (N, C, H, W): the encoder's way back. C, H, W are `image_shape`, with as many channels as asked for."""

    def __init__(self, latent, image_shape, width=32, blocks=1):
        super().__init__()
        channels, height, width_of_image = image_shape
        self.net = nn.Sequential(
            nn.Linear(latent, 2 * width * (height // 4) * (width_of_image // 4)),
            nn.Unflatten(1, (2 * width, height // 4, width_of_image // 4)),
            *(GatedBlock(2 * width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.PixelShuffle(2),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, z):
        return self.net(z)


class MLP(nn.Module):
    """Fully connected, (N, *) to (N, out): hidden layers of the given sizes, each with an activation."""

    def __init__(self, size, hidden, out, activation=nn.ReLU):
        super().__init__()
        layers = [nn.Flatten()]
        for units in hidden:
            layers += [nn.Linear(size, units), activation()]
            size = units
        self.net = nn.Sequential(*layers, nn.Linear(size, out))

    def forward(self, x):
        return self.net(x)
