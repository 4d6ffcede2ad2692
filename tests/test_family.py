"""The house: a family that it has never heard of moves in from outside, and no room is too large."""

import ast
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from helpers import __main__ as cli
from helpers import measures, recipes, training, weights
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
    likelihood, measures, drawn_at, passes = "nats", ("closeness", "samples"), 0.9, 3

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

    def log_prob(self, images, labels=None):
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


SMOKE = ({"latent": 3}, training.TrainConfig(epochs=2, batch_size=32, average=0.9, compile=False, train_images=320, validation_images=50))


@pytest.fixture
def moved_in(monkeypatch):
    """All that a new family touches: its class, an entry of the recipes, and where it has one a measure of its own."""
    monkeypatch.setitem(recipes.RECIPES, "pca", recipes.Recipe(ProbabilisticPCA, SMOKE, SMOKE, SMOKE))
    monkeypatch.setitem(measures.MEASURES, "closeness", lambda task: {"mse": measures.reconstruction_error(task.model, task.images).mean().item()})


def run(*args):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["helpers", *map(str, args)])
        return cli.main()


def test_a_family_from_outside_is_trained_measured_drawn_and_explored(moved_in, digits, tmp_path, capsys):
    assert run("train", "pca", "--dataset", "digits", "--profile", "smoke", "--folder", tmp_path, "--set", "latent=2") == 0
    model, info = weights.load_model(tmp_path / "model.safetensors")
    assert type(model) is ProbabilisticPCA and (model.config.latent, model.config.images) == (2, 320) and info["dataset"] == "digits"
    assert run("evaluate", tmp_path / "model.safetensors") == 0 and "mse" in capsys.readouterr().out
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
    assert found["split"] == "validation" and found["n"] == 150 and found["mse"] > 0


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
    """Data and layers; models; training; recipes and weights; measures; show and experiments: none imports what comes after it."""
    order = [("data", "models"), ("training",), ("recipes", "weights"), ("measures",), ("show", "experiments", "report", "notebooks", "__main__")]
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
