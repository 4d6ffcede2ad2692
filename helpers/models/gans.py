"""Generative adversarial networks: one network makes images out of noise, another tells them from real ones, and each
learns from the other (Goodfellow et al. 2014). There is no likelihood: what comes out is judged by looking, or by
measuring samples.

A score, here, is what the discriminator says before any sigmoid: above 0 for real. Everything that a game between the
two can be is in `discriminator_loss` and `generator_loss`; below them are the networks that play it, then the game.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from helpers import UserError
from helpers.models.layers import Attention, check_labels, check_latents, pixels
from helpers.models.model import Model, Player
from helpers.models.settings import Count, Rest, Size, Weight

REMEMBERED = 512  # made images that are kept for `replay`
LOST = 0.05  # a discriminator whose loss stays below this has won, and its generator learns nothing any more


@dataclass(frozen=True)
class GANConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; conv: both sides divisible by 2^stages
    classes: Count = 0  # how many there are, for a conditional GAN; 0: it takes no labels
    parts: Size = 1  # always 1
    told: Literal["projection", "channel"] = "projection"  # how the discriminator is told the label; or channel
    mislabelled: Rest = 0.0  # of what the discriminator learns to refuse, the share that are real images under a wrong label
    latent: Size = 64  # size of the noise
    network: Literal["conv", "mlp"] = "conv"  # or mlp
    width: Size = 32  # conv: channels at half the resolution, twice as many with each halving; mlp: units of the smallest hidden layer
    stages: Size = 2  # conv: how often the sides are halved
    objective: Literal["minimax", "nonsaturating", "wgan-gp", "hinge", "relativistic"] = "nonsaturating"  # or minimax, wgan-gp, hinge, relativistic
    r1: Weight = 0.0  # gamma of the zero-centred penalty, gamma / 2 |grad|^2, at real images, and r2 of that at made ones
    r2: Weight = 0.0
    adversarial: Weight = 1.0  # weight of that objective in the generator's loss; 0 leaves feature matching alone
    feature_matching: Weight = 0.0  # weight of the distance between mean features of real and made images
    unbiased: bool = False  # that distance without what means of few images differ by in any case
    diversity: Weight = 0.0  # weight of the mode-seeking term, which pushes apart what two noises become (Mao et al. 2019)
    replay: Rest = 0.0  # share of the made images shown to the discriminator that are old ones
    augment: bool = False  # all that the discriminator sees is shifted and partly covered at random
    attention: bool = False  # self-attention at a quarter of the sides; conv alone
    generator_norm: bool = True  # batch norm in the generator
    spectral_norm: bool = False  # in the discriminator (Miyato et al. 2018)
    dropout: Rest = 0.0  # in the discriminator
    betas: tuple[Rest, Rest] = (0.5, 0.999)  # of Adam
    discriminator_rate: Weight = 1.0  # the discriminator's learning rate, as a multiple of the generator's


# ------------------------------------------------------------------------------------------------------ objectives


def discriminator_loss(objective: str, real, fake) -> torch.Tensor:
    """What the discriminator descends, of its scores (N,) of real and made images.

    minimax, nonsaturating: -log D(x) - log(1 - D(G(z))) with D = sigmoid(score), in nats (Goodfellow et al. 2014,
        equation 1); 2 log 2 = 1.39 where it can't tell them apart.
    wgan-gp: an estimate of minus the Wasserstein distance (Arjovsky et al. 2017, equation 2).
    hinge: no more is wanted of a score than to be beyond 1 on the right side (Lim & Ye 2017; Miyato et al. 2018, equation 16).
    relativistic: -log sigmoid of how far a real image scores above a made one (Jolicoeur-Martineau 2019, equation 4); log 2 where it can't tell.
    """
    if objective in ("minimax", "nonsaturating"):
        return F.softplus(-real).mean() + F.softplus(fake).mean()  # -log sigmoid(s) = softplus(-s), safe for any score
    if objective == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    if objective == "relativistic":
        return F.softplus(fake - real).mean()
    return fake.mean() - real.mean()


def generator_loss(objective: str, fake, real=None) -> torch.Tensor:
    """What the generator descends, of the scores (N,) of the images that it made.

    minimax: log(1 - D(G(z))), flat where the discriminator is sure, as it is at first; nonsaturating: -log D(G(z)), steep
    there (Goodfellow et al. 2014, section 3), log 2 = 0.69 where D can't tell. relativistic: needs the scores of real images, too.
    """
    if objective == "minimax":
        return -F.softplus(fake).mean()
    if objective == "nonsaturating":
        return F.softplus(-fake).mean()
    if objective == "relativistic":
        return F.softplus(real - fake).mean()
    return -fake.mean()


def gradient_penalty(score: Callable, real, fake) -> torch.Tensor:
    """Mean of (|gradient of score| - 1)^2 at random points between real and made images (Gulrajani et al. 2017, equation 3).

    score: images (N, ...) to scores (N,). Each pair has a point of its own on the line between them. Computed in the
    precision of the images: a norm of gradients in bfloat16 would be off by a percent.
    """
    share = torch.rand(len(real), *(1,) * (real.ndim - 1), device=real.device, dtype=real.dtype)
    return (slopes(score, torch.lerp(fake, real, share)).norm(dim=1) - 1).square().mean()


def zero_centred_penalty(score: Callable, images) -> torch.Tensor:
    """Mean of |gradient of score|^2 at images (Mescheder et al. 2018, equation 9): at the end of the game the score should be flat there."""
    return slopes(score, images).square().sum(1).mean()


def slopes(score: Callable, images) -> torch.Tensor:
    """Gradients (N, D) of the scores of images in these, through which gradients pass in turn."""
    images = images.detach().requires_grad_()
    with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):  # in validation too: there the loss is to be the same
        (gradient,) = torch.autograd.grad(score(images).sum(), images, create_graph=True)
    return gradient.flatten(1)


def other_labels(labels, classes: int) -> torch.Tensor:
    """For each label (N,) one of the other classes, all as likely.

    A real image under such a label is one more thing for the discriminator to refuse: fakes alone teach it first of all
    whether an image is real, and only indirectly whether it is what was asked for (Reed et al. 2016, section 4.2).
    """
    return (labels + torch.randint_like(labels, 1, classes)) % classes


def feature_matching(real, fake, labels=None, classes: int = 1, unbiased: bool = False) -> torch.Tensor:
    """Mean squared difference between the mean features (N, F) of real and of made images (Salimans et al. 2016, section 3.1).

    labels (N,), of both: the means are then taken class by class, or nothing would tell which class an image should be of.
    unbiased: without what is expected of two means of so few images even where they are of one distribution, the variance of each by
    their number, which rewards a generator for making all images of a class alike. A class with one image is left out then.
    """
    labels = torch.zeros(len(real), dtype=torch.long, device=real.device) if labels is None else labels
    belongs = F.one_hot(labels, classes).to(real.dtype)
    count = belongs.sum(0)[:, None]
    distance = (belongs.T @ (real - fake) / count.clamp(min=1)).square()
    if unbiased:
        for features in (real, fake):
            mean = belongs.T @ features / count.clamp(min=1)
            variance = belongs.T @ (features - mean[labels]).square() / (count - 1).clamp(min=1)
            distance = distance - variance / count.clamp(min=1)
        distance = distance * (count > 1)
    return distance.mean()


def augmented(images) -> torch.Tensor:
    """Images (N, C, H, W), each shifted by up to an eighth of its sides and with a square of half of them covered, both at random.

    Where the discriminator sees real and made images alike through it, it can learn few training images by heart less easily, and the
    gradient still reaches the generator (Zhao et al. 2020).
    """
    n, _, height, width = images.shape
    move = (torch.rand(n, 2, 1, device=images.device, dtype=images.dtype) - 0.5) / 2  # in units of half a side
    turn = torch.eye(2, device=images.device, dtype=images.dtype).expand(n, 2, 2)
    places = F.affine_grid(torch.cat([turn, move], dim=2), images.shape, align_corners=False)
    images = F.grid_sample(images, places, padding_mode="border", align_corners=False)
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    top, left = (torch.randint(-(side // 4), side - side // 4, (n, 1), device=images.device) for side in (height, width))
    covered = ((rows >= top) & (rows < top + height // 2))[:, None, :, None] & ((columns >= left) & (columns < left + width // 2))[:, None, None, :]
    return images * ~covered


# -------------------------------------------------------------------------------------------------------- networks


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


# ------------------------------------------------------------------------------------------------------------ game


class GAN(Model):
    """A generator and a discriminator: images (N, C, H, W), uint8 or floats in [0, 1]; noise z (N, latent), standard normal."""

    Config = GANConfig
    measures = ("samples",)
    its_own = ("memory",)  # of several processes each keeps the images that it has made

    def __init__(self, config: GANConfig):
        super().__init__(config)
        check_config(config)
        self.generator, self.discriminator = self.networks()
        if config.replay:
            self.register_buffer("memory", torch.zeros(REMEMBERED, *config.image_shape))
            self.register_buffer("remembered", torch.zeros((), dtype=torch.long))

    def networks(self):
        return Generator(self.config), Discriminator(self.config)

    @property
    def watched(self):
        """The losses of both; of a critic its objective, since its loss has the penalty in it."""
        critic = self.config.objective == "wgan-gp"
        return ("discriminator_objective" if critic else "discriminator_loss", "generator_loss")

    @property
    def penalised(self) -> bool:
        """Whether the discriminator pays for its gradient: compiled code has no gradient of a gradient."""
        return self.config.objective == "wgan-gp" or bool(self.config.r1 or self.config.r2)

    def regions(self):
        return [self.generator.net, *([] if self.penalised else [self.discriminator.net])]

    def averaged_part(self):
        return self.generator  # samples are drawn with its average; the discriminator plays against what it is now

    def players(self) -> list[Player]:
        return [
            Player("discriminator", self.discriminator, self.discriminator_terms, self.config.discriminator_rate, self.config.betas),
            Player("generator", self.generator, self.generator_terms, 1.0, self.config.betas),
        ]

    def real(self, images):
        """The images as the discriminator sees them, in [-1, 1]."""
        return 2 * pixels(self, images) - 1

    def noise(self, n):
        return torch.randn(n, self.latent_dim, dtype=self.dtype, device=self.device)

    def seen(self, images):
        """Images as the discriminator is shown them."""
        return augmented(images) if self.config.augment else images

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

    def discriminator_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The discriminator's loss and its parts, and `accuracy`: the share of real and made images that it tells right."""
        labels, real = self._labels(labels), self.seen(self.real(images))
        with torch.no_grad():
            fake = self.seen(self.with_old_ones(self.generator(self.noise(len(real)), labels).to(real.dtype)))
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
        terms = {"accuracy": ((score_real > 0).float().mean() + (score_fake < 0).float().mean()) / 2}
        flat = {name: zero_centred_penalty(lambda x: self.discriminator(x, labels), x) for name, x in self._flattened(real, fake)}
        objective_and_flat = objective + sum(getattr(self.config, name) / 2 * penalty for name, penalty in flat.items())
        if self.config.objective != "wgan-gp":
            return {"loss": objective_and_flat} | terms | flat
        penalty = gradient_penalty(lambda x: self.discriminator(x, labels), real, fake)
        # 10 is the penalty's weight in the paper; 0.001 keeps the scores, whose level means nothing, from drifting away
        # (Karras et al. 2018, appendix A.1)
        loss = objective_and_flat + 10 * penalty + 0.001 * score_real.square().mean()
        return {"loss": loss} | terms | {"penalty": penalty, "objective": objective} | flat

    def _flattened(self, real, fake):
        return [(name, x) for name, x in (("r1", real), ("r2", fake)) if getattr(self.config, name)]

    def generator_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The generator's loss and its parts."""
        labels = self._labels(labels)
        z, of_real, score_real, terms = self.noise(len(images)), None, None, {}
        made = self.generator(z, labels)
        with frozen(self.discriminator):
            features = self.discriminator.features(self.seen(made), labels)
            if self.config.feature_matching or self.config.objective == "relativistic":
                with torch.no_grad():
                    of_real = self.discriminator.features(self.seen(self.real(images)), labels)
                    score_real = self.discriminator.score(of_real, labels).to(self.dtype)
            adversarial = generator_loss(self.config.objective, self.discriminator.score(features, labels).to(self.dtype), score_real)
        loss = self.config.adversarial * adversarial
        if self.config.feature_matching:
            count = max(1, self.config.classes)
            matching = feature_matching(of_real.to(self.dtype), features.to(self.dtype), labels, count, self.config.unbiased)
            loss, terms = loss + self.config.feature_matching * matching, {"adversarial": adversarial, "feature_matching": matching}
        if self.config.diversity:
            other = self.noise(len(images))
            alike = (z - other).abs().mean() / (made - self.generator(other, labels)).abs().mean().clamp(min=1e-5)  # Mao et al. 2019, equation 2
            loss, terms = loss + self.config.diversity * alike, terms | {"alike": alike}
        return {"loss": loss} | terms

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Both players' terms, to look at; "loss" is the sum of their losses, which nobody descends."""
        both = {"discriminator": self.discriminator_terms(images, labels), "generator": self.generator_terms(images, labels)}
        terms = {f"{player}_{name}": value for player, found in both.items() for name, value in found.items()}
        return {"loss": terms["discriminator_loss"] + terms["generator_loss"]} | terms

    def _labels(self, labels):
        return labels if self.config.classes else None

    def alarm(self, means: dict[str, float]) -> str | None:
        """A sentence while the discriminator has won; means: of each term over the last few steps."""
        if self.config.objective == "wgan-gp" or means["discriminator_loss"] >= LOST:
            return None
        return (
            f"The discriminator has won: its loss has stayed below {LOST}, the generator's is {means['generator_loss']:.2f} and no longer "
            "teaches it anything. Lower the learning rate or Adam's first beta, or make the discriminator pay for its slope (r1, r2, wgan-gp)."
        )

    def decode(self, z, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of noise z (N, latent)."""
        check_latents(z, self.latent_dim)
        check_labels(self, labels, len(z))
        return ((self.generator(z, labels) + 1) / 2).clamp(0, 1)

    def blend(self, z, first, second, share: float) -> torch.Tensor:
        """Images in [0, 1] of noise z (N, latent), and of something between the classes `first` and `second` (N,)."""
        check_latents(z, self.latent_dim)
        for labels in (first, second):
            check_labels(self, labels, len(z))
        vectors = torch.lerp(self.generator.label(first), self.generator.label(second), share)
        return ((self.generator.draw(z, vectors) + 1) / 2).clamp(0, 1)


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
    if config.adversarial + config.feature_matching == 0:
        raise UserError(
            f"The weights {config.adversarial} (adversarial) and {config.feature_matching} (feature matching) were given: "
            "take numbers from 0 up, not both 0."
        )
