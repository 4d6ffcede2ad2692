"""The house: a family that it has never heard of moves in from outside, and no room is too large."""

import ast
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from helpers import __main__ as cli
from helpers import measures, recipes, runs, training, weights
from helpers.models.layers import check_latents, pixels
from helpers.models.model import Model
from helpers.show import plots, sliders

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class PCAConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)
    latent: int = 4
    images: int = 0


class ProbabilisticPCA(Model):
    """Probabilistic principal components (Tipping & Bishop 1999): a linear VAE, whose likelihood is known."""

    Config = PCAConfig
    likelihood, measures, drawn_at, passes = "bits/dim", ("closeness", "bits", "samples"), 0.9, 3

    def __init__(self, config):
        super().__init__(config)
        size = torch.Size(config.image_shape).numel()
        self.components = torch.nn.Linear(config.latent, size)
        self.log_width = torch.nn.Parameter(torch.zeros(()))

    @classmethod
    def settings_for(cls, image_shape, images, steps):
        return {"images": images}

    def regions(self):
        return [self.components]

    def log_prob(self, images):
        weight = self.components.weight
        covariance = weight @ weight.T + (2 * self.log_width).exp() * torch.eye(len(weight))
        x = pixels(self, images).flatten(1)
        return torch.distributions.MultivariateNormal(self.components.bias, covariance).log_prob(x)

    def loss(self, images, labels=None):
        return {"loss": -self.log_prob(images).mean(), "width": self.log_width.exp()}

    def encode(self, images):
        return torch.linalg.lstsq(self.components.weight, (pixels(self, images).flatten(1) - self.components.bias).T).solution.T

    def decode(self, z, labels=None):
        check_latents(z, self.latent_dim)
        return self.components(z).clamp(0, 1).view(-1, *self.config.image_shape)


CLOSENESS = measures.Measure(
    lambda task: {"mse_to_mine": measures.reconstruction_error(task.model, task.images).mean().item()},
    {"mse_to_mine": measures.Metric("mine", 4, relative=0.5, said="off by {:.4f}")},
)


@dataclass(frozen=True)
class SmallTarConfig:
    image_shape: tuple[int, int, int] = (1, 28, 28)
    layers: int = 2
    classes: int = 0
    parts: int = 1


class SmallTar(Model):
    """An autoregressive flow in the manner of TarFlow (Zhai et al. 2024), with rows for patches and one matrix for a transformer.

    Layer by layer a row becomes (row - shift) exp(-scale), both of the rows before it and the label; every other layer goes from below.
    """

    Config = SmallTarConfig
    likelihood, measures, free = "bits/dim", ("bits", "samples", "unlabelled"), True

    def __init__(self, config):
        super().__init__(config)
        channels, self.rows, width = config.image_shape
        self.size, told = channels * width, config.classes**config.parts + 1 if config.classes else 1
        self.look = torch.nn.ParameterList(torch.zeros(self.rows, self.rows, self.size, 2 * self.size) for _ in range(config.layers))
        self.told = torch.nn.ModuleList(torch.nn.Embedding(told, 2 * self.size) for _ in range(config.layers))

    @property
    def latent_dim(self):
        return self.rows * self.size

    def before(self, layer, x, label):
        """Shift and scale (N, rows, size) of each row of x, of the rows before it alone."""
        causal = torch.ones(self.rows, self.rows, device=x.device).tril(-1)
        found = torch.einsum("nrs,qrst->nqt", x, self.look[layer] * causal[:, :, None, None]) + self.told[layer](label)[:, None]
        shift, scale = found.chunk(2, dim=2)
        return shift, scale.tanh()

    def labels_or_none(self, labels, n):
        none = self.told[0].num_embeddings - 1
        return torch.full((n,), none, device=self.device) if labels is None or not self.labelled else labels

    def flow(self, x, label):
        total = x.new_zeros(len(x))
        for layer in range(self.config.layers):
            shift, scale = self.before(layer, x, label)
            x, total = ((x - shift) * (-scale).exp()).flip(1), total - scale.flatten(1).sum(1)
        return x, total

    def log_prob(self, images, labels=None, samples=1):
        x = pixels(self, images).permute(0, 2, 1, 3).flatten(2) * 255 / 256
        z, log_det = self.flow(4 * (x + torch.rand_like(x) / 256) - 2, self.labels_or_none(labels, len(x)))
        nats = torch.distributions.Normal(0, 1).log_prob(z).flatten(1).sum(1) + log_det
        return nats - self.latent_dim * math.log(256 / 4)

    def loss(self, images, labels=None):
        return {"loss": -self.log_prob(images, labels).mean() / (self.latent_dim * math.log(2))}

    def encode(self, images, labels=None):
        x = pixels(self, images).permute(0, 2, 1, 3).flatten(2) * 255 / 256
        return self.flow(4 * (x + 0.5 / 256) - 2, self.labels_or_none(labels, len(x)))[0].flatten(1)

    def decode(self, z, labels=None):
        check_latents(z, self.latent_dim)
        label = self.labels_or_none(labels, len(z))
        x = z.view(-1, self.rows, self.size)
        for layer in reversed(range(self.config.layers)):
            x, done = x.flip(1), torch.zeros_like(x)
            for row in range(self.rows):
                shift, scale = self.before(layer, done, label)
                done[:, row] = x[:, row] * scale[:, row].exp() + shift[:, row]
            x = done
        channels, height, width = self.config.image_shape
        return ((x + 2) / 4).clamp(0, 1).view(-1, height, channels, width).transpose(1, 2)


SMOKE = ({"latent": 3}, training.TrainConfig(epochs=2, batch_size=32, average=0.9, compile=False, train_images=320, validation_images=50))
TAR = replace(SMOKE[1], epochs=40, learning_rate=3e-2)


@pytest.fixture
def moved_in(monkeypatch):
    """All that a new family touches: its class, an entry of the recipes, and where it has one a measure of its own, one object."""
    monkeypatch.setitem(recipes.RECIPES, "pca", recipes.Recipe(ProbabilisticPCA, SMOKE, SMOKE, SMOKE))
    monkeypatch.setitem(recipes.RECIPES, "tar", recipes.Recipe(SmallTar, ({}, TAR), ({}, TAR), ({}, TAR), labelled=True))
    monkeypatch.setitem(measures.MEASURES, "closeness", CLOSENESS)


def run(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["helpers", *map(str, args)])
        return cli.main()


def test_a_family_from_outside_is_trained_measured_drawn_and_explored(moved_in, digits, tmp_path, capsys):
    assert run("train", "pca", "--dataset", "digits", "--profile", "smoke", "--folder", tmp_path, "--set", "latent=2") == 0
    model, info = weights.load_model(tmp_path / "model.safetensors")
    assert type(model) is ProbabilisticPCA and (model.config.latent, model.config.images) == (2, 320) and info["dataset"] == "digits"
    assert run("evaluate", tmp_path / "model.safetensors") == 0 and "\nmine  " in capsys.readouterr().out
    assert run("sample", tmp_path / "model.safetensors", "--count", 4, "--out", tmp_path / "four.png") == 0
    images, labels = digits.part("test")
    for explorer, control in (
        (sliders.temperature(model, n=4), "temperature"),
        (sliders.between({"PCA": model}, images[:2]), "position"),
        (sliders.plane(model, images, labels, digits.classes), "vertical"),
        (sliders.dimensions(model, images, [0, 1]), "z1"),
    ):
        before, slider = explorer.picture.value, explorer.controls[control]
        slider.value = slider.max
        assert bytes(explorer.picture.value) != bytes(before)


def test_a_measure_of_ones_own_is_one_object(moved_in, tmp_path, monkeypatch, capsys):
    """`list` says it, and `evaluate all` holds it to its tolerance."""
    for name in ("WEIGHTS", "RESULTS"):
        monkeypatch.setattr(weights, name, tmp_path / name)
    assert run("train", "pca", "--dataset", "digits", "--profile", "smoke", "--folder", tmp_path / "run") == 0
    assert run("ship", tmp_path / "run", "mine") == 0 and run("list") == 0
    recorded = weights.record("mine")["metrics"]
    assert f"off by {recorded['mse_to_mine']:.4f}" in capsys.readouterr().out and math.isfinite(recorded["bits_per_dim"])
    for factor, differs in ((1.4, False), (3.0, True)):
        weights.keep_metrics("mine", {"mse_to_mine": factor * recorded["mse_to_mine"]})
        run("evaluate", "all")
        assert ("mse_to_mine is" in capsys.readouterr().out) is differs


def test_an_autoregressive_flow_moves_in(moved_in, digits, tmp_path):
    assert run("train", "tar", "--dataset", "digits", "--profile", "smoke", "--folder", tmp_path) == 0
    model, _ = weights.load_model(tmp_path / "model.safetensors")
    images, labels = digits.test_images[:20], digits.test_labels[:20]
    rebuilt = model.decode(model.encode(images, labels), labels)
    assert (rebuilt - (images + 0.5) / 256).abs().max() < 1e-2
    metrics = runs.finished(tmp_path)["metrics"]
    assert metrics["bits_per_dim"] < 8 and "not_measured" not in metrics  # what guessing takes
    assert run("sample", tmp_path / "model.safetensors", "--label", "3", "--count", 4, "--out", tmp_path / "four.png") == 0


def test_the_loop_averages_it_resumes_it_and_compares_it(moved_in, digits, tmp_path, monkeypatch):
    from helpers import experiments

    model, config = recipes.recipe("pca", "smoke", digits, epochs=4)
    training.fit(model, digits, replace(config, precision="float32"), progress=False)
    plain, _ = recipes.recipe("pca", "smoke", digits, epochs=4)
    training.fit(plain, digits, replace(config, precision="float32", average=0.0), progress=False)
    assert not torch.equal(model.components.weight, plain.components.weight)
    monkeypatch.setattr(weights, "RESULTS", tmp_path)

    def pcas():
        """Two components."""
        return {"two": experiments.Row(PCAConfig((1, 8, 8), 2), replace(config, epochs=1), "digits", measure=("pictures",))}

    monkeypatch.setitem(experiments.EXPERIMENTS, "pcas", (pcas, (0,)))
    found = experiments.run("pcas")["rows"][0]["metrics"]
    assert found["split"] == "validation" and found["n"] == 150 and found["mse_to_mine"] > 0


def python_files():
    return [path for folder in ("helpers", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_is_too_large(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 70, node.name


def test_a_step_and_an_epoch_can_be_shown():
    import inspect

    for part in (training.train_step, training.train_epoch):
        assert len(inspect.getsource(part).splitlines()) <= 40
    plots.source(training.train_step)


def test_dependencies_point_one_way():
    """Data and layers; models; training; recipes and weights; runs; measures; show and experiments: none imports what comes after it."""
    order = [
        ("data", "models"),
        ("training",),
        ("recipes", "weights"),
        ("runs",),
        ("measures",),
        ("show", "experiments", "report", "notebooks", "__main__"),
    ]
    level = {name: i for i, names in enumerate(order) for name in names}
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        own = path.relative_to(ROOT / "helpers").parts[0].removesuffix(".py")
        if own not in level:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "helpers":
                parts = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                for part in parts:
                    assert level.get(part, 0) <= level[own], f"{path.name} imports {part}"


def test_nobody_asks_for_a_class():
    """What a measure, a slider, the report or the command line needs to know of a model, the model says of itself."""
    for folder in ("measures", "show", "experiments", "training"):
        for path in (ROOT / "helpers" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                    assert "model" not in ast.unparse(node.args[0]), f"{path.name}: {ast.unparse(node)}"
