"""The comparisons of notebook 03: flows on latents, and what β does to them."""

import json
from dataclasses import replace

import torch

from helpers import data, measures, training, weights
from helpers.experiments.row import SEEDS, Row
from helpers.models.autoencoders import VAE, TCVAEConfig, VAEConfig
from helpers.models.fvae import FVAE, FVAEConfig
from helpers.models.ladder import LadderConfig
from helpers.runs import Run
from helpers.training import TrainConfig

BETAS = (0.25, 1.0, 2.0, 4.0, 8.0, 16.0)
BASE = FVAEConfig(latent=32, network="mlp", width=256, blocks=2, couplings=0)  # of the flows on latents
FEW = TrainConfig(epochs=5, batch_size=128, compile=False)


def flows_on_latents() -> dict[str, Row]:
    """Where a flow on the latents is put and how many couplings it has; encoder, decoder and budget are the same in all rows."""
    ways = {"no flow": {}}
    ways |= {f"posterior, {count}": {"couplings": count} for count in (1, 2, 4, 8)}
    ways |= {"posterior, 4, sees the image": {"couplings": 4, "features": 32}}
    ways |= {f"{where}, 4": {"couplings": 4, "where": where} for where in ("prior", "both")}
    rows = {f"mnist: {way}": Row(replace(BASE, **change), FEW, measure=("nll",)) for way, change in ways.items()}
    for way in ("no flow", "posterior, 4", "posterior, 4, sees the image", "prior, 4", "both, 4"):
        rows[f"fashion: {way}"] = Row(replace(BASE, **ways[way], likelihood="logistic"), FEW, "fashion", measure=("nll",))
    return rows


def betas() -> dict[str, Row]:
    """β-VAEs of digits: rate, distortion, and what single latents tell of slant, thickness and the like."""
    train = TrainConfig(epochs=8, batch_size=128, compile=False)
    config = VAEConfig(latent=10, network="mlp", width=256, blocks=2)
    rows = {f"β = {beta:g}": Row(replace(config, beta=beta), train, measure=("attributes", "weights")) for beta in BETAS}
    conv = Row(VAEConfig(latent=10, width=16, beta=4.0), replace(train, compile=True, epochs=5), measure=("attributes",))
    return rows | {"β = 4, convolutional": conv}


def sprites() -> dict[str, Row]:
    """β-VAEs and β-TCVAEs of shapes whose factors are known: mutual information gap and the FactorVAE score over β."""
    train = TrainConfig(epochs=20, batch_size=64)
    settings = {"latent": 10, "width": 16}
    configs = {f"β-VAE, {beta:g}": VAEConfig(**settings, beta=beta) for beta in (1.0, 4.0, 8.0)}
    configs |= {f"β-TCVAE, {beta:g}": TCVAEConfig(**settings, beta=beta, images=8_600) for beta in (4.0, 8.0)}
    return {label: Row(config, train, "sprites", measure=("factors",)) for label, config in configs.items()}


def levels() -> dict[str, Row]:
    """Latents in layers: which sizes there are, how the KL comes in, and the optimizer; data order and epochs are the same in all rows."""
    train = TrainConfig(epochs=6, batch_size=128, learning_rate=4e-3, optimizer="muon", average=0.99, train_images=20_000)
    config, steps = LadderConfig(width=16), 6 * 20_000 // 128
    ways = {"top alone": {"layers": (1, 0, 0)}, "top and middle": {"layers": (1, 2, 0)}, "all three": {}}
    ways |= {"all three, 3 nats free a layer": {"free_bits": 3.0}}
    ways |= {"all three, weight rises": {"schedule": "linear", "schedule_steps": steps // 2}}
    rows = {way: Row(replace(config, **change), train, measure=()) for way, change in ways.items()}
    adamw = replace(train, optimizer="adamw")
    rows["all three, AdamW"] = Row(config, adamw, measure=())
    return rows | {"all three, AdamW, 3 nats free a layer": Row(replace(config, free_bits=3.0), adamw, measure=())}


EXPERIMENTS = {
    "fvae": (flows_on_latents, SEEDS),
    "betas": (betas, SEEDS),
    "sprites": (sprites, SEEDS),
    "levels": (levels, SEEDS),
}


# ------------------------------------------------------------------------------------------------ in more than one stage


def with_decoder_of(model, encoder, dataset, train: TrainConfig, device):
    """The untrained VAE `encoder` trained with the decoder of `model`, which stays as it is."""
    encoder.decoder.load_state_dict(model.decoder.state_dict())
    encoder.to(device).decoder.requires_grad_(False)
    Run(encoder, dataset, train).train(progress=False)
    return encoder.eval()


def frozen(device) -> dict:
    """Two VAEs of `fvae`, without a flow and with eight couplings in the posterior, and fresh encoders of both kinds for the decoder
    of each, which is frozen: 5 epochs for everything. Negative ELBO in nats."""
    dataset, rows = data.load("mnist", device=device), []
    images, _ = dataset.part("validation")
    kinds = {"no flow": 0, "eight couplings": 8}
    for seed in SEEDS:
        train = replace(FEW, seed=seed)
        for trained_with, couplings in kinds.items():
            torch.manual_seed(seed)
            model = FVAE(replace(BASE, couplings=couplings)).to(device)
            Run(model, dataset, train).train(progress=False)
            encoders = {"its own": model.eval()}
            for kind, own in kinds.items():
                torch.manual_seed(seed + 100)
                encoders[f"fresh, {kind}"] = with_decoder_of(model, FVAE(replace(BASE, couplings=own)), dataset, train, device)
            for encoder, one in encoders.items():
                rows.append({"decoder trained with": trained_with, "encoder": encoder, "seed": seed} | measures.elbo(one, images))
                print(json.dumps(rows[-1]), flush=True)
    return {"split": "validation", "n": len(images), "rows": rows}


def amortisation(device) -> dict:
    """A VAE with two latents, 3 epochs; with its decoder, frozen, encoders of two kinds trained for 3 and for 15: what their ELBO
    loses of 200 images, KL(q || truth) in nats, beside the least that any Gaussian along the axes loses of the same images."""
    dataset, rows, n = data.load("mnist", device=device), [], 200
    config = VAEConfig(latent=2, network="mlp", width=256, blocks=2)
    bent = FVAEConfig(**vars(config), couplings=8, features=32)
    for seed in SEEDS:
        train = TrainConfig(epochs=3, batch_size=128, learning_rate=2e-3, average=0.99, compile=False, seed=seed)
        torch.manual_seed(seed)
        plane = VAE(config).to(device)
        Run(plane, dataset, train).train(progress=False)
        plane.eval()
        with training.aside(0):
            binary = plane.observed(dataset.part("validation")[0][:n])[:, None]  # binarised once
        truths = [measures.true_posterior(plane, x) for x in binary]
        least = torch.tensor([measures.nearest_gaussian(truth)["kl"] for truth in truths])
        rows.append({"seed": seed, "encoder": "none: the best Gaussian of each image"} | _spread(least))
        for epochs in (3, 15):
            for kind, settings in {"Gaussian": config, "with eight couplings": bent}.items():
                torch.manual_seed(seed + 100)
                encoder = VAE(settings) if settings is config else FVAE(settings)
                encoder = with_decoder_of(plane, encoder, dataset, replace(train, epochs=epochs), device)
                gaps = torch.tensor([measures.posterior_gap(encoder, x, truth) for x, truth in zip(binary, truths, strict=True)])
                rows.append({"seed": seed, "encoder": kind, "epochs": epochs} | _spread(gaps))
                print(json.dumps(rows[-1]), flush=True)
    return {"split": "validation", "n": n, "rows": rows}


def _spread(values) -> dict:
    return {"mean": values.mean().item(), "median": values.median().item(), "largest": values.max().item()}


def kl_parts(device) -> dict:
    """The KL of the shipped β-VAEs taken apart, on the test images: what the code tells of the image, how the latents depend on each
    other, how far each is from the prior."""
    rows, images = [], data.load("mnist", device=device).test_images
    for beta in BETAS:
        name = "betavae-mnist" + f"-{beta:g}" * (beta != 4)
        if name not in weights.shipped():
            print(f"{name} is not shipped any more: left out")
            continue
        model, _ = weights.load_model(name, device)
        rows.append({"weights": name, "beta": beta} | measures.kl_parts(model, images) | measures.elbo(model, images))
        print(json.dumps(rows[-1]), flush=True)
    return {"split": "test", "n": len(images), "rows": rows}


MEASUREMENTS = {"frozen": frozen, "amortisation": amortisation, "kl-parts": kl_parts}
