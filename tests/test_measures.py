"""The judge and what is measured with it."""

import math

import numpy as np
import pytest
import torch
from conftest import tiny_flow

from helpers import UserError, data, measures, recipes, training, weights
from helpers.models.classifier import Classifier, ClassifierConfig, broken, shifted
from helpers.models.layers import levels, unit
from helpers.show import plots


@pytest.fixture(scope="module")
def judge(digits):
    """A classifier of 8x8 digits, trained in seconds."""
    model, config = recipes.recipe("classifier", "smoke", digits)
    training.fit(model, digits, config, progress=False)
    return model.eval()


def test_the_classifier_learns_and_its_accuracy_is_what_evaluate_says(judge, digits):
    found = measures.evaluate(judge, digits)
    by_hand = sum((judge(digits.test_images[i : i + 1]).argmax() == digits.test_labels[i]).item() for i in range(297)) / 297
    assert found["n"] == 297 and found["accuracy"] == pytest.approx(by_hand, abs=1e-6)
    assert by_hand > 0.9
    assert found["legibility_of_broken_images"] < 0.1 < found["legibility"]  # it is not sure of everything


def test_broken_images(digits):
    images, labels = digits.test_images[:8] / 255, digits.test_labels[:8]
    torch.manual_seed(0)
    wrecks = broken(images, labels)
    assert wrecks.shape == images.shape and wrecks.min() >= 0 and wrecks.max() <= 1
    for i in (0, 1, 4, 5):  # the same pixels in other places
        assert torch.equal(wrecks[i].flatten().sort().values, images[i].flatten().sort().values) and not torch.equal(wrecks[i], images[i])
    assert torch.equal(wrecks[2], torch.maximum(images[2], images[1]))
    assert broken(torch.rand(4, 3, 9, 14), torch.arange(4)).shape == (4, 3, 9, 14)


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10"])
def test_the_shipped_judges_are_as_good_as_stated(name):
    """On the real test set where it is at hand; where it is not, this says so."""
    places = {"mnist": ["MNIST/raw"], "fashion": ["FashionMNIST/raw"], "cifar10": ["cifar10.npz", "cifar-10-batches-py"]}[name]
    if not any((data.data_dir() / place).exists() for place in places):
        pytest.skip(f"{name} is not in {data.data_dir()}")
    try:
        arrays, _ = data._read(name, data.data_dir())
    except UserError as error:
        pytest.skip(str(error))
    model, _ = weights.load_model(f"classifier-{name}")
    stated = weights.shipped()[f"classifier-{name}"]["metrics"]["accuracy"]
    found = measures.accuracy(model, torch.from_numpy(arrays[2]), torch.from_numpy(arrays[3]))
    assert found == pytest.approx(stated, abs=5e-4)


def test_legibility_and_accuracy(judge, digits):
    assert measures.accuracy(judge, digits.test_images, (digits.test_labels + 1) % 10) < 0.1
    noise = torch.rand(200, 1, 8, 8)
    real = measures.predict(judge, digits.test_images)
    assert measures.legibility(measures.predict(judge, noise)) < measures.legibility(real) <= 1
    assert measures.legibility(real, confidence=0.0) == 1


def gaussian(n, mean, covariance, seed):
    """n draws whose mean and covariance are exactly these."""
    x = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return mean + x @ torch.linalg.cholesky(torch.cov(x.T)).inverse().T @ torch.linalg.cholesky(covariance).T


def test_frechet_distance_of_two_gaussians():
    """|m - n|^2 + tr(A + B - 2 (A B)^(1/2)), which of commuting A and B is the sum of (sqrt a - sqrt b)^2."""
    mean, other = torch.tensor([0.0, 1.0, 2.0]).double(), torch.tensor([1.0, 1.0, 0.0]).double()
    a, b = torch.tensor([1.0, 4.0, 0.25]).double(), torch.tensor([9.0, 1.0, 0.25]).double()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    x, y = gaussian(500, mean, turn @ a.diag() @ turn.T, 1), gaussian(400, other, turn @ b.diag() @ turn.T, 2)
    expected = (mean - other).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert measures.frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-6)
    assert measures.frechet_distance(x, x) == pytest.approx(0, abs=1e-6)


def test_kernel_distance():
    """The unbiased estimate by its definition, from all pairs; about 0 for two sets of one kind."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(200, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    y = y + 1

    def kernel(a, b):
        return (a @ b.T / 5 + 1) ** 3

    def without_itself(k):
        return (k.sum() - k.trace()) / (200 * 199)

    expected = without_itself(kernel(x, x)) + without_itself(kernel(y, y)) - 2 * kernel(x, y).mean()
    assert measures.kernel_distance(x, y) == pytest.approx(expected.item(), rel=1e-5)
    assert abs(measures.kernel_distance(x, y - 1)) < 0.05 * expected
    many = torch.randn(3_000, 5, generator=generator)  # more than one draw takes: at random, by a seed
    assert measures.kernel_distance(many, y) == measures.kernel_distance(many, y)


def test_precision_and_recall():
    real, same = (torch.rand(400, 2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert measures.precision_recall(real, real) == {"precision": 1, "recall": 1}
    assert min(measures.precision_recall(same, real).values()) > 0.9
    corner = measures.precision_recall(same * 0.3, real)  # all of them plausible, a tenth of the square covered
    assert corner["precision"] > 0.9 and corner["recall"] < 0.3
    assert measures.precision_recall(same + 5, real) == {"precision": 0, "recall": 0}


def test_diversity():
    assert measures.diversity(torch.ones(50, 3)) == 0
    assert measures.diversity(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)


def test_inception_says_what_is_missing(monkeypatch):
    import torchmetrics.image.fid

    for error, sentence in ((ModuleNotFoundError("torch_fidelity"), "pip install torch-fidelity"), (OSError("no route"), "no route")):

        def broken_(error=error, **_):
            raise error

        monkeypatch.setattr(torchmetrics.image.fid, "FrechetInceptionDistance", broken_)
        with pytest.raises(UserError, match=sentence):
            measures.inception_distance(torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8))


def test_inception_sees_the_bins_that_everybody_sees(monkeypatch):
    import torchmetrics.image.fid

    seen = []

    class Metric:
        def __init__(self, **_):
            pass

        def to(self, device):
            return self

        def update(self, images, real):
            seen.append(images)

        def compute(self):
            return torch.tensor(0.0)

    monkeypatch.setattr(torchmetrics.image.fid, "FrechetInceptionDistance", Metric)
    images = torch.rand(4, 1, 8, 8)
    measures.inception_distance(images, images)
    assert all(torch.equal(one[:, :1], levels(images)) and one.shape[1] == 3 for one in seen)
    with pytest.raises(UserError, match="uint8"):
        measures.inception_distance(images.mul(255).int(), images)


def test_samples_are_measured_against_real_images(judge, digits, monkeypatch):
    """A stand-in that draws training images is as good as the floor, and noise is far away; without a judge nothing is said."""
    monkeypatch.setattr(measures.samples, "judge", lambda dataset, profile: measures.Judge(judge, "one of 8x8 digits"))
    reference, stand_in = measures.Reference(digits), tiny_flow((1, 8, 8))
    for index in measures.samples.matched_slices(digits.test_labels, digits.train_labels):
        stand_in.sample = lambda n, labels=None, index=index: digits.train_images[index]
        found = measures.sample_quality(stand_in, reference)
        assert found["frechet_floor_low"] <= round(found["frechet_distance"], 6) + 1e-6 <= found["frechet_floor_high"] + 2e-6
    assert found["judge"] == "one of 8x8 digits"
    assert found["floor_slices"] == 4 and found["frechet_floor_low"] < found["frechet_floor"] < found["frechet_floor_high"]
    assert found["recall"] > 0.5 and found["classes_covered"] == 10 and "diversity_within_class" not in found and found["passes"] == 1
    stand_in.sample = lambda n, labels=None: torch.rand(n, 1, 8, 8)
    noise = measures.sample_quality(stand_in, reference, floor=False)
    assert noise["frechet_distance"] > 10 * found["frechet_distance"] and noise["recall"] < 0.1 and "frechet_floor" not in noise
    monkeypatch.setattr(measures.samples, "judge", lambda dataset, profile: None)
    assert measures.sample_quality(stand_in, measures.Reference(digits)) == {}


@pytest.mark.parametrize("classes", [10, 1])
def test_pictures_of_ones_own_get_a_judge_of_their_own_once(digits, tmp_path, monkeypatch, capsys, classes):
    """A classifier, or of one class the codes of an autoencoder; said beside the distance, and found again."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    labels = {"train_labels": digits.train_labels[:600], "test_labels": digits.test_labels} if classes > 1 else {}
    np.savez(tmp_path / "mine.npz", train_images=digits.train_images[:600, 0], test_images=digits.test_images[:, 0], **labels)
    mine = data.load(str(tmp_path / "mine.npz"))
    reference, stand_in = measures.Reference(mine), tiny_flow((1, 8, 8))
    assert capsys.readouterr().out.startswith("There is no judge for") and reference.classifier.reads == (classes > 1)
    stand_in.sample = lambda n, labels=None: mine.train_images[:n]
    found = measures.sample_quality(stand_in, reference)
    stand_in.sample = lambda n, labels=None: torch.rand(n, 1, 8, 8)
    noise = measures.sample_quality(stand_in, measures.Reference(mine), floor=False)
    assert "no judge" not in capsys.readouterr().out and noise["frechet_distance"] > 5 * found["frechet_distance"]
    if classes > 1:
        assert int(found["judge"].split("about ")[1].split("%")[0]) > 85 and found["classes_covered"] == 10
    else:
        assert "codes of an autoencoder" in found["judge"] and "legibility" not in found
    watch = measures.CollapseWatch(reference.classifier, mine.test_images, 50)
    watch(stand_in, 0)
    assert ("legibility" in watch.rows[0]) == (classes > 1) and watch.rows[0]["recall"] < 0.2


def test_slices_are_matched_and_share_nothing():
    """Each has the labels asked for, position by position; how many fit is what the rarest class allows."""
    among = torch.tensor([0, 1, 2] * 4 + [0, 1] * 3)  # 7, 7 and 4
    labels = torch.tensor([2, 0, 1, 2])
    slices = measures.samples.matched_slices(labels, among)
    assert len(slices) == 2 and all(torch.equal(among[index], labels) for index in slices)
    assert len(torch.cat(slices).unique()) == 8
    assert len(measures.samples.matched_slices(labels[1:3], among)) == 5  # no more, although seven would fit
    assert not measures.samples.matched_slices(torch.tensor([2] * 5), among)


def test_a_model_that_takes_labels_is_asked_for_those_of_the_real_images(judge, digits, monkeypatch):
    monkeypatch.setattr(measures.samples, "judge", lambda dataset, profile: measures.Judge(judge, "one of 8x8 digits"))
    stand_in, asked = tiny_flow((1, 8, 8), classes=10), []
    stand_in.sample = lambda n, labels: (asked.append(labels), digits.test_images)[1]
    found = measures.sample_quality(stand_in, measures.Reference(digits), floor=False)
    assert torch.equal(asked[0], digits.test_labels)
    assert found["frechet_distance"] == pytest.approx(0, abs=1e-4) and found["diversity_within_class"] == pytest.approx(1)


@pytest.mark.parametrize("wrong", [lambda x: x.float(), lambda x: x.long(), lambda x: x / 255 - 0.5])
def test_images_on_another_scale_are_refused_at_every_door(judge, digits, wrong):
    """0 to 255 as floats or whole numbers would be read, measured and shown, and every number be wrong."""
    images = wrong(digits.test_images[:20])
    disentanglement = measures.latents.disentanglement
    doors = [judge, judge.features, judge.loss, plots.to_uint8, levels, unit, disentanglement.attributes]
    doors += [lambda x: measures.pca_errors(x, x, [1]), lambda x: measures.predict(judge, x), lambda x: measures.features(judge, x)]
    for door in doors:
        with pytest.raises(UserError, match="uint8|divide 8-bit values by 255"):
            door(images)


def test_floats_fall_into_their_bins_everywhere():
    x = torch.tensor([0.0, 1 / 256, 0.5, 0.999, 1.0])
    assert levels(x).tolist() == [0, 1, 128, 255, 255] == plots.to_uint8(x.view(1, 1, 1, 5)).flatten().tolist()
    assert torch.equal(levels(unit(torch.arange(256, dtype=torch.uint8))), torch.arange(256, dtype=torch.uint8))


def test_control_accuracy_asks_for_every_class_and_judges_every_part(judge, digits):
    """A stand-in that draws real images of the class asked for scores what the judge scores on them."""
    first = torch.stack([digits.test_images[digits.test_labels == label][0] for label in range(10)])
    read = (judge(first).argmax(1) == torch.arange(10)).float().mean().item()
    for parts in (1, 2):
        stand_in = tiny_flow((1, 8, 8 * parts), classes=10, parts=parts)

        def sample(n, temperature, labels, parts=parts):
            columns = [labels // 10**i % 10 for i in reversed(range(parts))]
            return torch.cat([first[column] for column in columns], dim=3)

        stand_in.sample = sample
        assert measures.control_accuracy(stand_in, judge, torch.arange(100) % 10**parts) == pytest.approx(read, abs=1e-6)
        stand_in.sample = lambda n, temperature, labels, sample=sample: sample(n, temperature, (labels + 1) % 10)
        assert measures.control_accuracy(stand_in, judge, torch.arange(100) % 10**parts) < 0.6


def test_units():
    assert measures.nats_to_bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)
    assert measures.nats_to_bits_per_dim(0, 784, scale=256) == pytest.approx(8)  # a uniform density on [0, 1] is raw storage


def test_training_images_are_shifted_whole():
    torch.manual_seed(0)
    images = torch.zeros(64, 1, 8, 8, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    moved = shifted(images, 2)
    assert moved.shape == images.shape and moved.dtype == torch.uint8
    assert (moved.flatten(1).sum(1) == 255).all()
    where = moved.flatten(1).argmax(1)
    assert set((where // 8).tolist()) == set(range(2, 7)) == set((where % 8).tolist())


def test_a_classifier_says_what_it_takes():
    model = Classifier(ClassifierConfig(width=4))
    with pytest.raises(UserError, match=r"\(N, 1, 28, 28\).*\(2, 1, 8, 8\)"):
        model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="one image at a time"):
        Classifier(ClassifierConfig(parts=2))
