"""What a row of a comparison is, and the budget that rows share."""

from dataclasses import dataclass

from helpers.training import TrainConfig

# The budget of a comparison: each row sees these many training images once, in this order of magnitude a minute of two
# cores. Rows differ in parameters and seconds, which are therefore stated beside the result.
BUDGET = TrainConfig(epochs=1, learning_rate=1e-2, train_images=16_000, reports_per_epoch=4)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Row:
    """One row of a comparison: a configuration, how to train it, on what."""

    config: object  # of any model of helpers.models.model.Model.of
    train: TrainConfig = BUDGET
    dataset: str = "mnist"
    start: str | None = None  # shipped weights that it starts from
    # Besides what the model measures of itself: legibility, pixels, pictures (with each pictures are kept); nll, attributes, factors; weights.
    measure: tuple[str, ...] = ("legibility",)
