"""The comparisons of notebook 02: autoencoders and VAEs."""

from dataclasses import replace

from helpers.experiments.row import SEEDS, Row
from helpers.models.autoencoders import AutoencoderConfig, VAEConfig
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
    causes = {"deep, no KL": {"beta": 0.0}, "two layers, constant": {"blocks": 2}}  # is it the KL that does it, or the depth?
    return rows | {label: Row(replace(kinds["deep"], **change), train, measure=()) for label, change in causes.items()}


EXPERIMENTS = {
    "ae-sizes": (sizes, SEEDS),
    "vae-grey": (fully_connected, SEEDS),
    "kl-schedules": (schedules, SEEDS),
}
