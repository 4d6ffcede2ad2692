"""Generative adversarial networks: one network makes images out of noise, another tells them from real ones, and each
learns from the other (Goodfellow et al. 2014). There is no likelihood: what comes out is judged by looking, or by
measuring samples.

A score, here, is what the discriminator says before any sigmoid: above 0 for real. Everything that a game between the
two can be is in `discriminator_loss` and `generator_loss`; the networks that play it are below them, then the growing
ones of progressive growing (Karras et al. 2018).
"""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from helpers import UserError
from helpers.layers import check_labels, check_latents, pixels, prior_noise

OBJECTIVES = ("minimax", "nonsaturating", "wgan-gp", "hinge")
NETWORKS = ("conv", "mlp")
WAYS = ("projection", "channel")  # of telling the discriminator the label
LOST = 0.05  # a discriminator whose loss stays below this has won, and its generator learns nothing any more
LOOKS = 20  # how many looks of `fit` in a row it must have stayed there


@dataclass(frozen=True)
class GANConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; conv: both sides divisible by 4
    classes: int = 0  # how many there are, for a conditional GAN; 0: it takes no labels
    parts: int = 1  # always 1
    told: str = "projection"  # how the discriminator is told the label; or channel
    mislabelled: float = 0.0  # of what the discriminator learns to refuse, the share that are real images under a wrong label
    latent: int = 64  # size of the noise
    network: str = "conv"  # or mlp
    width: int = 32  # conv: channels at half the resolution, more where it is lower; mlp: units of the smallest hidden layer
    objective: str = "nonsaturating"  # or minimax, wgan-gp, hinge
    adversarial: float = 1.0  # weight of that objective in the generator's loss; 0 leaves feature matching alone
    feature_matching: float = 0.0  # weight of the distance between mean features of real and made images
    generator_norm: bool = True  # batch norm in the generator
    spectral_norm: bool = False  # in the discriminator (Miyato et al. 2018)
    dropout: float = 0.0  # in the discriminator
    betas: tuple[float, float] = (0.5, 0.999)  # of Adam
    discriminator_rate: float = 1.0  # the discriminator's learning rate, as a multiple of the generator's
    average: float = 0.0  # decay of a running average of the generator's weights, with which samples are drawn; 0: none


@dataclass(frozen=True)
class ProGANConfig(GANConfig):
    """And how it grows: from the smallest image upwards, each stage twice as large as the one before."""

    stage_steps: int = 1_000  # from one stage to the next; the last one takes what is left of the training
    fade: float = 0.5  # share of a stage in which its new layers fade in; 0 switches hard


class Player(NamedTuple):
    """One side of the game, as `training.fit` needs it."""

    name: str
    network: nn.Module
    loss: Callable  # of (images, labels): named terms, what it descends under "loss"
    rate: float = 1.0  # its learning rate, as a multiple of the run's
    betas: tuple[float, float] = (0.9, 0.999)


# ------------------------------------------------------------------------------------------------------ objectives


def discriminator_loss(objective: str, real, fake) -> torch.Tensor:
    """What the discriminator descends, of its scores (N,) of real and made images.

    minimax, nonsaturating: -log D(x) - log(1 - D(G(z))) with D = sigmoid(score), in nats (Goodfellow et al. 2014,
        equation 1); 2 log 2 = 1.39 where it can't tell them apart.
    wgan-gp: an estimate of minus the Wasserstein distance (Arjovsky et al. 2017, equation 2).
    hinge: no more is wanted of a score than to be beyond 1 on the right side (Lim & Ye 2017; Miyato et al. 2018, equation 16).
    """
    if objective in ("minimax", "nonsaturating"):
        return F.softplus(-real).mean() + F.softplus(fake).mean()  # -log sigmoid(s) = softplus(-s), safe for any score
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def generator_loss(objective: str, fake) -> torch.Tensor:
    """What the generator descends, of the scores (N,) of the images that it made.

    minimax: log(1 - D(G(z))), flat where the discriminator is sure, as it is at first; nonsaturating: -log D(G(z)), steep
    there (Goodfellow et al. 2014, section 3), log 2 = 0.69 where D can't tell.
    """
    if objective == "minimax":
        return -F.softplus(fake).mean()
    if objective == "nonsaturating":
        return F.softplus(-fake).mean()
    return -fake.mean()


def gradient_penalty(score: Callable, real, fake) -> torch.Tensor:
    """Mean of (|gradient of score| - 1)^2 at random points between real and made images (Gulrajani et al. 2017, equation 3).

    score: images (N, C, H, W) to scores (N,). Each pair has a point of its own on the line between them. Computed in the
    precision of the images: a norm of gradients in bfloat16 would be off by a percent.
    """
    share = torch.rand(len(real), 1, 1, 1, device=real.device, dtype=real.dtype)
    between = torch.lerp(fake, real, share).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        (gradient,) = torch.autograd.grad(score(between).sum(), between, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


def other_labels(labels, classes: int) -> torch.Tensor:
    """For each label (N,) one of the other classes, all as likely.

    A real image under such a label is one more thing for the discriminator to refuse: fakes alone teach it first of all
    whether an image is real, and only indirectly whether it is what was asked for (Reed et al. 2016, section 4.2).
    """
    return (labels + torch.randint_like(labels, 1, classes)) % classes


def feature_matching(real, fake, labels=None, classes: int = 1) -> torch.Tensor:
    """Mean squared difference between the mean features (N, F) of real and of made images (Salimans et al. 2016, section 3.1).

    labels (N,), of both: the means are then taken class by class, or nothing would tell which class an image should be of.
    """
    labels = torch.zeros(len(real), dtype=torch.long, device=real.device) if labels is None else labels
    belongs = F.one_hot(labels, classes).to(real.dtype)
    means = belongs.T @ (real - fake) / belongs.sum(0).clamp(min=1)[:, None]
    return means.square().mean()


# -------------------------------------------------------------------------------------------------------- networks


class Generator(nn.Module):
    """Noise (N, latent), and labels (N,) where there are classes, to images (N, C, H, W) in [-1, 1].

    mlp: hidden layers of width, 2 width and 4 width; conv: two transposed convolutions from a quarter of the size up (Radford
    et al. 2016). A label's learned vector is joined to the noise (Mirza & Osindero 2014).
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        (channels, height, width), w = config.image_shape, config.width
        self.label = nn.Embedding(config.classes, config.latent) if config.classes else None
        size = config.latent * (2 if config.classes else 1)
        if config.network == "mlp":
            norm = nn.BatchNorm1d if config.generator_norm else nn.Identity
            layers = []
            for units in (w, 2 * w, 4 * w):
                layers += [nn.Linear(size, units), norm(units), nn.LeakyReLU(0.2)]
                size = units
            self.net = nn.Sequential(*layers, nn.Linear(size, channels * height * width), nn.Unflatten(1, config.image_shape))
        else:
            norm = nn.BatchNorm2d if config.generator_norm else nn.Identity
            self.net = nn.Sequential(
                nn.Linear(size, 2 * w * (height // 4) * (width // 4)),
                nn.Unflatten(1, (2 * w, height // 4, width // 4)),
                norm(2 * w),
                nn.ReLU(),
                nn.ConvTranspose2d(2 * w, w, 4, stride=2, padding=1),
                norm(w),
                nn.ReLU(),
                nn.ConvTranspose2d(w, channels, 4, stride=2, padding=1),
            )

    def forward(self, z, labels=None):
        return self.draw(z, None if self.label is None else self.label(labels))

    def draw(self, z, vectors=None):
        """Images of noise and of labels' vectors (N, latent), which may lie between those of two classes."""
        return torch.tanh(self.net(z if vectors is None else torch.cat([z, vectors], dim=1)))


class Discriminator(nn.Module):
    """Images (N, C, H, W) in [-1, 1] to features (N, F), and these, with the labels (N,) where there are classes, to scores (N,).

    The label comes in by projection, score = w . f + v_label . f + b (Miyato & Koyama 2018, equation 3), or as one more
    channel of the image, a learned picture for each class (as Mirza & Osindero 2014 join it).
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        (channels, height, width), w = config.image_shape, config.width
        self.picture = self.vector = None
        if config.classes and config.told == "channel":
            self.picture, channels = nn.Embedding(config.classes, height * width), channels + 1
        norm = spectral_norm if config.spectral_norm else lambda layer: layer
        end = [nn.LeakyReLU(0.2), nn.Dropout(config.dropout)]
        if config.network == "mlp":
            size = w
            first, second = nn.Linear(channels * height * width, 2 * w), nn.Linear(2 * w, w)
            self.net = nn.Sequential(nn.Flatten(), norm(first), *end, norm(second), *end)
        else:
            size = 2 * w * (height // 4) * (width // 4)
            first, second = nn.Conv2d(channels, w, 4, stride=2, padding=1), nn.Conv2d(w, 2 * w, 4, stride=2, padding=1)
            self.net = nn.Sequential(norm(first), *end, norm(second), *end, nn.Flatten())
        self.head = norm(nn.Linear(size, 1))
        if config.classes and config.told == "projection":
            vector = nn.Embedding(config.classes, size)
            nn.init.normal_(vector.weight, std=0.02)  # at first the label hardly matters
            self.vector = norm(vector)

    def features(self, x, labels=None):
        if self.picture is not None:
            x = torch.cat([x, self.picture(labels).view(-1, 1, *x.shape[2:]).to(x.dtype)], dim=1)
        return self.net(x)

    def score(self, features, labels=None):
        score = self.head(features).squeeze(1)
        return score if self.vector is None else score + (self.vector(labels) * features).sum(1)

    def forward(self, x, labels=None):
        return self.score(self.features(x, labels), labels)


# ------------------------------------------------------------------------------------------------------------ game


class GAN(nn.Module):
    """A generator and a discriminator: images (N, C, H, W), uint8 or floats in [0, 1]; noise z (N, latent), standard normal."""

    watched = ("discriminator_loss", "generator_loss")

    def __init__(self, config: GANConfig):
        super().__init__()
        check_config(config)
        self.config, self.step, self.won = config, 0, 0
        self.generator, self.discriminator = self.networks()
        if config.average:
            self.averaged = copy.deepcopy(self.generator).requires_grad_(False)

    def networks(self):
        return Generator(self.config), Discriminator(self.config)

    @property
    def latent_dim(self):
        return self.config.latent

    @property
    def dtype(self):
        return next(self.parameters()).dtype

    def regions(self):
        once = self.config.objective != "wgan-gp"  # compiled code has no gradient of a gradient
        return [self.generator.net, *([self.discriminator.net] if once else [])]

    def players(self) -> list[Player]:
        """Who moves in one step of training, in this order."""
        return [
            Player("discriminator", self.discriminator, self.discriminator_terms, self.config.discriminator_rate, self.config.betas),
            Player("generator", self.generator, self.generator_terms, 1.0, self.config.betas),
        ]

    def real(self, images):
        """The images as the discriminator sees them, in [-1, 1]."""
        return 2 * pixels(self, images) - 1

    def noise(self, n):
        return torch.randn(n, self.latent_dim, dtype=self.dtype, device=next(self.parameters()).device)

    def discriminator_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The discriminator's loss and its parts, and `accuracy`: the share of real and made images that it tells right."""
        labels, real = self._labels(labels), self.real(images)
        with torch.no_grad():
            fake = self.generator(self.noise(len(real)), labels).to(real.dtype)
        features = self.discriminator.features(real, labels)
        score_real, score_fake = self.discriminator.score(features, labels).to(self.dtype), self.discriminator(fake, labels).to(self.dtype)
        objective = discriminator_loss(self.config.objective, score_real, score_fake)
        if self.config.mislabelled:
            wrong = other_labels(labels, self.config.classes)
            if self.config.told == "channel":  # else the features don't depend on the label
                features = self.discriminator.features(real, wrong)
            score_wrong = self.discriminator.score(features, wrong).to(self.dtype)
            refused = discriminator_loss(self.config.objective, score_real, score_wrong)
            objective = torch.lerp(objective, refused, self.config.mislabelled)  # of wgan-gp no Wasserstein distance any more
        loss = objective
        terms = {"accuracy": ((score_real > 0).float().mean() + (score_fake < 0).float().mean()) / 2}
        if self.config.objective == "wgan-gp" and torch.is_grad_enabled():
            # 10 is the penalty's weight in the paper; 0.001 keeps the scores, whose level means nothing, from drifting
            # away (Karras et al. 2018, appendix A.1)
            terms["penalty"] = gradient_penalty(lambda x: self.discriminator(x, labels), real, fake)
            loss = loss + 10 * terms["penalty"] + 0.001 * score_real.square().mean()
            terms["objective"] = objective
        return {"loss": loss} | terms

    def generator_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The generator's loss and its parts."""
        labels = self._labels(labels)
        with frozen(self.discriminator):
            features = self.discriminator.features(self.generator(self.noise(len(images)), labels), labels)
            adversarial = generator_loss(self.config.objective, self.discriminator.score(features, labels).to(self.dtype))
            if not self.config.feature_matching:
                return {"loss": self.config.adversarial * adversarial}
            with torch.no_grad():
                of_real = self.discriminator.features(self.real(images), labels)
        matching = feature_matching(of_real.to(self.dtype), features.to(self.dtype), labels, max(1, self.config.classes))
        loss = self.config.adversarial * adversarial + self.config.feature_matching * matching
        return {"loss": loss, "adversarial": adversarial, "feature_matching": matching}

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Both players' terms, to look at; "loss" is the sum of their losses, which nobody descends."""
        both = {"discriminator": self.discriminator_terms(images, labels), "generator": self.generator_terms(images, labels)}
        terms = {f"{player}_{name}": value for player, found in both.items() for name, value in found.items()}
        return {"loss": terms["discriminator_loss"] + terms["generator_loss"]} | terms

    def load_state_dict(self, state_dict, *options, **more):
        """Shipped weights hold the averaged generator alone; the other one then starts as that."""
        if self.config.average and not any(key.startswith("generator.") for key in state_dict):
            copies = {key.replace("averaged.", "generator.", 1): value for key, value in state_dict.items() if key.startswith("averaged.")}
            state_dict = dict(state_dict) | copies
        return super().load_state_dict(state_dict, *options, **more)

    def _labels(self, labels):
        return labels if self.config.classes else None

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the running average of the generator; at first it follows fast, so that the random start is forgotten."""
        if self.config.average:
            decay = min(self.config.average, (1 + self.step) / (10 + self.step))
            for slow, fast in zip(self.averaged.state_dict().values(), self.generator.state_dict().values(), strict=True):
                if slow.is_floating_point():
                    slow.lerp_(fast, 1 - decay)

    def alarm(self, means: dict[str, float]) -> str | None:
        """A sentence once the discriminator has won for good; means: of each term over the last few steps."""
        lost = self.config.objective != "wgan-gp" and means["discriminator_loss"] < LOST
        self.won = self.won + 1 if lost else 0
        if self.won == LOOKS:
            return (
                f"The discriminator has won: its loss has stayed below {LOST}, the generator's is {means['generator_loss']:.2f} and no longer "
                "teaches it anything. Lower the learning rate or Adam's first beta, or give the discriminator dropout."
            )
        return None

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of noise z (N, latent)."""
        check_latents(z, self.latent_dim)
        check_labels(self, labels, len(z))
        return ((self.drawn_with(z, labels) + 1) / 2).clamp(0, 1)

    @property
    def drawn_with(self):
        """The generator that samples are drawn with: the average, where there is one and training is over."""
        return self.averaged if self.config.average and not self.training else self.generator

    def blend(self, z, first, second, share: float) -> torch.Tensor:
        """Images in [0, 1] of noise z (N, latent), and of something between the classes `first` and `second` (N,)."""
        check_latents(z, self.latent_dim)
        for labels in (first, second):
            check_labels(self, labels, len(z))
        generator = self.drawn_with
        vectors = torch.lerp(generator.label(first), generator.label(second), share)
        return ((generator.draw(z, vectors) + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] of noise whose standard deviation is multiplied by `temperature`."""
        noise = prior_noise(self, n, temperature)
        check_labels(self, labels, n)
        parts = [None] * n if labels is None else labels.to(noise.device).split(500)
        return torch.cat([self.decode(z, part) for z, part in zip(noise.split(500), parts, strict=False)])


@contextlib.contextmanager
def frozen(network):
    """No gradients for the weights of `network`, only through it: the other player's move must not cost them."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)


def check_config(config: GANConfig) -> None:
    """UserError for settings that make no model."""
    if config.objective not in OBJECTIVES:
        raise UserError(f"There is no objective {config.objective!r}: take one of {', '.join(OBJECTIVES)}.")
    if config.network not in NETWORKS:
        raise UserError(f"There is no network {config.network!r}: take one of {', '.join(NETWORKS)}.")
    if config.told not in WAYS:
        raise UserError(f"There is no way {config.told!r} to tell the label: take one of {', '.join(WAYS)}.")
    if config.network == "conv" and any(side % 4 or side < 4 for side in config.image_shape[1:]):
        raise UserError(f"Images of {config.image_shape[1:]} don't fit: a conv GAN needs sides divisible by 4; network='mlp' takes any.")
    if config.parts != 1:
        raise UserError("A conditional GAN knows one label an image: train it on mnist rather than on pairs.")
    if not 0 <= config.mislabelled < 1 or (config.mislabelled and config.classes < 2):
        raise UserError(
            f"A share of {config.mislabelled} mislabelled images was asked for, of {config.classes} classes: "
            "take a share from 0 to below 1, and for more than 0 at least two classes."
        )
    if len(config.betas) != 2 or not all(isinstance(beta, int | float) and 0 <= beta < 1 for beta in config.betas) or config.discriminator_rate <= 0:
        raise UserError(
            f"betas {config.betas} and a discriminator_rate of {config.discriminator_rate} were given: "
            "take two numbers from 0 to below 1, and a rate above 0."
        )
    if config.latent < 1:
        raise UserError(f"Noise of size {config.latent} was asked for: take at least 1.")
    if config.adversarial < 0 or config.feature_matching < 0 or config.adversarial + config.feature_matching == 0:
        raise UserError(
            f"The weights {config.adversarial} (adversarial) and {config.feature_matching} (feature matching) were given: "
            "take numbers from 0 up, not both 0."
        )
    if not 0 <= config.average < 1:
        raise UserError(f"A running average of decay {config.average} was asked for: take a number from 0 (none) to below 1.")


# --------------------------------------------------------------------------------------------------------- growing


class EqualConv(nn.Conv2d):
    """A convolution whose weights start at N(0, 1) and are scaled at each use (Karras et al. 2018, section 4.1).

    He's scale, sqrt(2 / fan-in), is applied at run time instead of at the start: Adam moves every weight by about the
    learning rate, so with weights of one size all layers learn at one speed.
    """

    def __init__(self, in_channels, out_channels, size=3, gain=2.0, **options):
        super().__init__(in_channels, out_channels, size, padding=size // 2, **options)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(gain / (in_channels * size**2))

    def forward(self, x):
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.padding)


class EqualLinear(nn.Linear):
    """A linear layer with an equalised learning rate, as EqualConv."""

    def __init__(self, size, out, gain=2.0):
        super().__init__(size, out)
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)
        self.scale = math.sqrt(gain / size)

    def forward(self, x):
        return F.linear(x, self.weight * self.scale, self.bias)


class PixelNorm(nn.Module):
    """Each pixel's features, or each vector, at unit mean square: no signal grows out of bounds (Karras et al. 2018, section 4.2)."""

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-8)


def minibatch_deviation(x) -> torch.Tensor:
    """x (N, C, H, W) with one more channel: the standard deviation over the batch, averaged over everything else.

    So the discriminator sees that a batch is all alike, which no single image shows (Karras et al. 2018, section 3).
    """
    if len(x) < 2:
        raise UserError("A batch of 1 image was given to minibatch standard deviation: give at least 2.")
    deviation = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return torch.cat([x, deviation.expand(len(x), 1, *x.shape[2:])], dim=1)


def enlarge(x):
    return F.interpolate(x, scale_factor=2, mode="nearest")


def shrink(x):
    return F.avg_pool2d(x, 2)


def sides(config: ProGANConfig) -> list[tuple[int, int]]:
    """Height and width of the images of each stage: halved as often as they stay whole and at least 4."""
    found = [tuple(config.image_shape[1:])]
    while all(side % 2 == 0 and side >= 8 for side in found[0]):
        found.insert(0, tuple(side // 2 for side in found[0]))
    return found


class Growing(nn.Module):
    """What both growing networks know: the stage (from 0) they have reached, and how far its layers are faded in, alpha."""

    def __init__(self, config: ProGANConfig):
        super().__init__()
        self.sides = sides(config)
        self.stage, self.alpha = len(self.sides) - 1, 1.0
        last = self.stage
        self.channels = [config.width * min(4, 2 ** (last - stage)) for stage in range(last + 1)]

    def fade(self, old: Callable, new):
        """(1 - alpha) * old() + alpha * new: between what the stage before would say and what this one says."""
        return new if self.stage == 0 or self.alpha >= 1 else torch.lerp(old(), new, self.alpha)


class GrowingGenerator(Growing):
    """Noise (N, latent) to images (N, C, H, W) in [-1, 1] at the resolution of the stage reached.

    Unlike the paper's it doesn't scale the noise to one length: then noise could not be truncated.
    """

    def __init__(self, config: ProGANConfig):
        super().__init__(config)
        height, width = self.sides[0]
        act = nn.LeakyReLU(0.2)
        start = EqualLinear(config.latent, self.channels[0] * height * width, gain=0.125)  # a 16th of He's variance, as in the paper's code
        first = [start, nn.Unflatten(1, (self.channels[0], height, width)), act, PixelNorm()]
        self.blocks = nn.ModuleList([nn.Sequential(*first, EqualConv(self.channels[0], self.channels[0]), act, PixelNorm())])
        for a, b in zip(self.channels, self.channels[1:], strict=False):
            self.blocks.append(nn.Sequential(EqualConv(a, b), act, PixelNorm(), EqualConv(b, b), act, PixelNorm()))
        self.to_image = nn.ModuleList(EqualConv(c, config.image_shape[0], 1, gain=1.0) for c in self.channels)

    def forward(self, z, labels=None):
        h = self.blocks[0](z)
        for stage in range(1, self.stage + 1):
            below, h = h, self.blocks[stage](enlarge(h))
        return self.fade(lambda: enlarge(self.to_image[self.stage - 1](below)), self.to_image[self.stage](h))


class GrowingDiscriminator(Growing):
    """Images (N, C, H, W) at the resolution of the stage reached to features (N, F); `head` makes scores of them."""

    def __init__(self, config: ProGANConfig):
        super().__init__(config)
        height, width = self.sides[0]
        act, size = nn.LeakyReLU(0.2), self.channels[0]
        self.from_image = nn.ModuleList(nn.Sequential(EqualConv(config.image_shape[0], c, 1), act) for c in self.channels)
        self.blocks = nn.ModuleList([nn.Sequential(EqualConv(size + 1, size), act, nn.Flatten(), EqualLinear(size * height * width, size), act)])
        for a, b in zip(self.channels, self.channels[1:], strict=False):
            self.blocks.append(nn.Sequential(EqualConv(b, b), act, EqualConv(b, a), act))
        self.head = EqualLinear(size, 1, gain=1.0)

    def features(self, x, labels=None):
        h = self.from_image[self.stage](x)
        for stage in range(self.stage, 0, -1):
            h = shrink(self.blocks[stage](h))
            if stage == self.stage:
                h = self.fade(lambda: self.from_image[self.stage - 1](shrink(x)), h)
        return self.blocks[0](minibatch_deviation(h))

    def score(self, features, labels=None):
        return self.head(features).squeeze(1)

    def forward(self, x, labels=None):
        return self.score(self.features(x))


class ProGAN(GAN):
    """Progressive growing of GANs (Karras et al. 2018): first what an image is like when it is tiny, then ever finer detail.

    Each stage begins with the layers of the one before and fades in new ones (figure 2 there). In training the stage follows
    from `step`; a model that was loaded is fully grown. Generator and discriminator are always at the same stage.
    """

    def __init__(self, config: ProGANConfig):
        if config.classes:
            raise UserError("A ProGAN knows no labels: leave classes at 0.")
        if config.stage_steps < 1 or not 0 <= config.fade <= 1:
            raise UserError(f"Stages of {config.stage_steps} steps with a fade-in of {config.fade} were asked for: at least 1, and from 0 to 1.")
        super().__init__(config)

    def networks(self):
        return GrowingGenerator(self.config), GrowingDiscriminator(self.config)

    @property
    def resolutions(self) -> list[int]:
        """The height of the images of each stage."""
        return [height for height, _ in self.generator.sides]

    def regions(self):
        blocks = [*self.generator.blocks, *self.discriminator.blocks]
        return blocks if self.config.objective != "wgan-gp" else list(self.generator.blocks)

    def grow(self, stage: int, alpha: float = 1.0) -> None:
        """Set both networks to a stage, its layers faded in by alpha in [0, 1]."""
        if not 0 <= alpha <= 1:
            raise UserError(f"α = {alpha} was given: take a number from 0, the stage before, to 1, this one.")
        for network in (self.generator, self.discriminator, *([self.averaged] if self.config.average else [])):
            network.stage, network.alpha = stage, alpha

    def growth(self, step: int) -> tuple[int, float]:
        """Stage and alpha at a step of training: alpha rises in a line over the first part of a stage."""
        steps, last = self.config.stage_steps, len(self.resolutions) - 1
        stage = min(step // steps, last)
        faded = steps * self.config.fade if stage else 0
        return stage, min(1.0, (step - stage * steps) / faded) if faded else 1.0

    def real(self, images):
        x = super().real(images)
        for _ in range(len(self.resolutions) - 1 - self.generator.stage):
            x = shrink(x)
        return self.generator.fade(lambda: enlarge(shrink(x)), x)

    def discriminator_terms(self, images, labels=None):
        if self.training:
            self.grow(*self.growth(self.step))
        return super().discriminator_terms(images, labels)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None) -> torch.Tensor:
        """n images in [0, 1] at full size, of whatever stage has been reached."""
        images = super().sample(n, temperature, labels)
        return F.interpolate(images, size=self.config.image_shape[1:], mode="nearest")

    def decode(self, z, labels=None, resolution: int | None = None, alpha: float = 1.0) -> torch.Tensor:
        """Images in [0, 1] of noise z (N, latent), at the stage reached, or at the `resolution` of another, faded in by alpha."""
        if resolution is None:
            return super().decode(z, labels)
        if resolution not in self.resolutions:
            raise UserError(f"There is no stage of resolution {resolution}: take one of {', '.join(map(str, self.resolutions))}.")
        before = self.generator.stage, self.generator.alpha
        try:
            self.grow(self.resolutions.index(resolution), alpha)
            return super().decode(z, labels)
        finally:
            self.grow(*before)
