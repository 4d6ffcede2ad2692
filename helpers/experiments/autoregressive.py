"""The comparisons of notebook 06: which network of pixels, where words come from, how many passes they need, and who fills a hole."""

import json
import time
from dataclasses import replace

import torch

from helpers import data, measures, training, weights
from helpers.experiments.autoencoders import decoded
from helpers.experiments.row import SEEDS, Row
from helpers.experiments.vae_variants import RoundedCodebook, RoundedConfig
from helpers.models import diffusion
from helpers.models.autoregressive import PixelConfig
from helpers.models.codebook import Codebook, VQVAEConfig
from helpers.models.flows import RealNVPConfig
from helpers.models.layers import at_once
from helpers.training import TrainConfig

TRAIN = TrainConfig(minutes=3.0, batch_size=32, learning_rate=2e-2, optimizer="muon", average=0.99, reports_per_epoch=4)


def networks_of_pixels() -> dict[str, Row]:
    """Networks for the pixels of digits, three minutes each, and a flow in as many."""
    ways = {
        "rows and neighbours": PixelConfig(),
        "every pixel in every step": PixelConfig(flat=1.0),
        "gated PixelCNN": PixelConfig(network="pixelcnn", near=32, blocks=7),
        "RealNVP": RealNVPConfig(couplings=(4, 6), width=(40, 64), mixtures=4),
    }
    flow = replace(TRAIN, learning_rate=1.5e-2, batch_size=48)
    return {way: Row(config, flow if way == "RealNVP" else TRAIN, measure=()) for way, config in ways.items()}


def choice_of_words() -> dict[str, Row]:
    """The codebook of clothes, its words chosen in half precision or in full, a minute each."""
    train = TrainConfig(minutes=1.0, batch_size=128, learning_rate=4e-3, optimizer="muon", average=0.99, reports_per_epoch=4)
    ways = {"in bfloat16": RoundedConfig, "in float32": VQVAEConfig}
    return {way: Row(config(width=16, codes=256), replace(train, precision="bfloat16"), "fashion", measure=()) for way, config in ways.items()}


EXPERIMENTS = {"networks-of-pixels": (networks_of_pixels, SEEDS[:1]), "choice-of-words": (choice_of_words, SEEDS)}


# ----------------------------------------------------------------------------------------------- of shipped weights


def word_sources(model, images) -> dict:
    """Where the words of a codebook may come from, name -> function of n; `images` are training images."""
    size = at_once(images.device)
    texts = torch.cat([model.encode(part) for part in images.split(size)])

    def each_place(n):  # as often as in the training images, each place by itself
        return torch.stack([column[torch.randint(len(texts), (n,), device=column.device)] for column in texts.T], dim=1)

    def written(n):
        labels = torch.zeros(250, dtype=torch.long, device=texts.device)
        return torch.cat([model.writer.draw(labels[: min(250, n - low)]) for low in range(0, n, 250)])

    return {
        "any words": lambda n: torch.randint(model.config.codes, (n, model.latent_dim), device=texts.device),
        "each place's own words": each_place,
        "the prior": written,
        "words of training images": lambda n: texts[torch.randperm(len(texts), device=texts.device)[:n]],
    }


def texts(device) -> dict:
    """The decoders of shipped codebooks with words from four places."""
    return decoded(("vqvae-mnist", "vqvae-fashion"), word_sources, "words", device)


PASSES = (1, 2, 4, 8, 16)


def passes(device) -> dict:
    """Masked words in more and more passes, and the prior in reading order over the same codebook, on validation images."""
    rows, n, shipped = [], 1_000, weights.shipped()
    for name in (name for name in ("mnist", "fashion") if f"masked-{name}" in shipped):
        dataset = data.load(name, device=device)
        reference = measures.Reference(dataset, "validation")
        for kind, counts in (("masked", PASSES), ("vqvae", (49,))):
            model, _ = weights.load_model(f"{kind}-{name}", device)
            for count in counts:
                with training.aside(0):
                    begun = time.perf_counter()
                    images = torch.cat([model.sample(500, **({"steps": count} if kind == "masked" else {})) for _ in range(n // 500)])
                    speed = n / (time.perf_counter() - begun)
                row = {"dataset": name, "weights": f"{kind}-{name}", "passes": count, "images_per_second": speed}
                rows.append(row | measures.beside(images, reference))
                print(json.dumps(rows[-1]), flush=True)
    return {"n": n, "split": "validation", "rows": rows}


def holes(device) -> dict:
    """Half of 1,000 digits hidden and filled in, by pixels or words in reading order or by masked words: whether the judge still reads the class."""
    rows, n = [], 1_000
    dataset = data.load("mnist", device=device)
    images, labels = (part[:n] for part in dataset.part("validation"))
    reader = measures.judge(dataset)
    pixel, word, masked = (weights.load_model(f"{kind}-mnist", device)[0] for kind in ("pixels", "vqvae", "masked"))
    for side in diffusion.SIDES:
        known = diffusion.hidden_side(dataset.image_shape, side, 0.5, device)
        above = word.encode(images * known)[:, : word.grid[0] // 2 * word.grid[1]]  # the rows of words that are known whole
        ways = {
            "nothing": lambda known=known: images * known,
            "pixels in reading order": lambda known=known: pixel.sample(n, start=images, known=known[0]),
            "words in reading order": lambda above=above: word.sample(n, start=above),
            "masked words": lambda known=known: masked.sample(n, start=images, known=known[0]),
        }
        for way in [way for way in ways if side == "bottom" or not way.startswith("words")]:
            with training.aside(0):
                rows.append({"hidden": side, "filled in by": way, "read": measures.accuracy(reader, ways[way](), labels)})
            print(json.dumps(rows[-1]), flush=True)
    return {"n": n, "split": "validation", "judge": reader.name, "rows": rows}


def rounded_words(device) -> dict:
    """Which share of the words of test images comes out otherwise where the encoder runs in half precision, and where the choice does as well."""
    rows, n = [], 2_000
    for name in ("mnist", "fashion"):
        model, _ = weights.load_model(f"vqvae-{name}", device)
        images, row = data.load(name, device=device).test_images[:n], {"dataset": name, "weights": f"vqvae-{name}"}
        exact = model.encode(images)
        for way, kind in (("the encoder", Codebook), ("the choice as well", RoundedCodebook)):
            model.codebook.__class__ = kind
            with torch.autocast(device.type, torch.bfloat16):
                row[way] = (model.encode(images) != exact).double().mean().item()
        rows.append(row)
    return {"n": n, "split": "test", "rows": rows}


MEASUREMENTS = {"texts": texts, "rounded-words": rounded_words, "passes": passes, "holes": holes}
