"""The comparisons of notebook 02: autoencoders and VAEs."""

import json
from dataclasses import replace

import torch
from sklearn.mixture import GaussianMixture

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.experiments.vae_variants import ImportanceConfig, StartedConfig, WindowConfig
from helpers.models.autoencoders import AutoencoderConfig, VAEConfig
from helpers.models.layers import at_once
from helpers.training import TrainConfig

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


def sizes() -> dict[str, Row]:
    """Autoencoders of every size of bottleneck, all with the same networks and the same budget."""
    train = TrainConfig(epochs=2, batch_size=128, learning_rate=4e-3)
    return {
        f"{dataset}, {size}": Row(AutoencoderConfig(latent=size, width=16), train, dataset, measure=("pictures",))
        for dataset in ("mnist", "fashion")
        for size in SIZES
    }


def fully_connected() -> dict[str, Row]:
    """The VAE of an earlier report in its own measure: summed cross entropy on grey values + KL, 20 epochs, fully connected."""
    config = VAEConfig(latent=24, network="mlp", width=512, blocks=2, likelihood="grey", schedule="linear", schedule_steps=2_000)
    train = TrainConfig(epochs=20, batch_size=128, compile=False)
    return {dataset: Row(config, train, dataset, measure=()) for dataset in ("mnist", "fashion")}


def schedules() -> dict[str, Row]:
    """How the KL's weight comes in: on a convolutional VAE, and on a deep fully connected one, whose latents die easily."""
    train = TrainConfig(epochs=4, batch_size=128, compile=False, train_images=20_000)
    steps = 4 * 20_000 // 128
    ways = {
        "constant": {},
        "linear": {"schedule": "linear", "schedule_steps": steps // 2},
        "cyclical": {"schedule": "cyclical", "schedule_steps": steps // 4},
        "free bits": {"free_bits": 0.25},
    }
    kinds = {
        "conv": VAEConfig(latent=32, width=16),
        "deep": VAEConfig(latent=32, network="mlp", width=256, blocks=6),
    }
    rows = {f"{kind}, {way}": Row(replace(config, **change), train, measure=()) for kind, config in kinds.items() for way, change in ways.items()}
    deep = kinds["deep"]  # is it the KL that does it, or the depth, or how the weights start, or too few steps?
    causes = {"deep, no KL": replace(deep, beta=0.0), "two layers, constant": replace(deep, blocks=2)}
    causes |= {"deep, another start": StartedConfig(**vars(deep))}
    rows |= {label: Row(config, train, measure=()) for label, config in causes.items()}
    return rows | {"deep, four times the steps": Row(deep, replace(train, epochs=16), measure=())}


def strong_decoder() -> dict[str, Row]:
    """A decoder that sees, besides the latents, the pixels before each one in a window: what those tell, no latent need tell."""
    train = TrainConfig(epochs=4, batch_size=128, compile=False, train_images=20_000)
    config, steps = WindowConfig(latent=32, width=16), 4 * 20_000 // 128
    rows = {f"window {side}" if side else "no window": replace(config, window=side) for side in (0, 3, 7, 15)}
    rows["window 15, weight rises"] = replace(config, window=15, schedule="linear", schedule_steps=steps // 2)
    rows["window 15, free bits"] = replace(config, window=15, free_bits=0.25)
    return {label: Row(config, train, measure=()) for label, config in rows.items()}


def bounds() -> dict[str, Row]:
    """One latent drawn an image in training, or five, whose weights are averaged outside the logarithm (the ELBO) or inside (IWAE)."""
    train = TrainConfig(epochs=5, batch_size=128, compile=False)
    config = ImportanceConfig(latent=32, network="mlp", width=256, blocks=2)
    ways = {"ELBO, one draw": (1, False), "ELBO, five draws": (5, False), "IWAE, five draws": (5, True)}
    return {label: Row(replace(config, draws=draws, inside=inside), train, measure=("nll",)) for label, (draws, inside) in ways.items()}


def lasting() -> dict[str, Row]:
    """What a VAE gains by averaged weights, a falling rate, four times the training, Muon, and twice the width, the last two in equal minutes."""
    train = TrainConfig(epochs=8, batch_size=128, learning_rate=4e-3, average=0.99, compile=False, train_images=20_000)
    config, rows = VAEConfig(latent=32, width=16), {}
    for rate, schedule in (("falling", "cosine"), ("constant", "constant")):
        for which, decay in (("averaged", 0.99), ("last weights", 0.0)):
            rows[f"{rate} rate, {which}"] = Row(config, replace(train, schedule=schedule, average=decay), measure=())
    rows["a quarter of the training"] = Row(config, replace(train, epochs=2), measure=())
    rows["Muon, equal minutes"] = Row(config, replace(train, epochs=7, optimizer="muon"), measure=())  # each epoch takes 1.1 times as long
    return rows | {"twice the width, equal minutes": Row(replace(config, width=32), replace(train, epochs=4), measure=())}


EXPERIMENTS = {
    "ae-sizes": (sizes, SEEDS),
    "vae-grey": (fully_connected, SEEDS),
    "kl-schedules": (schedules, SEEDS),
    "strong-decoder": (strong_decoder, SEEDS[:2]),
    "bounds": (bounds, SEEDS),
    "lasting": (lasting, SEEDS),
}


# ----------------------------------------------------------------------------------------------- of shipped weights


def code_sources(model, images) -> dict:
    """Where codes may come from, name -> function of n: the prior, and what is fitted to, or is, the codes of training `images`.

    Of a VAE the codes are draws from q(z|x) of what it observes: over all images they follow the aggregate posterior q(z).
    """
    stochastic = hasattr(model, "posterior")

    def shuffled(z):  # a mixture's draws come component by component
        return z[torch.randperm(len(z), device=z.device)]

    parts = []
    for part in images.split(1_000):
        if stochastic:
            mean, log_std, _ = model.posterior(model.observed(part))
            parts.append(mean + log_std.exp() * torch.randn_like(mean))
        else:
            parts.append(model.encode(part))
    codes = torch.cat(parts)
    fitted = {f"a mixture of {k} Gaussians" if k > 1 else "one full Gaussian": GaussianMixture(k, random_state=0).fit(codes.cpu()) for k in (1, 10)}
    sources = {"the standard normal": lambda n: torch.randn(n, model.latent_dim, device=codes.device)}
    for name, mixture in fitted.items():
        sources[name] = lambda n, mixture=mixture: shuffled(torch.as_tensor(mixture.sample(n)[0], dtype=codes.dtype, device=codes.device))
    return sources | {"codes of training images": lambda n: codes[torch.randperm(len(codes))[:n]]}


def decoded(names: tuple[str, ...], sources, kind: str, device) -> dict:
    """What the decoders of shipped weights draw from what `sources`(model, training images) offer, which stands under `kind` in each row."""
    rows, n = [], 10_000
    for name in names:
        model, info = weights.load_model(name, device)
        dataset = data.load(info["dataset"], device=device)
        reference = measures.Reference(dataset)
        with training.aside(0):
            for source, drawn in sources(model, dataset.train_images).items():
                images = torch.cat([model.decode(part) for part in drawn(n).split(at_once(device))])
                rows.append({"weights": name, kind: source} | measures.beside(images, reference))
                print(json.dumps(rows[-1]), flush=True)
    return {"n": n, "split": "test", "rows": rows}


def priors(device) -> dict:
    """The decoders of shipped weights with codes from four places: whose fault is the sample, the decoder's or the prior's?"""
    return decoded(("ae-mnist", "vae-mnist", "ae-fashion", "vae-fashion"), code_sources, "codes", device)


MEASUREMENTS = {"priors": priors}
