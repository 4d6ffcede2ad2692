"""A flow map that a judge corrects: what a regression blurs in few steps, a discriminator sees.

The chords of flow_map.py are learned by a mean squared error. Where a network can't tell the ends of two ways apart, its answer lies between
them, and a mean of two coats is no coat. A discriminator refuses such images, and the map learns from it as a generator does, beside the
chords (Kim et al. 2024, consistency trajectory models, section 4.2; Sauer et al. 2024, adversarial diffusion distillation, section 3).
"""

from dataclasses import dataclass
from typing import Annotated

import torch

from helpers.models.flow_map import FlowMap, FlowMapConfig, hop, jump
from helpers.models.games import discriminator_loss, frozen, generator_loss, zero_centred_penalty
from helpers.models.gans import Discriminator, GANConfig, other_labels
from helpers.models.model import Player
from helpers.models.settings import Only, Rest, Size, Weight


@dataclass(frozen=True)
class JudgedMapConfig(FlowMapConfig):
    """A flow map's configuration, and its judge's."""

    judged: Weight = 0.5  # weight of what the judge says in the map's loss, beside the chords
    jumps: Size = 3  # the judge sees images after two hops, and after one to so many jumps
    judge_width: Size = 64  # channels of the judge at half the resolution, twice as many at a quarter
    r1: Weight = 0.3  # gamma of the judge's penalty at real images, and r2 of that at made ones, as in GameConfig
    r2: Weight = 0.3
    mislabelled: Annotated[Rest, Only("classes")] = 0.4  # of what the judge learns to refuse, the share that are real images under a wrong label


class JudgedFlowMap(FlowMap):
    """A flow map and its judge, a relativistic discriminator told the class where the map is (Jolicoeur-Martineau 2019; Huang et al. 2024).

    Each of the two learns from half of the batch.
    """

    Config = JudgedMapConfig
    halves = False
    watched = ("loss", "chords", "adversarial")

    def __init__(self, config: JudgedMapConfig):
        super().__init__(config)
        self.judge = Discriminator(GANConfig(config.image_shape, classes=config.classes, width=config.judge_width))

    @classmethod
    def settings_from(cls, kind: type, config) -> dict:
        own = ("judged", "jumps", "judge_width", "r1", "r2", "mislabelled") if kind is cls else ()
        return super().settings_from(kind, config) | {name: getattr(config, name) for name in own}

    def players(self) -> list[Player]:
        return [Player("judge", self.judge, self.judge_terms, betas=(0.0, 0.9)), Player("", self.mean_velocity, self.loss)]

    def made(self, labels, n: int):
        """n images in [-1, 1] as the judge sees them: after two hops, or after some jumps, of which gradients pass through the last."""
        label, noise = self._label(labels, n), torch.randn(n, *self.point_shape, dtype=self.dtype, device=self.device)
        jumps = int(torch.randint(0, self.config.jumps + 1, ()))
        way, count = (jump, jumps) if jumps else (hop, 2)
        return way(lambda x, t, s: self.mean_velocity(x, t, s, label), noise, count)[-1]

    def seen(self, images, labels):
        """Half a batch as the judge sees it: points in [-1, 1], and their labels where it is told them."""
        half = (len(images) + 1) // 2
        return self.points(images[:half]), labels[:half] if self.labelled else None

    def judge_terms(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The judge's loss, and `fooled`: log 2 where it can't tell what is made from what is real."""
        real, labels = self.seen(images, labels)
        with torch.no_grad():
            fake = self.made(labels, len(real)).to(real.dtype)
        features = self.judge.features(real, labels)
        score, of_fake = self.judge.score(features, labels).to(self.dtype), self.judge(fake, labels).to(self.dtype)
        loss = fooled = discriminator_loss("relativistic", score, of_fake)
        if self.labelled and self.config.mislabelled:
            wrong = self.judge.score(features, other_labels(labels, self.config.classes)).to(self.dtype)
            loss = torch.lerp(loss, discriminator_loss("relativistic", score, wrong), self.config.mislabelled)
        for gamma, x in ((self.config.r1, real), (self.config.r2, fake)):
            if gamma:
                loss = loss + gamma / 2 * zero_centred_penalty(lambda x: self.judge(x, labels), x)
        return {"loss": loss, "fooled": fooled}

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """The map's loss: chords, as a flow map's, and `adversarial`, log 2 where the judge can't tell."""
        real, labels = self.seen(images, labels)
        chords, made = super().loss(images[: len(real)], labels)["loss"], self.made(labels, len(real))
        with frozen(self.judge):
            with torch.no_grad():
                score = self.judge(real, labels).to(self.dtype)
            adversarial = generator_loss("relativistic", self.judge(made, labels).to(self.dtype), score)
        return {"loss": chords + self.config.judged * adversarial, "chords": chords, "adversarial": adversarial}
