"""The judge and what is measured with it."""

import math

import pytest
import torch
from conftest import tiny_flow

from helpers import UserError, data, metrics, training
from helpers.classifier import Classifier, ClassifierConfig, broken, shifted


@pytest.fixture(scope="module")
def judge(digits):
    """A classifier of 8x8 digits, trained in seconds."""
    model, config = training.recipe("classifier", "smoke", digits)
    training.fit(model, digits, config, progress=False)
    return model.eval()


def test_the_classifier_learns_and_its_accuracy_is_what_evaluate_says(judge, digits):
    found = metrics.evaluate(judge, digits)
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
    model, _ = training.load_model(f"classifier-{name}")
    stated = training.shipped()[f"classifier-{name}"]["metrics"]["accuracy"]
    found = metrics.accuracy(model, torch.from_numpy(arrays[2]), torch.from_numpy(arrays[3]))
    assert found == pytest.approx(stated, abs=5e-4)


def test_legibility_and_accuracy(judge, digits):
    assert metrics.accuracy(judge, digits.test_images, (digits.test_labels + 1) % 10) < 0.1
    noise = torch.rand(200, 1, 8, 8)
    assert metrics.legibility(judge, noise) < metrics.legibility(judge, digits.test_images) <= 1
    assert metrics.legibility(judge, digits.test_images, confidence=0.0) == 1


def test_frechet_distance(judge, digits):
    """Of a set to itself 0; by the formula on Gaussians that differ by a shift of the features' mean alone."""
    images = digits.train_images[:400]
    assert metrics.frechet_distance(judge, images, images) == pytest.approx(0, abs=1e-3)
    assert next(judge.parameters()).dtype == torch.float32  # and the judge is left as it was
    assert metrics.frechet_distance(judge, torch.rand(400, 1, 8, 8), images) > metrics.frechet_distance(judge, digits.test_images, images) > 0


def test_diversity(judge, digits):
    one = digits.test_images[:1].expand(50, -1, -1, -1)
    assert metrics.diversity(judge, one) == pytest.approx(0, abs=1e-4)
    assert metrics.diversity(judge, digits.test_images) > 0.1


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
        assert metrics.control_accuracy(stand_in, judge, n=100) == pytest.approx(read, abs=1e-6)
        stand_in.sample = lambda n, temperature, labels, sample=sample: sample(n, temperature, (labels + 1) % 10)
        assert metrics.control_accuracy(stand_in, judge, n=100) < 0.6


def test_units_go_there_and_back():
    assert metrics.nats_to_bits_per_dim(784 * math.log(2), 784) == pytest.approx(1)
    assert metrics.nats_to_bits_per_dim(0, 784, scale=256) == pytest.approx(8)  # a uniform density on [0, 1] is raw storage
    for scale in (1, 128, 256):
        assert metrics.nats_to_bits_per_dim(metrics.bits_per_dim_to_nats(1.05, 784, scale), 784, scale) == pytest.approx(1.05)


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
    with pytest.raises(UserError, match=r"\(2, 1, 8, 8\).*\(N, 1, 28, 28\)"):
        model(torch.zeros(2, 1, 8, 8))
    with pytest.raises(UserError, match="one image at a time"):
        Classifier(ClassifierConfig(parts=2))
