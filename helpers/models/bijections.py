"""Bijections: invertible maps whose Jacobian has a determinant that is cheap, and which are piled up to make a flow."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.layers import MLP, GatedConvNet


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


class MixtureCoupling(Bijection):
    """Send one half of the channels through the distribution function of a mixture of logistics that a network reads off the other half.

    z_B = (logit F(x_B) + t) * exp(s), F(x) = sum over k of pi_k sigmoid((x - mu_k) exp(-w_k)), with (s, t, pi, mu, w) = net(x_A, context)
    for every element (Ho et al. 2019, equations 15 and 16). An affine coupling can move and stretch; this one can also pull one bump
    into several. F has no inverse in closed form: `inverse` bisects, and has no gradient. channels: even; context as in AffineCoupling.
    """

    def __init__(self, channels, mixtures, net):
        super().__init__()
        self.half, self.mixtures, self.net = channels // 2, mixtures, net
        self.log_range = nn.Parameter(torch.zeros(1, self.half, 1, 1))
        # apart from the start: components that are alike have the same gradient, and would stay alike
        self.register_buffer("spread", torch.linspace(-1.5, 1.5, mixtures).view(-1, 1, 1, 1), persistent=False)

    @staticmethod
    def sizes(channels: int, mixtures: int) -> tuple[int, int]:
        """How many channels its network sees, and how many it tells."""
        return channels // 2, channels // 2 * (2 + 3 * mixtures)

    def read(self, seen, context):
        """s and t, (N, half, H, W), and log pi, mu, w of the mixture, (N, mixtures, half, H, W)."""
        if context is not None:
            seen = torch.cat([seen, F.interpolate(context, size=seen.shape[2:])], dim=1)
        many = self.half * self.mixtures
        s, t, pi, mu, w = self.net(seen).to(seen.dtype).split([self.half, self.half, many, many, many], dim=1)
        pi, mu, w = (part.unflatten(1, (self.mixtures, self.half)) for part in (pi, mu, w))
        bound = self.log_range.exp()
        return bound * torch.tanh(s / bound), t, pi.log_softmax(1), mu + self.spread, w.clamp(min=-7)

    @staticmethod
    def logit(x, pi, mu, w):
        """logit F(x) and the logarithm of its derivative, of the shape of x."""
        u = (x[:, None] - mu) * (-w).exp()
        below, above = F.logsigmoid(u), F.logsigmoid(-u)
        log_f, log_1_f = (pi + below).logsumexp(1), (pi + above).logsumexp(1)
        return log_f - log_1_f, (pi + below + above - w).logsumexp(1) - log_f - log_1_f

    def forward(self, x, context=None):
        a, b = x.chunk(2, dim=1)
        s, t, *mixture = self.read(a, context)
        y, slope = self.logit(b, *mixture)
        return torch.cat([a, (y + t) * s.exp()], dim=1), (slope + s).flatten(1).sum(1)

    @torch.no_grad()
    def inverse(self, z, context=None):
        a, b = z.chunk(2, dim=1)
        s, t, pi, mu, w = self.read(a, context)
        y = b * (-s).exp() - t
        quantiles = mu + w.exp() * y[:, None]  # of each component: the mixture's lies between
        low, high = quantiles.amin(1), quantiles.amax(1)
        lower = y < 0  # F is compared where it is small, 1 - F where F is near 1, and whole numbers of 2^-24 would be all that is left of it
        share, sharpness, wanted = pi.exp(), torch.where(lower, 1, -1)[:, None] * (-w).exp(), torch.sigmoid(-y.abs())
        for _ in range(50 if z.dtype == torch.float64 else 28):
            middle = (low + high) / 2
            short = ((share * torch.sigmoid((middle[:, None] - mu) * sharpness)).sum(1) < wanted) == lower
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        x = (low + high) / 2
        return torch.cat([a, x], dim=1), -(self.logit(x, pi, mu, w)[1] + s).flatten(1).sum(1)


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


NARROWEST = 1e-3  # a width to start from where a batch has none: the logarithm of 0 would end the training before its first step


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
        self.log_std.copy_(x.std(dim=over, keepdim=True)[0].clamp(min=NARROWEST).log())

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


# ---------------------------------------------------------------------------------------------------- in a row


def coupling_layers(channels, couplings, width, blocks, context_channels=0, rotate=True, mixtures=0):
    """`couplings` times an invertible 1x1 convolution and a coupling of half of the channels: affine, or of so many `mixtures`."""
    layers = []
    for _ in range(couplings):
        layers.append(Invertible1x1(channels, rotate))
        if mixtures:
            seen, told = MixtureCoupling.sizes(channels, mixtures)
            net = GatedConvNet(seen + context_channels, told, width, blocks)
            layers.append(MixtureCoupling(channels, mixtures, net))
        else:
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
