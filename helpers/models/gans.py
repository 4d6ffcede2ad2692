"""Generative adversarial networks, told the class or not: the networks that play, and what labels add to the game of games.py."""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from helpers import UserError
from helpers.models.games import Game, GameConfig, discriminator_loss
from helpers.models.layers import Attention, check_labels, check_latents
from helpers.models.settings import Count, Only, Rest, Size

REMEMBERED = 512  # made images that are kept for `replay`


@dataclass(frozen=True)
class GANConfig(GameConfig):
    """And the networks, and what they are told. conv: both sides divisible by 2^stages."""

    classes: Count = 0  # how many there are, for a conditional GAN; 0: it takes no labels
    parts: Size = 1  # always 1
    told: Annotated[Literal["projection", "channel"], Only("classes")] = "projection"  # how the discriminator is told the label; or channel
    mislabelled: Rest = 0.0  # of what the discriminator learns to refuse, the share that are real images under a wrong label
    replay: Rest = 0.0  # share of the made images shown to the discriminator that are old ones
    network: Literal["conv", "mlp"] = "conv"  # or mlp
    width: Size = 32  # conv: channels at half the resolution, twice as many with each halving; mlp: units of the smallest hidden layer
    stages: Annotated[Size, Only("network", ("conv",))] = 2  # conv: how often the sides are halved
    attention: Annotated[bool, Only("network", ("conv",))] = False  # self-attention at a quarter of the sides; conv alone
    generator_norm: bool = True  # batch norm in the generator
    spectral_norm: bool = False  # in the discriminator (Miyato et al. 2018)
    dropout: Rest = 0.0  # in the discriminator


class Generator(nn.Module):
    """Noise (N, latent), and labels (N,) where there are classes, to images (N, C, H, W) in [-1, 1].

    mlp: hidden layers of width, 2 width and 4 width; conv: transposed convolutions that double the sides, `stages` of them
    (Radford et al. 2016). A label's learned vector is joined to the noise (Mirza & Osindero 2014).
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
            norm, deepest = nn.BatchNorm2d if config.generator_norm else nn.Identity, w * 2 ** (config.stages - 1)
            sides = (height // 2**config.stages, width // 2**config.stages)
            layers = [nn.Linear(size, deepest * sides[0] * sides[1]), nn.Unflatten(1, (deepest, *sides))]
            for k in range(config.stages, 0, -1):  # where the sides are divided by 2^k
                wide, narrow = w * 2 ** (k - 1), w * 2 ** (k - 2) if k > 1 else channels
                looking = [Attention(wide)] if config.attention and k == 2 else []
                layers += [norm(wide), nn.ReLU(), *looking, nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
            self.net = nn.Sequential(*layers)

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
            layers, size = [], channels
            for k in range(1, config.stages + 1):
                wide = w * 2 ** (k - 1)
                looking = [Attention(wide)] if config.attention and k == 2 else []
                layers, size = [*layers, norm(nn.Conv2d(size, wide, 4, stride=2, padding=1)), *end, *looking], wide
            self.net = nn.Sequential(*layers, nn.Flatten())
            size = size * (height // 2**config.stages) * (width // 2**config.stages)
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


def other_labels(labels, classes: int) -> torch.Tensor:
    """For each label (N,) one of the other classes, all as likely.

    A real image under such a label is one more thing for the discriminator to refuse: fakes alone teach it first of all
    whether an image is real, and only indirectly whether it is what was asked for (Reed et al. 2016, section 4.2).
    """
    return (labels + torch.randint_like(labels, 1, classes)) % classes


class GAN(Game):
    """A generator and a discriminator, and a memory of what was made. Labels (N,), where the configuration has classes."""

    Config = GANConfig
    its_own = ("memory",)  # of several processes each keeps the images that it has made

    def __init__(self, config: GANConfig):
        check_config(config)
        super().__init__(config)
        if config.replay:
            self.register_buffer("memory", torch.zeros(REMEMBERED, *config.image_shape))
            self.register_buffer("remembered", torch.zeros((), dtype=torch.long))

    def networks(self):
        return Generator(self.config), Discriminator(self.config)

    def regions(self):
        return [self.generator.net, *([] if self.penalised else [self.discriminator.net])]

    @torch.no_grad()
    def with_old_ones(self, fake):
        """Made images, some of them exchanged for ones made earlier, which stay in memory until newer ones take their place (Shrivastava et al.
        2017, section 2.3): a generator that only runs from one place to the next is seen where it was."""
        if not self.config.replay or not self.training:
            return fake
        n = round(self.config.replay * len(fake))
        new, places = fake[:n].to(self.memory.dtype), (torch.arange(n, device=fake.device) + self.remembered) % REMEMBERED
        old = self.memory[(torch.rand(n, device=fake.device) * self.remembered.clamp(1, REMEMBERED)).long()]
        old = torch.where(self.remembered > 0, old, new)  # at first there is nothing to remember
        self.memory[places] = new
        self.remembered += n
        return torch.cat([old.to(fake.dtype), fake[n:]])

    def refused(self, objective, real, features, score_real, labels):
        if not self.config.mislabelled:
            return objective
        wrong = other_labels(labels, self.config.classes)
        if self.config.told == "channel":  # else the features don't depend on the label
            features = self.discriminator.features(real, wrong)
        score_wrong = self.discriminator.score(features, wrong).to(self.dtype)
        refused = discriminator_loss(self.config.objective, score_real, score_wrong)
        return torch.lerp(objective, refused, self.config.mislabelled)  # of wgan-gp no Wasserstein distance any more

    def blend(self, z, first, second, share: float) -> torch.Tensor:
        """Images in [0, 1] of noise z (N, latent), and of something between the classes `first` and `second` (N,)."""
        check_latents(z, self.latent_dim)
        for labels in (first, second):
            check_labels(self, labels, len(z))
        vectors = torch.lerp(self.generator.label(first), self.generator.label(second), share)
        return ((self.generator.draw(z, vectors) + 1) / 2).clamp(0, 1)


def check_config(config: GANConfig) -> None:
    """UserError for settings that make no model."""
    if config.network == "conv" and any(side % 2**config.stages for side in config.image_shape[1:]):
        raise UserError(
            f"Images of {config.image_shape[1:]} don't fit: a conv GAN of {config.stages} stages needs sides divisible by {2**config.stages}; "
            "network='mlp' takes any."
        )
    if config.parts != 1:
        raise UserError("A conditional GAN knows one label an image: train it on mnist rather than on pairs.")
    if config.mislabelled and config.classes < 2:
        raise UserError(f"Mislabelled images were asked for, of {config.classes} classes: that takes at least two.")
    if config.replay and config.classes:
        raise UserError(f"Old images were asked for, of {config.classes} classes: they are kept without their labels, so leave replay or the labels.")
