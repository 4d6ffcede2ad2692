"""Masked words: all at once, then again (MaskGIT, Chang et al. 2022).

A codebook is trained first and stays as it is. A transformer learns to fill in any words that are hidden from those that are not.
It draws in a few passes: in each it guesses all that is hidden, keeps the guesses that it is surest of, and hides the rest again.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from helpers import UserError
from helpers.models.codebook import VQVAE, Worded, WordsConfig
from helpers.models.layers import Block, at_once, check_draw, check_labels, pick
from helpers.models.model import Player
from helpers.models.settings import Count, Rest, Size, Weight


@dataclass(frozen=True)
class MaskedConfig(WordsConfig):
    """A reader of texts with holes, and the codebook that they are written in."""

    reader_width: Size = 128
    reader_layers: Size = 4
    reader_heads: Size = 4
    dropout: Rest = 0.1
    steps: Size = 8  # passes to draw an image
    chance: Weight = 4.0  # weight of chance in what counts as sure; it falls to 0 in the last pass
    classes: Count = 0  # above 0 the reader is told the label
    parts: Size = 1  # always 1


class Reader(nn.Module):
    """p(c_i | what is not hidden, label) of words c (N, L), the number `codes` standing for a hidden one: logits (N, L, codes)."""

    def __init__(self, config: MaskedConfig, length: int):
        super().__init__()
        width = config.reader_width
        self.label, self.word = nn.Embedding(max(1, config.classes), width), nn.Embedding(config.codes + 1, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(width, config.reader_heads, config.dropout, causal=False) for _ in range(config.reader_layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.codes))

    def forward(self, c, label):
        x = self.drop(self.word(c) + self.place + self.label(label)[:, None])
        for block in self.blocks:
            x, _ = block(x)
        return self.last(x)


def hidden_share(progress):
    """Which share of the words is still hidden at `progress` in [0, 1] of a drawing: a cosine, few are settled at first and many at last."""
    return torch.cos(torch.as_tensor(progress) * math.pi / 2)


class MaskedWords(Worded):
    """Images by words of a trained codebook, which are drawn in any order and several at once.

    A training starts from a trained VQVAE (`weights.start_from`), whose encoder, decoder and words stay as they are.
    """

    Config = MaskedConfig
    measures = ("samples",)

    def __init__(self, config: MaskedConfig):
        super().__init__(config)
        if config.reader_width % config.reader_heads:
            raise UserError(f"{config.reader_heads} heads can't share a width of {config.reader_width}: take a multiple of them.")
        self.autoencoder.requires_grad_(False)
        self.reader = Reader(config, self.latent_dim)

    @classmethod
    def settings_from(cls, kind: type, config) -> dict:
        if kind not in (VQVAE, cls):
            raise UserError(f"Masked words start from a VQVAE, and these weights are of a {kind.__name__}.")
        own = fields(WordsConfig if kind is VQVAE else cls.Config)  # the words alone, or all: then the training goes on
        return {field.name: getattr(config, field.name) for field in own if field.name not in ("image_shape", "classes", "parts")}

    def players(self) -> list[Player]:
        return [Player("", self.reader, self.loss)]

    def averaged_part(self) -> nn.Module:
        return self.reader

    def regions(self):
        return list(self.reader.blocks)

    @property
    def passes(self) -> int:
        return min(self.config.steps, self.latent_dim)

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """-log p of the hidden words, in nats a word, a share of them hidden that is drawn anew for each image."""
        words = self.encode(images)
        share = hidden_share(torch.rand(len(words), 1, device=words.device))
        order = torch.rand(words.shape, device=words.device).argsort(1).argsort(1)
        hidden = order < (share * self.latent_dim).ceil().clamp(min=1)
        logits = self.reader(words.masked_fill(hidden, self.config.codes), self._label(labels, len(words))).to(self.dtype)
        return {"loss": F.cross_entropy(logits[hidden], words[hidden])}

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None, steps: int | None = None, start=None, known=None) -> torch.Tensor:
        """n images in [0, 1] in `steps` passes. start (n, C, H, W) and known (H, W): where all pixels of a word are known, it is as given."""
        check_draw(n, temperature)
        steps = self.passes if steps is None else steps
        if (start is None) != (known is None):
            raise UserError("start and known go together: the pixels, and which of them are known.")
        if not 1 <= steps <= self.latent_dim:
            raise UserError(f"{steps} steps were asked for: take a number from 1 to {self.latent_dim}, the number of words.")
        check_labels(self, labels, n)
        label, size, parts = self._label(labels, n), at_once(self.device, 250), []
        given = torch.full((n, self.latent_dim), self.config.codes, device=self.device)
        if start is not None:
            whole = -F.max_pool2d(-known[None, None].float(), 4).flatten().to(self.device) > 0
            given = torch.where(whole, self.encode(start * known), given)
        for low in range(0, n, size):
            some = slice(low, low + size)
            *_, words = self.drafts(label[some], temperature, steps, given[some])
            parts.append(self.decode(words))
        return torch.cat(parts)

    @torch.no_grad()
    def drafts(self, label, temperature: float, steps: int, given):
        """The words (N, L) after each pass, `codes` where they are hidden; given: as they are at first."""
        words, holes = given, (given == self.config.codes).sum(1, keepdim=True)
        for step in range(1, steps + 1):
            hidden = words == self.config.codes
            logits = self.reader(words, label).float()
            guess = pick(logits, temperature)
            sure = logits.log_softmax(2).gather(2, guess[..., None])[..., 0]
            luck = -torch.empty_like(sure).exponential_().log()  # Gumbel's
            sure = (sure + self.config.chance * (1 - step / steps) * luck).masked_fill(~hidden, math.inf)
            left = (hidden_share(step / steps).to(words.device) * holes).floor() if step < steps else torch.zeros_like(holes)
            words = torch.where(hidden, guess, words).masked_fill(sure.argsort(1).argsort(1) < left, self.config.codes)
            yield words
