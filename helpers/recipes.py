"""What can be trained: a name -> the model, its settings, and how to train it in each profile.

smoke takes seconds and shows only that everything runs; quick takes minutes on two cores of a laptop; full is meant for a GPU.
"""

import ast
import contextlib
import os
from dataclasses import dataclass, fields, replace

import torch

from helpers import UserError, take
from helpers.models.autoencoders import TCVAE, VAE, Autoencoder
from helpers.models.autoregressive import Pixels
from helpers.models.classifier import Classifier
from helpers.models.codebook import VQVAE
from helpers.models.flow_map import FlowMap
from helpers.models.flows import RealNVP
from helpers.models.fvae import FVAE
from helpers.models.gans import GAN
from helpers.models.growing import ProGAN
from helpers.models.judged import JudgedFlowMap
from helpers.models.ladder import LadderVAE
from helpers.models.latent import LatentMatching
from helpers.models.masked import MaskedWords
from helpers.models.matching import FlowMatching
from helpers.models.settings import check_read
from helpers.training import TrainConfig
from helpers.training.checkpoints import TURN

PROFILES = ("smoke", "quick", "full")


@dataclass(frozen=True)
class Recipe:
    """A model and its profiles: each is the settings of the model's configuration, and how to train it."""

    kind: type  # of helpers.models.model.Model
    smoke: tuple[dict, TrainConfig]
    quick: tuple[dict, TrainConfig]
    full: tuple[dict, TrainConfig]
    labelled: bool = False  # the model is told the classes
    after: str = ""  # the model whose trained weights it starts from, of which it can't do without

    def with_(self, kind: type | None = None, labelled: bool = False, **settings) -> "Recipe":
        """The same training of a model with other settings, or of another model that has them."""
        changed = {profile: (getattr(self, profile)[0] | settings, getattr(self, profile)[1]) for profile in PROFILES}
        return Recipe(kind or self.kind, **changed, labelled=labelled, after=self.after)


SMOKE = TrainConfig(epochs=2, batch_size=32, learning_rate=1e-2, warmup_steps=5, average=0.9, compile=False, train_images=640, validation_images=100)

MUON = TrainConfig(learning_rate=1.5e-2, optimizer="muon")
REALNVP = Recipe(
    RealNVP,
    ({"couplings": (1, 1), "width": (8, 8), "blocks": 1, "dequantization_couplings": 1, "dequantization_width": 8}, SMOKE),
    (
        {"couplings": (4, 6), "width": (40, 64), "mixtures": 4},
        replace(MUON, epochs=1, batch_size=48, average=0.99, train_images=30_000, reports_per_epoch=4),
    ),
    ({"couplings": (6, 8), "width": (40, 64), "mixtures": 4}, replace(MUON, epochs=20, average=0.999)),
)
FLOWING = TrainConfig(batch_size=128, learning_rate=8e-3, optimizer="muon", average=0.999)
MATCHING = Recipe(
    FlowMatching,
    ({"width": (8, 16), "blocks": 1, "steps": 4}, replace(SMOKE, optimizer="muon")),
    ({}, replace(FLOWING, epochs=2, train_images=48_000, reports_per_epoch=2)),
    ({"width": (64, 128)}, replace(FLOWING, epochs=60)),
)
LATENT = Recipe(
    LatentMatching,
    ({"width": 32, "blocks": 1, "steps": 4}, replace(SMOKE, optimizer="muon")),
    ({}, replace(FLOWING, epochs=3, average=0.99)),
    ({"width": 320}, replace(FLOWING, epochs=30)),
    after="vae",
)
FLOW_MAP = Recipe(
    FlowMap,
    ({"grid": 4, "hops": (0.5, 0.25, 0.25), "fine": 1, "walks": 80}, replace(SMOKE, optimizer="muon")),
    ({"walks": 10_000, "fine": 1}, replace(FLOWING, epochs=2, learning_rate=4e-3, reports_per_epoch=2)),
    ({}, replace(FLOWING, epochs=20, learning_rate=4e-3)),
    after="matching",
)
JUDGED = Recipe(
    JudgedFlowMap,
    (FLOW_MAP.smoke[0], FLOW_MAP.smoke[1]),
    ({"walks": 2_000, "fine": 1}, replace(FLOWING, epochs=2, learning_rate=3e-4, average=0.995, reports_per_epoch=2)),
    ({"walks": 10_000, "fine": 1}, replace(FLOWING, epochs=20, learning_rate=3e-4)),
    after="matching",
)
AUTOENCODER = Recipe(
    Autoencoder,
    ({"latent": 8, "width": 8}, SMOKE),
    ({"width": 16}, TrainConfig(epochs=2, batch_size=128, learning_rate=4e-3, reports_per_epoch=2)),
    ({"width": 64}, TrainConfig(epochs=40, batch_size=128, learning_rate=4e-3, average=0.999)),
)
VAES = Recipe(
    VAE,
    ({"latent": 8, "width": 8}, SMOKE),
    ({"latent": 32, "width": 16}, TrainConfig(epochs=3, batch_size=128, learning_rate=4e-3, average=0.99, reports_per_epoch=2)),
    ({"latent": 32, "width": 32, "blocks": 2}, TrainConfig(epochs=130, batch_size=512, learning_rate=4e-3, warmup_steps=200, average=0.999)),
)
FLOWS = {"where": "both", "features": 32}
FVAES = Recipe(
    FVAE,
    (VAES.smoke[0] | {"where": "both"}, VAES.smoke[1]),
    (VAES.quick[0] | FLOWS, VAES.quick[1]),
    (VAES.full[0] | FLOWS | {"couplings": 6, "flow_width": 96, "features": 48}, VAES.full[1]),
)
STEADY = TrainConfig(batch_size=128, learning_rate=4e-3, optimizer="muon")
LADDERS = Recipe(
    LadderVAE,
    ({"layers": (1, 1, 1), "latents": (4, 2, 1), "width": 8}, SMOKE),
    ({"width": 16}, replace(STEADY, epochs=3, average=0.99, reports_per_epoch=2)),
    ({}, replace(STEADY, epochs=64, average=0.999)),
)
CODEBOOK = Recipe(
    VQVAE,
    ({"width": 8, "codes": 16, "code_width": 4, "prior_width": 16, "prior_layers": 1, "prior_heads": 2}, replace(SMOKE, optimizer="muon")),
    ({"width": 16}, replace(STEADY, epochs=3, average=0.99, reports_per_epoch=2)),
    ({"width": 48, "prior_width": 192, "prior_heads": 6}, replace(STEADY, epochs=12, average=0.999)),
)
MASKED = Recipe(
    MaskedWords,
    ({"reader_width": 16, "reader_layers": 1, "reader_heads": 2, "steps": 4}, replace(SMOKE, optimizer="muon")),
    ({}, replace(STEADY, epochs=3, average=0.99, reports_per_epoch=2)),
    ({"reader_width": 192, "reader_heads": 6, "dropout": 0.0}, replace(STEADY, learning_rate=1.5e-2, epochs=100, average=0.999)),
    after="vqvae",
)
WRITING = TrainConfig(batch_size=32, learning_rate=2e-2, optimizer="muon")
PIXELS = Recipe(
    Pixels,
    ({"width": 16, "layers": 1, "heads": 2, "near": 16, "blocks": 1}, replace(SMOKE, optimizer="muon")),
    ({}, replace(WRITING, epochs=1, average=0.99, train_images=10_000, reports_per_epoch=4)),
    ({"width": 256, "layers": 6, "near": 192, "dropout": 0.1}, replace(WRITING, epochs=12, batch_size=128, average=0.999)),
)
READER = TrainConfig(learning_rate=4e-3, compile=False)
CLASSIFIER = Recipe(
    Classifier,
    ({"width": 8}, replace(READER, epochs=20, batch_size=32, learning_rate=1e-2, warmup_steps=5)),
    ({}, replace(READER, epochs=2)),
    ({}, replace(READER, epochs=12)),
    labelled=True,
)

# GANs: Adam without warm-up, weight decay or clipping; samples are drawn with the averaged generator
GAME = TrainConfig(
    batch_size=32, learning_rate=5e-4, weight_decay=0.0, warmup_steps=0, clip_norm=1e6, average=0.999, compile=False, validation_images=500
)
GAME_SMOKE = replace(GAME, epochs=2, learning_rate=2e-3, train_images=640, validation_images=100)
CRITIC = {"objective": "wgan-gp", "betas": (0.0, 0.9)}
SIMPLE, GROWN = CRITIC | {"network": "mlp"}, CRITIC | {"betas": (0.0, 0.99)}  # the second as Karras et al. 2018
GROW = replace(GAME, batch_size=16, learning_rate=1e-3, schedule="constant")
GANS = Recipe(
    GAN,
    (SIMPLE | {"width": 32, "latent": 16}, replace(GAME_SMOKE, average=0.99)),
    (SIMPLE | {"width": 128}, replace(GAME, epochs=3, batch_size=64, average=0.99, reports_per_epoch=2)),
    (SIMPLE | {"width": 256}, replace(GAME, epochs=60, batch_size=64)),
)
VARIED = {"objective": "nonsaturating", "betas": (0.0, 0.9), "diversity": 0.1}  # the record `live` has what the last is worth
CGAN = Recipe(
    GAN,
    (VARIED | {"width": 8, "latent": 16}, GAME_SMOKE),
    (VARIED, replace(GAME, epochs=2, average=0.99, reports_per_epoch=2)),
    (CRITIC | {"width": 64}, replace(GAME, epochs=40)),
    labelled=True,
)
PROGAN = Recipe(
    ProGAN,
    (CRITIC | {"width": 8, "latent": 16}, GAME_SMOKE),
    (GROWN | {"width": 16}, replace(GROW, epochs=1, train_images=22_400)),
    (GROWN | {"width": 32}, replace(GROW, epochs=30, batch_size=64)),
)

RECIPES = {
    "realnvp": REALNVP,
    "realnvp-conditional": REALNVP.with_(labelled=True),
    "matching": MATCHING,
    "matching-conditional": MATCHING.with_(labelled=True),
    "flow-map": FLOW_MAP,
    "flow-map-judged": JUDGED,
    "latent": LATENT,
    "latent-conditional": LATENT.with_(labelled=True),
    "autoencoder": AUTOENCODER,
    "vae": VAES,
    "vae-8bit": VAES.with_(likelihood="logistic"),
    "fvae": FVAES,
    "fvae-8bit": FVAES.with_(likelihood="logistic"),
    "ladder": LADDERS,
    "ladder-8bit": LADDERS.with_(likelihood="logistic"),
    "vqvae": CODEBOOK,
    "vqvae-conditional": CODEBOOK.with_(labelled=True),
    "masked": MASKED,
    "masked-conditional": MASKED.with_(labelled=True),
    "pixels": PIXELS,
    "pixels-conditional": PIXELS.with_(labelled=True),
    "pixels-binary": PIXELS.with_(levels=2),
    "betavae": VAES.with_(latent=10, beta=4.0),
    "tcvae": VAES.with_(TCVAE, latent=10, beta=4.0),
    "gan": GANS,
    "cgan": CGAN,
    "progan": PROGAN,
    "classifier": CLASSIFIER,
}


def pick_profile(name: str | None = None) -> str:
    """The profile asked for: `name`, else the environment variable PROFILE, else full on a GPU and quick without."""
    name = name or os.environ.get("PROFILE") or ("full" if torch.cuda.is_available() else "quick")
    if name not in PROFILES:
        raise UserError(f"There is no profile {name!r}: {take(name, PROFILES)}.")
    return name


def check_model(name: str) -> str:
    if name not in RECIPES:
        raise UserError(f"There is no model {name!r}: {take(name, RECIPES)}.")
    return name


def check_seed(seed: int) -> int:
    if not 0 <= seed < 2**32:
        raise UserError(f"The seed {seed} was given: take a whole number from 0 to {2**32 - 1}.")
    return seed


def settings_of(model: str, pairs: list[str]) -> dict:
    """{"width": 16} of ["width=16"]: settings of a model's config. UserError for one that it has not, or a value of another type."""
    config = RECIPES[check_model(model)].kind.Config
    defaults = {
        field.name: field.default for field in fields(config) if field.name not in ("image_shape", "classes", "parts", "images")
    }  # the data's
    found = {}
    for name, _, text in (pair.partition("=") for pair in pairs):
        if name not in defaults:
            raise UserError(f"A {model} has no setting {name!r}: {take(name, defaults)}.")
        value, wanted = text, type(defaults[name])
        if wanted is not str:
            with contextlib.suppress(ValueError, SyntaxError):
                value = ast.literal_eval(text)
        value = float(value) if wanted is float and type(value) is int else value
        if wanted is tuple and type(value) is tuple and all(type(part) is float for part in defaults[name]):
            value = tuple(float(part) if type(part) is int else part for part in value)
        if type(value) is not wanted:
            raise UserError(f"{name}={text} was given: take a value like {defaults[name]!r}.")
        found[name] = value
    return found


def recipe(model: str, profile: str, dataset, settings: dict | None = None, **changes):
    """An untrained model for the images of `dataset` and its TrainConfig; `settings` override fields of the model's config, `changes` of the latter.

    The model's first weights depend on the seed alone.
    """
    asked, found = settings or {}, RECIPES[check_model(model)]
    settings, train_config = getattr(found, pick_profile(profile))
    train_config = replace(train_config, **changes)
    images = len(dataset.train_images[: train_config.train_images])
    steps = train_config.epochs * (images // min(images, train_config.batch_size))
    settings = settings | found.kind.settings_for(dataset.image_shape, images, steps) | asked
    if found.labelled and len(dataset.classes) < 2:
        raise UserError(f"A {model} needs labels of at least two classes, and {dataset.name} has one class: give more, each with its own label.")
    if found.labelled:
        settings = settings | {"classes": round(len(dataset.classes) ** (1 / dataset.parts)), "parts": dataset.parts}
    try:
        with TURN:
            torch.manual_seed(check_seed(train_config.seed))
            model = found.kind(found.kind.Config(image_shape=dataset.image_shape, **settings))
        check_read(model.config, asked)
        model.asked = frozenset(asked)
        return model, train_config
    except (RuntimeError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        if isinstance(error, UserError) or not asked:
            raise
        raise UserError(f"{', '.join(f'{name}={value}' for name, value in asked.items())} make no model: {error}.") from error
