"""A codebook: every patch of an image becomes one of a few hundred words, and a transformer learns which word follows which.

Two halves (van den Oord et al. 2017): an autoencoder whose bottleneck is a choice among learned vectors, and an autoregressive prior
over those choices, p(c) = product over i of p(c_i | c_<i), whose likelihood is exact. Both learn at once here, the prior from the codes
as they are at the time.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import distributed, nn

from helpers import UserError
from helpers.models.layers import ELU, Block, GatedBlock, check_draw, check_labels, pick, pixels
from helpers.models.model import Model, Player
from helpers.models.settings import Count, Rest, Size, Weight, Within

DEAD = 0.1  # uses a batch below which a code is given another place


@dataclass(frozen=True)
class WordsConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)  # channels, height, width; both sides divisible by 4
    width: Size = 32  # channels of encoder and decoder at half of the sides, twice as many at a quarter, where the codes are
    blocks: Count = 1  # gated residual blocks at each
    codes: Annotated[int, Within(2)] = 128  # words in the codebook
    code_width: Size = 16  # numbers in each
    decay: Rest = 0.99  # of the running means that the words are


@dataclass(frozen=True)
class VQVAEConfig(WordsConfig):
    commitment: Weight = 0.25  # weight of the encoder's distance from the words it chose
    prior_width: Size = 128
    prior_layers: Size = 4
    prior_heads: Size = 4
    dropout: Rest = 0.1  # in the prior
    classes: Count = 0  # above 0 the prior sees the label
    parts: Size = 1  # always 1
    adversarial: Weight = 0.0  # weight of a critic of patches in the decoder's loss (Esser et al. 2021)


# ------------------------------------------------------------------------------------------------------- codebook


class Codebook(nn.Module):
    """Vectors to the nearest of `codes` words: (N, D, H, W) to the same, and which, (N, H, W).

    In training a word moves to the running mean of the vectors that chose it (van den Oord et al. 2017, appendix A.1), and one that
    hardly any chooses is put where some vector of the batch is. The gradient passes through as if nothing had been chosen, the
    straight-through estimator (Bengio et al. 2013).
    """

    its_own = ("words", "uses", "sums")  # several processes need no mean of them: `learn` adds up what each of them counts
    started = False  # from trained weights, whose words `VQVAE.initialize` must leave where they are

    def __init__(self, codes: int, width: int, decay: float):
        super().__init__()
        self.decay = decay
        self.register_buffer("words", torch.randn(codes, width))
        self.register_buffer("uses", torch.ones(codes))  # running mean of how often each was chosen in a batch
        self.register_buffer("sums", self.words.clone())  # and of the sum of the vectors that chose it

    @torch.no_grad()
    def nearest(self, vectors) -> torch.Tensor:
        """Which word is nearest to each of vectors (M, D), (M,). In full precision, whatever the training runs in."""
        with torch.autocast(vectors.device.type, enabled=False):
            return (self.words.square().sum(1) - 2 * vectors.to(self.words.dtype) @ self.words.T).argmin(1)  # without what is the same for all words

    @torch.no_grad()
    def place(self, vectors) -> None:
        """Put the words on vectors (M, D) drawn at random, as many as there are."""
        drawn = vectors[torch.randperm(len(vectors), device=vectors.device)[: len(self.words)]]
        drawn = drawn.repeat(math.ceil(len(self.words) / len(drawn)), 1)[: len(self.words)]
        self.words.copy_(drawn + 1e-3 * torch.randn_like(drawn))
        self.sums.copy_(self.words)
        self.uses.fill_(1.0)

    @torch.no_grad()
    def learn(self, vectors, chosen) -> None:
        uses = torch.bincount(chosen, minlength=len(self.words)).to(vectors.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, chosen, vectors)
        others = vectors[torch.randint(len(vectors), (len(self.words),), device=vectors.device)]
        uses, sums, others = together(uses, sums, others)
        self.uses.lerp_(uses, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        dead = (self.uses < DEAD)[:, None]
        self.sums.copy_(torch.where(dead, others, self.sums))
        self.uses.copy_(torch.where(dead[:, 0], torch.ones_like(self.uses), self.uses))
        self.words.copy_(self.sums / self.uses[:, None])

    def forward(self, h):
        vectors = h.detach().permute(0, 2, 3, 1).flatten(0, 2)
        chosen = self.nearest(vectors)
        words = self.words[chosen].view(len(h), *h.shape[2:], -1).permute(0, 3, 1, 2)
        if self.training:
            self.learn(vectors, chosen)
        return h + (words - h).detach(), words, chosen.view(len(h), *h.shape[2:])


def together(uses, sums, others):
    """What several processes count, added up, as one process would count the whole batch; and of the vectors to start again from, the first one's."""
    if distributed.is_available() and distributed.is_initialized():
        for counted in (uses, sums):
            distributed.all_reduce(counted)
        distributed.broadcast(others, 0)
    return uses, sums, others


def perplexity(chosen, codes: int) -> torch.Tensor:
    """How many words are in use, as it were: exp of the entropy of how often each was chosen; all alike gives `codes`."""
    share = torch.bincount(chosen.flatten(), minlength=codes).float() / chosen.numel()
    return torch.special.entr(share).sum().exp()


# ---------------------------------------------------------------------------------------------------------- prior


class Prior(nn.Module):
    """p(c_i | c_<i, label) of words c (N, L) in reading order: logits (N, L, codes). The label's vector, or one for all, stands before the first."""

    def __init__(self, codes: int, length: int, width: int, layers: int, heads: int, dropout: float, labels: int):
        super().__init__()
        self.first, self.word = nn.Embedding(max(1, labels), width), nn.Embedding(codes, width)
        self.place = nn.Parameter(0.02 * torch.randn(length, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, codes))

    def forward(self, c, label):
        x = torch.cat([self.first(label)[:, None], self.word(c[:, :-1])], dim=1) + self.place
        x = self.drop(x)
        for block in self.blocks:
            x, _ = block(x)
        return self.last(x)

    @torch.no_grad()
    def draw(self, label, temperature: float = 1.0, start=None) -> torch.Tensor:
        """Words (N, L), one after the other, for labels (N,); start (N, k): the first k as given. Temperature 0 takes the likeliest."""
        given = 0 if start is None else start.shape[1]
        x, kept, words = self.first(label)[:, None], [None] * len(self.blocks), []
        for i in range(len(self.place)):
            x = x + self.place[i]
            for j, block in enumerate(self.blocks):
                x, kept[j] = block(x, kept[j])
            word = start[:, i] if i < given else pick(self.last(x)[:, 0], temperature)
            words.append(word)
            x = self.word(word)[:, None]
        return torch.stack(words, dim=1)


# ---------------------------------------------------------------------------------------------------------- model


class Patches(nn.Module):
    """A critic that scores each patch of an image on its own (Isola et al. 2017): (N, C, H, W) to (N, 1, H / 4, W / 4)."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, x):
        return self.net(2 * x - 1)


class Worded(Model):
    """Images (N, C, H, W) to words (N, L) of a codebook, L = H / 4 * W / 4 in reading order, and back."""

    def __init__(self, config: WordsConfig):
        super().__init__(config)
        channels, height, width_of_image = config.image_shape
        if height % 4 or width_of_image % 4:
            raise UserError(f"Images of {height}x{width_of_image} can't be halved twice: both sides must be divisible by 4; pad the images.")
        if config.parts != 1:
            raise UserError("A codebook knows one label an image: train it on mnist rather than on pairs.")
        width, blocks = config.width, config.blocks
        self.grid = (height // 4, width_of_image // 4)
        encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * channels, width, 3, padding=1),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            *(GatedBlock(2 * width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(2 * width, config.code_width, 1),
        )
        decoder = nn.Sequential(
            nn.Conv2d(config.code_width, 2 * width, 3, padding=1),
            *(GatedBlock(2 * width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.PixelShuffle(2),
            *(GatedBlock(width) for _ in range(blocks)),
            ELU(),
            nn.Conv2d(width, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        codebook = Codebook(config.codes, config.code_width, config.decay)
        self.autoencoder = nn.ModuleDict({"encoder": encoder, "decoder": decoder, "codebook": codebook})

    @property
    def encoder(self):
        return self.autoencoder["encoder"]

    @property
    def decoder(self):
        return self.autoencoder["decoder"]

    @property
    def codebook(self):
        return self.autoencoder["codebook"]

    @property
    def latent_dim(self) -> int:
        return self.grid[0] * self.grid[1]

    @torch.no_grad()
    def encode(self, images) -> torch.Tensor:
        """The words of images, whole numbers (N, L)."""
        h = self.encoder(pixels(self, images)).to(self.dtype)
        return self.codebook.nearest(h.permute(0, 2, 3, 1).flatten(0, 2)).view(len(h), -1)

    def decode(self, words, labels=None) -> torch.Tensor:
        """Images in [0, 1], (N, C, H, W), of words (N, L)."""
        if words.ndim != 2 or words.shape[1] != self.latent_dim or words.is_floating_point():
            raise UserError(f"Words of {words.dtype} {tuple(words.shape)} were given: this model takes whole numbers (N, {self.latent_dim}).")
        vectors = self.codebook.words[words].view(len(words), *self.grid, -1).permute(0, 3, 1, 2)
        return torch.sigmoid(self.decoder(vectors).to(self.dtype))


class VQVAE(Worded):
    """A codebook and a prior that writes texts of its words.

    encode gives the words, whole numbers; decode takes them. The temperature of `sample` is the prior's. With config.classes
    the prior, and it alone, is told the label. Raises UserError where images, labels, words or settings are not what they should be.
    """

    Config = VQVAEConfig
    measures = ("codes", "samples")

    def __init__(self, config: VQVAEConfig):
        super().__init__(config)
        if config.prior_width % config.prior_heads:
            raise UserError(f"{config.prior_heads} heads can't share a width of {config.prior_width}: take a multiple of them.")
        sizes = config.prior_width, config.prior_layers, config.prior_heads, config.dropout
        self.writer = Prior(config.codes, self.latent_dim, *sizes, config.classes)
        self.critic = Patches(config.image_shape[0], config.width) if config.adversarial else None
        self.register_buffer("variance", torch.ones(()))  # of the training images' pixels: the unit of the squared error

    @property
    def watched(self):
        return ("autoencoder_loss", "prior_loss", "autoencoder_perplexity")

    # ---- in training

    def players(self):
        critic = [Player("critic", self.critic, self.critic_loss, betas=(0.5, 0.9))] if self.critic is not None else []
        return [Player("autoencoder", self.autoencoder, self.autoencoder_loss), Player("prior", self.writer, self.prior_loss), *critic]

    def regions(self):
        return [self.encoder, self.decoder, *self.writer.blocks]

    @torch.no_grad()
    def initialize(self, images, labels=None) -> None:
        """Put the words where the vectors of some images are."""
        x = pixels(self, images)
        self.variance.copy_(x.var())
        if not self.codebook.started:
            self.codebook.place(self.encoder(x).to(self.dtype).permute(0, 2, 3, 1).flatten(0, 2))

    def rebuilt(self, x):
        """What becomes of x in [0, 1]: the image, what the choice cost, the words."""
        h = self.encoder(x).to(self.dtype)
        through, words, chosen = self.codebook(h)
        return torch.sigmoid(self.decoder(through).to(self.dtype)), (h - words).square().mean(), chosen

    def autoencoder_loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Squared error in units of the pixels' variance, and the encoder's distance from its words (equation 3 there)."""
        x = pixels(self, images)
        image, commitment, chosen = self.rebuilt(x)
        error = (image - x).square().mean() / self.variance
        loss = error + self.config.commitment * commitment
        if self.critic is not None:
            loss = loss - self.config.adversarial * self.critic(image).to(self.dtype).mean()
        return {"loss": loss, "error": error, "commitment": commitment, "perplexity": perplexity(chosen, self.config.codes)}

    def prior_loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """-log p of the words of images, in nats a word."""
        words = self.encode(images)
        logits = self.writer(words, self._label(labels, len(words))).to(self.dtype)
        return {"loss": F.cross_entropy(logits.flatten(0, 1), words.flatten())}

    def critic_loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """No more is wanted of a patch's score than to be beyond 1 on the right side."""
        x = pixels(self, images)
        with torch.no_grad():
            image = self.decode(self.encode(images))
        return {"loss": (F.relu(1 - self.critic(x)).mean() + F.relu(1 + self.critic(image)).mean()).to(self.dtype)}

    def loss(self, images, labels=None) -> dict[str, torch.Tensor]:
        """Of all players, each term under its name, as the validation sees them."""
        return {f"{player.name}_{name}": term for player in self.players() for name, term in player.loss(images, labels).items()}

    # ---- both ways

    @torch.no_grad()
    def log_prob_of_words(self, words, labels=None) -> torch.Tensor:
        """log p of words (N, L) in nats, (N,): exact."""
        logits = self.writer(words, self._label(labels, len(words))).to(self.dtype)
        return logits.log_softmax(2).gather(2, words[..., None])[..., 0].sum(1)

    @torch.no_grad()
    def sample(self, n: int, temperature: float = 1.0, labels=None, start=None) -> torch.Tensor:
        """n images in [0, 1] of words that the prior writes; start (n, k): the first k words as given."""
        check_draw(n, temperature)
        check_labels(self, labels, n)
        label, parts = self._label(labels, n), []
        for low in range(0, n, 250):
            some = slice(low, low + 250)
            parts.append(self.decode(self.writer.draw(label[some], temperature, None if start is None else start[some])))
        return torch.cat(parts)
