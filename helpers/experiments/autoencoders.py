"""The comparisons of notebook 02: autoencoders and VAEs."""

from helpers.autoencoders import AutoencoderConfig, VAEConfig
from helpers.experiments.row import SEEDS, Row
from helpers.training import TrainConfig

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


def sizes() -> dict[str, Row]:
    """Autoencoders of every size of bottleneck, all with the same networks and the same budget."""
    train = TrainConfig(epochs=3, batch_size=128, learning_rate=4e-3)
    return {
        f"{dataset}, {size}": Row(AutoencoderConfig(latent=size, width=16), train, dataset, measure=())
        for dataset in ("mnist", "fashion")
        for size in SIZES
    }


def fully_connected() -> dict[str, Row]:
    """The VAE of an earlier report in its own measure: summed cross entropy on grey values + KL, 20 epochs, fully connected."""
    config = VAEConfig(latent=24, network="mlp", width=512, blocks=2, likelihood="grey")
    train = TrainConfig(epochs=20, batch_size=128, compile=False)
    return {dataset: Row(config, train, dataset, measure=()) for dataset in ("mnist", "fashion")}


EXPERIMENTS = {
    "ae-sizes": (sizes, SEEDS),
    "vae-grey": (fully_connected, SEEDS),
}
