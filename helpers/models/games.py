"""A game of two: one network makes images out of noise, another tells them from real ones, and each learns from the other
(Goodfellow et al. 2014). There is no likelihood: what comes out is judged by looking, or by measuring samples.

A score, here, is what the discriminator says before any sigmoid: above 0 for real. Everything that a game between the
two can be is in `discriminator_loss` and `generator_loss`; `Game` plays it, whatever the networks: those of gans.py, or of growing.py.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F

from helpers import UserError
from helpers.models.layers import check_labels, check_latents, pixels
from helpers.models.model import Model, Player
from helpers.models.settings import Only, Rest, Size, Weight

LOST = 0.05  # a discriminator whose loss stays below this has won, and its generator learns nothing any more


@dataclass(frozen=True)
class GameConfig:
    """What both descend, and what the discriminator sees."""

    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width
    latent: Size = 64  # size of the noise
    objective: Literal["minimax", "nonsaturating", "wgan-gp", "hinge", "relativistic"] = "nonsaturating"  # or minimax, wgan-gp, hinge, relativistic
    r1: Weight = 0.0  # gamma of the zero-centred penalty, gamma / 2 |grad|^2, at real images, and r2 of that at made ones
    r2: Weight = 0.0
    adversarial: Weight = 1.0  # weight of that objective in the generator's loss; 0 leaves feature matching alone
    feature_matching: Weight = 0.0  # weight of the distance between mean features of real and made images
    unbiased: Annotated[bool, Only("feature_matching")] = False  # that distance without what means of few images differ by in any case
    diversity: Weight = 0.0  # weight of the mode-seeking term, which pushes apart what two noises become (Mao et al. 2019)
    augment: bool = False  # all that the discriminator sees is shifted and partly covered at random
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


def feature_matching(real, fake, labels=None, classes: int = 1, unbiased: Annotated[bool, Only("feature_matching")] = False) -> torch.Tensor:
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


# ------------------------------------------------------------------------------------------------------------ game


class Game(Model):
    """A generator and a discriminator: images (N, C, H, W), uint8 or floats in [0, 1]; noise z (N, latent), standard normal.

    A family gives networks() -> the two: generator(z, labels) in [-1, 1]; discriminator.features(x, labels), .score(features, labels),
    and the one after the other by a call.
    """

    measures = ("samples",)

    def __init__(self, config: GameConfig):
        super().__init__(config)
        if config.adversarial + config.feature_matching == 0:
            raise UserError(
                f"The weights {config.adversarial} (adversarial) and {config.feature_matching} (feature matching) were given: "
                "take numbers from 0 up, not both 0."
            )
        self.generator, self.discriminator = self.networks()

    @property
    def watched(self):
        """The losses of both; of a critic its objective, since its loss has the penalty in it."""
        critic = self.config.objective == "wgan-gp"
        return ("discriminator_objective" if critic else "discriminator_loss", "generator_loss")

    @property
    def penalised(self) -> bool:
        """Whether the discriminator pays for its gradient: compiled code has no gradient of a gradient."""
        return self.config.objective == "wgan-gp" or bool(self.config.r1 or self.config.r2)

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

    def with_old_ones(self, fake):
        """Made images as they come; a family may exchange some for those that it remembers."""
        return fake

    def discriminator_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The discriminator's loss and its parts, and `accuracy`: the share of real and made images that it tells right."""
        labels, real = self._labels(labels), self.seen(self.real(images))
        with torch.no_grad():
            fake = self.seen(self.with_old_ones(self.generator(self.noise(len(real)), labels).to(real.dtype)))
        features = self.discriminator.features(real, labels)
        score_real, score_fake = self.discriminator.score(features, labels).to(self.dtype), self.discriminator(fake, labels).to(self.dtype)
        objective = self.refused(discriminator_loss(self.config.objective, score_real, score_fake), real, features, score_real, labels)
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
            count = 1 if labels is None else self.config.classes
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
        """The labels where the networks are told them."""
        return labels if self.labelled else None

    def refused(self, objective, real, features, score_real, labels):
        """The discriminator's objective, with what else it learns to refuse; real (N, C, H, W), their features and scores. Here: nothing."""
        return objective

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


@contextlib.contextmanager
def frozen(network):
    """No gradients for the weights of `network`, only through it: the other player's move must not cost them."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
