"""The comparisons of notebook 03: flows on latents, and what β does to them."""

from dataclasses import replace

from helpers.experiments.row import SEEDS, Row
from helpers.models.autoencoders import TCVAEConfig, VAEConfig
from helpers.models.hierarchical import FVAEConfig
from helpers.training import TrainConfig

BETAS = (0.25, 1.0, 2.0, 4.0, 8.0, 16.0)


def flows_on_latents() -> dict[str, Row]:
    """Where a flow on the latents is put and how many couplings it has; encoder, decoder and budget are the same in all rows."""
    train = TrainConfig(epochs=5, batch_size=128, compile=False)
    base = FVAEConfig(latent=32, network="mlp", width=256, blocks=2, couplings=0)
    ways = {"no flow": {}}
    ways |= {f"posterior, {count}": {"couplings": count} for count in (1, 2, 4, 8)}
    ways |= {"posterior, 4, sees the image": {"couplings": 4, "features": 32}}
    ways |= {f"{where}, 4": {"couplings": 4, "where": where} for where in ("prior", "both")}
    rows = {f"mnist: {way}": Row(replace(base, **change), train, measure=("nll",)) for way, change in ways.items()}
    for way in ("no flow", "posterior, 4", "posterior, 4, sees the image", "prior, 4", "both, 4"):
        rows[f"fashion: {way}"] = Row(replace(base, **ways[way], likelihood="logistic"), train, "fashion", measure=("nll",))
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


EXPERIMENTS = {
    "fvae": (flows_on_latents, SEEDS),
    "betas": (betas, SEEDS),
    "sprites": (sprites, SEEDS),
}
