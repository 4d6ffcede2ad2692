"""Normalizing flows: bijections, dequantisation, RealNVP.

A flow is an invertible function f from images to noise. The change of variables gives the density of an image x,

    log p(x) = log N(f(x); 0, I) + log |det df/dx|,

and running f backwards on noise draws a sample. Everything here serves to make f expressive while its inverse and
the determinant of its Jacobian stay cheap.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.layers import MLP, GatedConvNet, check_images, check_labels, check_latents, prior_noise


@dataclass(frozen=True)
class RealNVPConfig:
    """A multi-scale RealNVP. Scale i works on images squeezed i + 1 times, and all but the last factor out a half."""

    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    couplings: tuple[int, ...] = (4, 6)  # couplings at each scale
    width: tuple[int, ...] = (32, 48)  # channels of the coupling networks at each scale
    blocks: int = 2  # gated residual blocks in each coupling network
    dequantization_couplings: int = 4  # of the variational dequantisation; 0 makes it uniform
    dequantization_width: int = 32
    margin: float = 1e-5  # the logit sees [margin, 1 - margin] instead of [0, 1]
    classes: int = 0  # above 0 the density is conditional, log p(x|y), and every coupling network sees the label
    parts: int = 1  # parts side by side, each of its own class: the label 37 of a pair of digits is a 3 left of a 7


# ---------------------------------------------------------------------------------------------------- bijections


class Bijection(nn.Module):
    """An invertible map with a known Jacobian.

    forward(x, context) -> (z, log_det) and inverse(z, context) -> (x, log_det), log_det of shape (N,) in nats being
    the log-determinant of the direction just computed: the two of a round trip cancel. `context` (N, C', H', W') is
    what the map may look at without transforming it; most maps ignore it.
    """

    def forward(self, x, context=None):
        raise NotImplementedError

    def inverse(self, z, context=None):
        raise NotImplementedError


class Compose(Bijection):
    """Bijections one after the other; their log-determinants add up."""

    def __init__(self, *bijections):
        super().__init__()
        self.bijections = nn.ModuleList(bijections)

    def forward(self, x, context=None):
        log_det = x.new_zeros(len(x))
        for bijection in self.bijections:
            x, step = bijection(x, context)
            log_det = log_det + step
        return x, log_det

    def inverse(self, z, context=None):
        log_det = z.new_zeros(len(z))
        for bijection in reversed(self.bijections):
            z, step = bijection.inverse(z, context)
            log_det = log_det + step
        return z, log_det


class Squeeze(Bijection):
    """Each 2x2 patch of pixels becomes four channels: (N, C, H, W) to (N, 4C, H/2, W/2) (Dinh et al. 2017, section 3.6)."""

    def forward(self, x, context=None):
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z, context=None):
        return F.pixel_shuffle(z, 2), z.new_zeros(len(z))


class Logit(Bijection):
    """From the box [0, 1] to the whole line: whatever noise comes back, it ends up in the range of an image.

    z = logit(margin + (1 - 2 margin) x) (after Dinh et al. 2017, section 4.1); the margin keeps 0 and 1 finite. The
    inverse stays within [-margin, 1 + margin], up to rounding.
    """

    def __init__(self, margin=1e-5):
        super().__init__()
        self.margin = margin

    def forward(self, x, context=None):
        y = self.margin + (1 - 2 * self.margin) * x
        log_y, log_1_y = y.log(), torch.log1p(-y)
        log_det = math.log(1 - 2 * self.margin) - log_y - log_1_y
        return log_y - log_1_y, log_det.flatten(1).sum(1)

    def inverse(self, z, context=None):
        log_det = F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1 - 2 * self.margin)
        return (torch.sigmoid(z) - self.margin) / (1 - 2 * self.margin), log_det.flatten(1).sum(1)


def checkerboard_mask(height: int, width: int) -> torch.Tensor:
    """1 where row + column is even, else 0; shape (1, height, width) (Dinh et al. 2017, figure 3 left)."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2 == 0)[None].float()


def channel_mask(channels: int) -> torch.Tensor:
    """1 for the first half of the channels, else 0; shape (channels, 1, 1) (Dinh et al. 2017, figure 3 right)."""
    return (torch.arange(channels) < channels // 2)[:, None, None].float()


class AffineCoupling(Bijection):
    """Scale and shift one part of x by amounts that a network reads off the other part.

    z = x where mask is 1, and (x + t) * exp(s) where it is 0, with (s, t) = net(mask * x, context)
    (Dinh et al. 2017, equation 9, but shifting before scaling). The Jacobian is triangular, so log_det is the sum of
    s, and the network itself is never inverted: it may be any that makes 2C channels of C (and of those of the
    context, which is stretched over the image where it is coarser). Vectors (N, C) are taken too.
    mask: 0/1 of a shape that broadcasts with (C, H, W), or (C,).
    """

    def __init__(self, mask, channels, net):
        super().__init__()
        self.register_buffer("mask", mask[None], persistent=False)
        self.net = net
        self.log_range = nn.Parameter(torch.zeros(1, channels, *[1] * (mask.ndim - 1)))

    def scale_and_shift(self, x, context):
        seen = x * self.mask
        if context is not None:
            context = F.interpolate(context, size=x.shape[2:]) if x.ndim > 2 else context
            seen = torch.cat([seen, context], dim=1)
        s, t = self.net(seen).to(x.dtype).chunk(2, dim=1)
        # A learned bound on s: exp(s) can neither explode early in training nor be held back later.
        bound = self.log_range.exp()
        s = bound * torch.tanh(s / bound)
        return s * (1 - self.mask), t * (1 - self.mask)

    def forward(self, x, context=None):
        s, t = self.scale_and_shift(x, context)
        return (x + t) * s.exp(), s.flatten(1).sum(1)

    def inverse(self, z, context=None):
        s, t = self.scale_and_shift(z, context)
        return z * (-s).exp() - t, -s.flatten(1).sum(1)


class Invertible1x1(Bijection):
    """A learned linear mixing of the channels of each pixel, so that every coupling sees another half.

    W = P L (U + diag(d)) with P a fixed permutation and L, U triangular: log_det is H * W * sum(log |d|)
    (Kingma & Dhariwal 2018, section 3.2 and equation 10). W starts as a random rotation, or with rotate=False as
    the reversal of the channels, which only makes the halves change places.
    """

    def __init__(self, channels, rotate=True):
        super().__init__()
        start = torch.linalg.qr(torch.randn(channels, channels))[0] if rotate else torch.eye(channels).flip(0)
        permutation, lower, upper = torch.linalg.lu(start)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.register_buffer("eye", torch.eye(channels), persistent=False)
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())

    def _factors(self):
        lower = self.lower.tril(-1) + self.eye
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_diagonal.exp())
        return lower, upper

    def forward(self, x, context=None):
        log_det = self.log_diagonal.sum() * x[0, 0].numel()
        with torch.autocast(x.device.type, enabled=False):  # in half precision log_det would not belong to this W
            lower, upper = self._factors()
            weight = self.permutation @ lower @ upper
            return F.conv2d(x, weight[:, :, None, None]), log_det.expand(len(x))

    def inverse(self, z, context=None):
        log_det = -self.log_diagonal.sum() * z[0, 0].numel()
        with torch.autocast(z.device.type, enabled=False):
            lower, upper = self._factors()
            half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
            weight = torch.linalg.solve_triangular(upper, half, upper=True)
            return F.conv2d(z, weight[:, :, None, None]), log_det.expand(len(z))


class ElementwiseAffine(Bijection):
    """z = (x - mean) * exp(-log_std), with a learned mean and width for each element of `shape`.

    shape broadcasts with that of one image or latent: (C, 1, 1) is Glow's actnorm; (D,), as the last step of a flow,
    makes the base distribution a learned Gaussian instead of the standard one.
    """

    started = False  # from trained weights, which `RealNVP.initialize` must leave alone

    def __init__(self, *shape):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(shape))
        self.log_std = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def initialize(self, x):
        """Start from the mean and width of a batch, so that z is standardised (Kingma & Dhariwal 2018, section 3.1)."""
        over = [0, *(d + 1 for d, size in enumerate(self.mean.shape) if size == 1)]
        self.mean.copy_(x.mean(dim=over, keepdim=True)[0])
        self.log_std.copy_(x.std(dim=over, keepdim=True)[0].log())

    def _log_det(self, x):
        return self.log_std.expand(x.shape[1:]).sum().expand(len(x))

    def forward(self, x, context=None):
        return (x - self.mean) * (-self.log_std).exp(), -self._log_det(x)

    def inverse(self, z, context=None):
        return z * self.log_std.exp() + self.mean, self._log_det(z)


class MultiScale(Bijection):
    """Scales one after the other; after each but the last, half of the channels is done and leaves as latents.

    (N, C, H, W) to (N, C * H * W): the latents of ALL scales side by side, finest first, so that nothing is lost and
    nothing is resampled (Dinh et al. 2017, section 3.6 and equation 14).
    scales: bijections that each squeeze once, (C, H, W) to (4C, H/2, W/2).
    """

    def __init__(self, scales, image_shape):
        super().__init__()
        self.scales = nn.ModuleList(scales)
        channels, height, width = image_shape
        self.shapes = []  # of what leaves after each scale
        for last in [False] * (len(scales) - 1) + [True]:
            channels, height, width = 4 * channels, height // 2, width // 2
            channels = channels if last else channels // 2
            self.shapes.append((channels, height, width))

    def forward(self, x, context=None):
        log_det, latents = x.new_zeros(len(x)), []
        for i, scale in enumerate(self.scales):
            x, step = scale(x, context)
            log_det = log_det + step
            if i + 1 < len(self.scales):
                x, done = x.chunk(2, dim=1)
                latents.append(done.flatten(1))
        return torch.cat([*latents, x.flatten(1)], dim=1), log_det

    def inverse(self, z, context=None):
        log_det = z.new_zeros(len(z))
        latents = z.split([math.prod(shape) for shape in self.shapes], dim=1)
        latents = [latent.view(-1, *shape) for latent, shape in zip(latents, self.shapes, strict=True)]
        x = latents.pop()
        for i, scale in reversed(list(enumerate(self.scales))):
            if i + 1 < len(self.scales):
                x = torch.cat([x, latents.pop()], dim=1)
            x, step = scale.inverse(x, context)
            log_det = log_det + step
        return x, log_det


# ------------------------------------------------------------------------------------------------ dequantisation

# The 256 bins fill [0, 1]. Noise stops this much short of its bin's upper edge: in float32, 255 + 0.9999999 is 256,
# and the pixel would be in the next bin.
EDGE = 2.0**-15


class Dequantization(nn.Module):
    """Spread each 8-bit value over its bin: a density model on whole numbers could grow without bound.

    forward(bins, base) -> (y, log_q): bins are the 256 levels as floats, (N, C, H, W); base is uniform noise of the
    same shape, drawn if not given; y lies in [bins, bins + 1) / 256 and log_q (N,) is its log-density. Then
    log p(y) - log_q is, on average, a lower bound on the log-probability of the 8-bit image (Theis et al. 2016,
    section 3.1; Ho et al. 2019, equation 12).
    """

    def noise(self, bins, base):
        """Noise in (0, 1) made of uniform noise `base`, and its log-density given bins, (N,). Here: as it comes."""
        return base, bins.new_zeros(len(bins))

    def forward(self, bins, base=None):
        u, log_q = self.noise(bins, torch.rand_like(bins) if base is None else base)
        log_q = log_q - bins[0].numel() * math.log((1 - EDGE) / 256)
        return (bins + (1 - EDGE) * u) / 256, log_q


class VariationalDequantization(Dequantization):
    """The noise is itself drawn from a small flow that sees the image (Ho et al. 2019, section 3.1).

    Logistic noise goes through couplings conditioned on the image, then through a sigmoid into (0, 1). At first the
    couplings change nothing, and a logistic variable through a sigmoid is uniform: training starts from the plain
    dequantisation and tightens its bound.
    """

    def __init__(self, channels, couplings, width, blocks):
        super().__init__()
        channels *= 4  # it works squeezed: a quarter of the pixels
        layers = coupling_layers(channels, couplings, width, blocks, context_channels=channels, rotate=False)
        self.flow = Compose(*layers)

    def noise(self, bins, base):
        context = F.pixel_unshuffle(bins / 127.5 - 1, 2)
        eps = F.pixel_unshuffle(base, 2).clamp(1e-6, 1 - 1e-6).logit()
        log_q = _log_logistic(eps)
        eps, log_det = self.flow(eps, context)
        log_q = log_q - log_det - _log_logistic(eps)  # the logistic density is also the sigmoid's derivative
        return F.pixel_shuffle(torch.sigmoid(eps), 2), log_q


def _log_logistic(x):
    """Log-density of the logistic distribution, summed over all but the first dimension."""
    return (F.logsigmoid(x) + F.logsigmoid(-x)).flatten(1).sum(1)


def coupling_layers(channels, couplings, width, blocks, context_channels=0, rotate=True):
    """`couplings` times an invertible 1x1 convolution and a channel-masked affine coupling."""
    layers = []
    for _ in range(couplings):
        layers.append(Invertible1x1(channels, rotate))
        net = GatedConvNet(channels + context_channels, 2 * channels, width, blocks)
        layers.append(AffineCoupling(channel_mask(channels), channels, net))
    return layers


def vector_couplings(size, couplings, width, context=0):
    """`couplings` affine couplings of vectors (N, size), their networks of two hidden layers; they start as the identity.

    Coupling 2k splits the vector by bit k of the index, and 2k + 1 changes the other half. So every two entries are told
    apart sooner or later. context: how many numbers (N, context) the networks also see.
    """
    if couplings and size < 2:
        raise UserError(f"A coupling of {size} latent was asked for: it needs one to look at and one to change, so take at least 2.")
    layers, bits = [], max(1, (size - 1).bit_length())
    for i in range(couplings):
        mask = ((torch.arange(size) >> (i // 2 % bits)) + i) % 2
        net = MLP(size + context, (width, width), 2 * size, nn.SiLU)
        nn.init.zeros_(net.net[-1].weight)
        nn.init.zeros_(net.net[-1].bias)
        layers.append(AffineCoupling(mask.float(), size, net))
    return layers


# ------------------------------------------------------------------------------------------------------- RealNVP


class RealNVP(nn.Module):
    """RealNVP (Dinh et al. 2017) with variational dequantisation, gated networks and 1x1 convolutions.

    Images are uint8, or floats in [0, 1] that stand for the bin they fall into (k / 255 falls into bin k); their
    shape is (N, *config.image_shape). Latents are (N, D) with D = C * H * W, standard normal under the model.
    With config.classes the model is conditional: labels (N,), whole numbers below classes ** parts, must be given
    (as Ardizzone et al. 2019 do); without, they must not, except that `loss` ignores them.
    Raises UserError where images, labels, counts or temperatures are not what they should be.
    """

    def __init__(self, config: RealNVPConfig):
        super().__init__()
        self.config = config
        _, height, width = config.image_shape
        scales = len(config.couplings)
        if height % 2**scales or width % (2**scales * config.parts):
            raise UserError(
                f"Images of {height}x{width} can't be squeezed {scales} times: both sides{' of each part' * (config.parts > 1)} must be "
                f"divisible by {2**scales}; pad the images or take fewer scales."
            )
        if len(config.width) != scales:
            raise UserError(f"{scales} scales but {len(config.width)} widths were given: give one width for each scale.")
        self.dequantization, self.flow = self.build()

    def build(self):
        """The dequantisation and the bijection."""
        config = self.config
        channels = config.image_shape[0]
        if config.dequantization_couplings:
            dequantization = VariationalDequantization(channels, config.dequantization_couplings, config.dequantization_width, config.blocks)
        else:
            dequantization = Dequantization()
        levels = []
        for couplings, width in zip(config.couplings, config.width, strict=True):
            channels *= 4
            levels.append(Compose(Squeeze(), *coupling_layers(channels, couplings, width, config.blocks, config.classes)))
            channels //= 2  # the half that goes on
        flow = Compose(
            Logit(config.margin),
            ElementwiseAffine(config.image_shape[0], 1, 1),
            MultiScale(levels, config.image_shape),
            ElementwiseAffine(self.latent_dim),
        )
        return dequantization, flow

    @property
    def latent_dim(self) -> int:
        return math.prod(self.config.image_shape)

    def regions(self):
        """The parts worth compiling: the couplings share their code, so two or three compilations serve all."""
        return [module for module in self.modules() if isinstance(module, AffineCoupling)]

    @torch.no_grad()
    def initialize(self, images, labels=None) -> None:
        """Standardise a batch of images after the logit, and its latents: training then starts near the right scale."""
        affine = [module for module in self.flow.modules() if isinstance(module, ElementwiseAffine) and not module.started]
        # by hooks, since each is to be initialised by what comes out of those before it
        hooks = [module.register_forward_pre_hook(lambda module, inputs: module.initialize(inputs[0])) for module in affine]
        self.flow(self.dequantization(self._bins(images))[0], self._context(labels if self.config.classes else None, len(images)))
        for hook in hooks:
            hook.remove()

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Mean bound on bits per dimension: `loss` is the sum of the flow's and the dequantisation's share."""
        context = self._context(labels if self.config.classes else None, len(images))
        y, log_q = self.dequantization(self._bins(images))
        nats_per_bit = len(images) * self.latent_dim * math.log(2)
        flow, dequantization = -self._log_density(y, context).sum() / nats_per_bit, log_q.sum() / nats_per_bit
        return {"loss": flow + dequantization, "flow": flow, "dequantization": dequantization}

    def log_prob(self, images, labels=None, samples: int = 1) -> torch.Tensor:
        """Lower bound on the log-probability of 8-bit images in nats, (N,); tighter with more noise `samples`.

        The mean of `samples` importance weights p(y) / q(y), in logs (Burda et al. 2016, equation 8).
        """
        if samples < 1:
            raise UserError(f"{samples} importance samples were asked for: ask for at least 1.")
        bins, context = self._bins(images), self._context(labels, len(images))
        log_weights = []
        for _ in range(samples):
            y, log_q = self.dequantization(bins)
            log_weights.append(self._log_density(y, context) - log_q)
        return torch.logsumexp(torch.stack(log_weights), dim=0) - math.log(samples)

    def class_log_probs(self, images) -> torch.Tensor:
        """log p(x|y) for every label y, (N, classes ** parts), in nats: with equal priors its argmax is a classifier.

        All labels are given the same dequantisation noise, so that only the label makes the difference.
        """
        if not self.config.classes:
            raise UserError("This RealNVP knows no labels: take a conditional one.")
        y, log_q = self.dequantization(self._bins(images))
        labels = range(self.config.classes**self.config.parts)
        contexts = (self._context(torch.full((len(images),), label, device=y.device), len(images)) for label in labels)
        return torch.stack([self._log_density(y, context) - log_q for context in contexts], dim=1)

    def encode(self, images, labels=None) -> torch.Tensor:
        """Latents (N, D) of images: floats stand for themselves, uint8 images get the median of the base noise.

        Nothing is drawn at random, so the latents of uint8 images are nearer to 0 than those that training saw.
        decode gives float images back, and uint8 images as a point of their bins: floor(256 * decode(z)).
        """
        check_images(images, self.config.image_shape)
        x = images.to(self.dtype)
        if images.dtype == torch.uint8:
            x, _ = self.dequantization(x, base=torch.full_like(x, 0.5))
        return self.flow(x, self._context(labels, len(x)))[0]

    def decode(self, latents, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of latents (N, D)."""
        check_latents(latents, self.latent_dim)
        return self.flow.inverse(latents, self._context(labels, len(latents)))[0].clamp(0, 1)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] from the prior with its standard deviation multiplied by `temperature`."""
        noise = prior_noise(self, n, temperature)
        check_labels(self, labels, n)
        chunks = [None] * n if labels is None else labels.to(noise.device).split(500)
        return torch.cat([self.decode(part, chunk) for part, chunk in zip(noise.split(500), chunks, strict=False)])

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    def _log_density(self, y, context):
        z, log_det = self.flow(y, context)
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def _context(self, labels, n):
        """Labels (n,) as the couplings see them: one-hot channels, a column for each part, (n, classes, 1, parts)."""
        if not self.training:  # in training `fit` has checked them all at once: a look at each batch would wait for the device
            check_labels(self, labels, n)
        if labels is None:
            return None
        classes, parts = self.config.classes, self.config.parts
        columns = torch.stack([labels // classes**i % classes for i in reversed(range(parts))], dim=1)
        return (columns[:, None] == torch.arange(classes, device=labels.device)[:, None]).to(self.dtype)[:, :, None]

    def _bins(self, images):
        check_images(images, self.config.image_shape)
        if images.dtype == torch.uint8:
            return images.to(self.dtype)
        return (images.to(self.dtype) * 256).floor().clamp(max=255)
