"""GANs: objectives against their definitions, the game's two moves, conditions, growing."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from conftest import stir

from helpers import UserError, data, measures, recipes, training, weights
from helpers.models.games import GameConfig, discriminator_loss, feature_matching, generator_loss, gradient_penalty
from helpers.models.gans import GAN, GANConfig, Generator, other_labels
from helpers.models.growing import EqualConv, EqualLinear, PixelNorm, ProGAN, ProGANConfig, enlarge, minibatch_deviation, shrink, sides
from helpers.training import reports

OBJECTIVES = get_args(GameConfig.__annotations__["objective"])

SMALL = {"image_shape": (1, 8, 8), "latent": 6, "width": 4}
IMAGES = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def tiny(**changes):
    torch.manual_seed(0)
    return GAN(GANConfig(**SMALL | changes)).double()


def growing(size=16, **changes):
    torch.manual_seed(0)
    return stir(ProGAN(ProGANConfig(**SMALL | {"image_shape": (3, size, size), "stage_steps": 10} | changes))).double()


# ---- objectives


def test_the_classic_game_in_probabilities():
    real, fake = torch.randn(2, 50).double()
    d_real, d_fake = torch.sigmoid(real), torch.sigmoid(fake)
    for objective in ("minimax", "nonsaturating"):
        torch.testing.assert_close(discriminator_loss(objective, real, fake), -(d_real.log() + (1 - d_fake).log()).mean())
    torch.testing.assert_close(generator_loss("minimax", fake), (1 - d_fake).log().mean())
    torch.testing.assert_close(generator_loss("nonsaturating", fake), -d_fake.log().mean())
    nothing = torch.zeros(5)
    assert discriminator_loss("minimax", nothing, nothing).item() == pytest.approx(2 * math.log(2))
    assert generator_loss("nonsaturating", nothing).item() == pytest.approx(math.log(2))


def test_minimax_is_flat_where_the_discriminator_is_sure():
    score = torch.tensor([-10.0], requires_grad=True)
    slopes = {o: torch.autograd.grad(generator_loss(o, score), score)[0].item() for o in ("minimax", "nonsaturating")}
    assert abs(slopes["minimax"]) < 1e-4 and slopes["nonsaturating"] == pytest.approx(-1, abs=1e-4)


def test_hinge_and_wasserstein():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 1.0])
    assert discriminator_loss("hinge", real, fake).item() == pytest.approx((0 + 0.5) / 2 + (0 + 2) / 2)
    assert discriminator_loss("wgan-gp", real, fake).item() == pytest.approx(-1.0 - 1.25)
    assert generator_loss("hinge", fake).item() == generator_loss("wgan-gp", fake).item() == pytest.approx(1.0)


@pytest.mark.parametrize("length", [0.0, 1.0, 3.0])
def test_penalty_of_a_linear_critic(length):
    """Its gradient is its weight everywhere: the penalty is (|w| - 1)^2, and its gradient by w is that of this formula."""
    weight = F.normalize(torch.randn(64).double(), dim=0).mul(length).requires_grad_()
    real, fake = torch.randn(2, 7, 1, 8, 8).double()
    penalty = gradient_penalty(lambda x: x.flatten(1) @ weight, real, fake)
    assert penalty.item() == pytest.approx((length - 1) ** 2, abs=1e-12)
    if length:
        (found,) = torch.autograd.grad(penalty, weight)
        torch.testing.assert_close(found, 2 * (length - 1) * weight.detach() / length)


def test_each_pair_has_a_point_of_its_own_between_its_images():
    real, fake, seen = torch.ones(500, 1, 2, 2), torch.zeros(500, 1, 2, 2), []
    gradient_penalty(lambda x: (seen.append(x.detach()), x.sum((1, 2, 3)))[1], real, fake)
    share = seen[0][:, 0, 0, 0]
    assert torch.equal(seen[0], share[:, None, None, None].expand_as(real))  # one number an image, not a pixel
    assert share.min() >= 0 and share.max() <= 1 and share.mean().item() == pytest.approx(0.5, abs=0.06) and share.std() > 0.25


def test_feature_matching_by_hand():
    real, fake = torch.randn(2, 12, 5).double()
    torch.testing.assert_close(feature_matching(real, fake), (real.mean(0) - fake.mean(0)).square().mean())
    by_class = torch.stack([(real[c::3].mean(0) - fake[c::3].mean(0)).square() for c in range(3)]).mean()  # labels are 0, 1, 2 in turn
    torch.testing.assert_close(feature_matching(real, fake, LABELS, 3), by_class)
    assert feature_matching(real, real[[3, 4, 5, 0, 1, 2, *range(6, 12)]], LABELS, 3).item() < 1e-20  # the same images, class by class
    assert feature_matching(real, real.roll(1, 0)).item() < 1e-20 < feature_matching(real, real.roll(1, 0), LABELS, 3)


def test_other_labels():
    labels = torch.arange(5).repeat(400)
    other = other_labels(labels, 5)
    pairs = torch.bincount(5 * labels + other, minlength=25).view(5, 5)
    assert (pairs.diagonal() == 0).all() and (pairs + 100 * torch.eye(5) > 60).all()  # never the same, any other about as often


# ---- the game


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_move_changes_one_side_and_lowers_its_loss(objective):
    model = tiny(objective=objective, feature_matching=0.5, network="mlp", width=16)
    players = {player.name: player for player in model.players()}
    assert list(players) == ["discriminator", "generator"]
    for name, player in players.items():
        values = []
        optimizer = torch.optim.Adam(player.network.parameters(), lr=1e-3)
        before = {key: value.clone() for key, value in model.state_dict().items() if not key.startswith(name) and "running" not in key}
        for _ in range(60):
            torch.manual_seed(1)  # the same noise: then it is descent on one function
            loss = player.loss(IMAGES)["loss"]
            model.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(loss.item())
        others = [p for other, q in players.items() if other != name for p in q.network.parameters()]
        assert values[-1] < values[0] and all(p.grad is None for p in others) and all(p.requires_grad for p in others)
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items() if "num_batches" not in key)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("told", ["projection", "channel"])
def test_mislabelled_images_are_refused_as_made_ones_are(objective, told):
    """Two classes: the wrong label is the other one. The loss is that of a batch of which this share is mislabelled."""
    model = stir(tiny(classes=2, told=told, objective=objective, mislabelled=0.25))
    labels = LABELS % 2
    torch.manual_seed(1)
    with torch.no_grad():
        terms = model.discriminator_terms(IMAGES, labels)
        found = terms.get("objective", terms["loss"])
        torch.manual_seed(1)
        fake, real = model.generator(model.noise(len(IMAGES)), labels), model.real(IMAGES)
        scores = model.discriminator(real, labels), model.discriminator(fake, labels), model.discriminator(real, 1 - labels)
    refused = [discriminator_loss(objective, scores[0], score) for score in scores[1:]]
    torch.testing.assert_close(found, 0.75 * refused[0] + 0.25 * refused[1])
    assert not torch.isclose(*refused)


def test_labels_reach_both_sides():
    for told in ("projection", "channel"):
        model = stir(tiny(classes=3, told=told)).eval()
        z, x = torch.randn(12, 6).double(), model.real(IMAGES)
        assert not torch.allclose(model.decode(z, LABELS), model.decode(z, (LABELS + 1) % 3))
        assert not torch.allclose(model.discriminator(x, LABELS), model.discriminator(x, (LABELS + 1) % 3))


def test_projection_is_the_formula():
    d = stir(tiny(classes=3)).discriminator
    x = torch.randn(12, 1, 8, 8).double()
    expected = [(d.head.weight[0] + d.vector.weight[y]) @ f + d.head.bias[0] for f, y in zip(d.net(x), LABELS, strict=True)]
    torch.testing.assert_close(d(x, LABELS), torch.stack(expected))


def test_spectral_norm_bounds_the_discriminator():
    """No layer stretches anything more than once: LeakyReLU neither, so no two images' scores are further apart than the images."""
    model = stir(tiny(network="mlp", width=32, spectral_norm=True, objective="hinge"), 1.0).train()
    for _ in range(30):  # the power iteration moves on with each call
        model.discriminator(model.real(IMAGES))
    a, b = torch.randn(2, 200, 1, 8, 8).double()
    slope = (model.discriminator(a) - model.discriminator(b)).abs() / (a - b).flatten(1).norm(dim=1)
    assert slope.max() <= 1 + 1e-6
    for layer in (model.discriminator.head, model.discriminator.net[1]):
        assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_between_two_classes():
    model = stir(tiny(classes=3)).eval()
    z, other = torch.randn(12, 6).double(), (LABELS + 1) % 3
    for share, labels in ((0.0, LABELS), (1.0, other)):
        torch.testing.assert_close(model.blend(z, LABELS, other, share), model.decode(z, labels))
    assert not torch.allclose(model.blend(z, LABELS, other, 0.5), model.decode(z, other))


def test_train_and_validation_losses_are_of_one_kind(digits):
    """A critic's loss has its penalty in it, in validation too; what people watch is its objective."""
    model, config = recipes.recipe("gan", "smoke", digits, epochs=1)
    row = training.fit(model, digits, config, progress=False)["epochs"][0]
    for split in ("train", "validation"):
        rest = row[f"{split}_discriminator_loss"] - row[f"{split}_discriminator_objective"] - 10 * row[f"{split}_discriminator_penalty"]
        assert 0 <= rest < 0.01 and row[f"{split}_discriminator_penalty"] > 0  # and the drift's thousandth
    assert model.watched == ("discriminator_objective", "generator_loss") and "lowest_discriminator_objective" in row
    assert tiny(objective="hinge").watched == ("discriminator_loss", "generator_loss")


def test_a_discriminator_that_has_won_is_told_once(digits, tmp_path, capsys):
    """Against a generator that can't learn, the discriminator wins; the run says so while it happens, and in its record."""
    model, config = recipes.recipe("gan", "smoke", digits, epochs=25, learning_rate=3e-3)
    model = GAN(replace(model.config, objective="nonsaturating", adversarial=1e-12, generator_norm=False))
    told = training.fit(model, digits, config, tmp_path, progress=False)["alarms"]
    again = GAN(model.config)
    assert training.fit(again, digits, config, tmp_path, resume=True, progress=False)["alarms"] == told and len(told) == 1
    assert len(told) == 1 and told[0]["what"].startswith("The discriminator has won") and told[0]["step"] <= 25 * 20
    assert "The discriminator has won" in capsys.readouterr().out
    model, config = recipes.recipe("cgan", "smoke", digits)
    assert "alarms" not in training.fit(model, digits, config, progress=False)


def test_a_loss_that_is_not_finite_names_its_player(digits):
    model, config = recipes.recipe("gan", "smoke", digits)
    with torch.no_grad():
        model.generator.net[0].weight[0, 0] = math.nan
    with pytest.raises(training.NonFiniteLoss, match="At step 1 .*discriminator_loss.*generator_loss"):
        training.fit(model, digits, config, progress=False)


@pytest.mark.parametrize("name", ["gan", "cgan", "progan"])
def test_resumed_is_uninterrupted(digits, tmp_path, name):
    """Both optimizers, the average and the random numbers of the game go on where they were."""

    class Stop(Exception):
        pass

    def stop(model, epoch):
        if epoch == 1:
            raise Stop

    results = []
    for cut in (False, True):
        folder = tmp_path / str(cut)
        if cut:
            model, config = recipes.recipe(name, "smoke", digits, epochs=2)
            with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
                patch.setattr(reports, "CHECKPOINT_SECONDS", 0)
                training.fit(model, digits, config, folder, on_report=stop, progress=False)
        model, config = recipes.recipe(name, "smoke", digits, epochs=2)
        record = training.fit(model, digits, config, folder, resume=cut, progress=False)
        results.append((model.state_dict(), [{k: v for k, v in row.items() if k != "seconds"} for row in record["epochs"]]))
    (a, rows), (b, resumed) = results
    assert all(torch.equal(a[key], b[key]) for key in a) and rows == resumed


def test_any_number_of_validation_images(digits):
    """Minibatch statistics need more than one image, and 251 are one batch of 250 and one more."""
    model, config = recipes.recipe("progan", "smoke", digits, validation_images=251)
    assert reports.validate(model, replace(digits, train_images=digits.train_images[:999]), config)
    few, _ = recipes.recipe("progan", "smoke", digits.head(train=20, validation=5), epochs=8)
    assert few.config.stage_steps == 8 // (len(sides(few.config.image_shape)) + 1)


def test_a_gan_learns_and_comes_back(digits, tmp_path):
    model, config = recipes.recipe("cgan", "smoke", digits, epochs=20)
    training.fit(model, digits, config, progress=False)
    path = tmp_path / "cgan.safetensors"
    weights.save_model(model, path, {"dataset": "digits"})
    back, _ = weights.load_model(path)
    z = torch.randn(10, 16)
    torch.testing.assert_close(back.decode(z, torch.arange(10)), model.eval().decode(z, torch.arange(10)))
    drawn = model.sample(300, labels=measures.in_turn(model, 300))
    real, noise = digits.train_images / 255, torch.rand(300, 1, 8, 8)
    assert (drawn.mean(0) - real.mean(0)).abs().mean() < 0.5 * (noise.mean(0) - real.mean(0)).abs().mean()


# ---- growing


def test_stages_are_halves():
    assert sides((3, 32, 32)) == [(4, 4), (8, 8), (16, 16), (32, 32)]
    assert sides((1, 28, 28)) == [(7, 7), (14, 14), (28, 28)]
    assert sides((1, 8, 8)) == [(4, 4), (8, 8)] and sides((3, 24, 40)) == [(6, 10), (12, 20), (24, 40)]


def test_fade_in_mixes_what_is_of_two_precisions():
    """On a GPU's autocast what is enlarged comes in float32, and what a convolution says in bfloat16."""
    network = growing(16).generator
    network.stage, network.alpha = 1, 0.5
    new = torch.ones(2, 3, dtype=torch.bfloat16)
    assert torch.equal(network.fade(lambda: torch.zeros(2, 3), new), new / 2)


def test_fade_in_begins_with_the_stage_before_and_ends_with_this_one():
    """At α = 0 both networks are exactly what they were a stage earlier, at α = 1 the old way has no say left."""
    model = growing(16)
    z, x = torch.randn(5, 6).double(), torch.randn(5, 3, 16, 16).double()
    for stage in (1, 2):
        at = x if stage == 2 else shrink(x)
        model.grow(stage - 1)
        before, scores = model.generator(z), model.discriminator(shrink(at))
        model.grow(stage, 0.0)
        torch.testing.assert_close(model.generator(z), enlarge(before), rtol=0, atol=0)
        torch.testing.assert_close(model.discriminator(at), scores, rtol=0, atol=0)
        faded = []
        for old in (model.generator.to_image[stage - 1], model.discriminator.from_image[stage - 1][0]):
            for alpha in (1.0, 0.999):
                model.grow(stage, alpha)
                first = model.generator(z).detach(), model.discriminator(at).detach()
                stir(old, 1.0)
                faded.append(all(torch.equal(a, b) for a, b in zip(first, (model.generator(z), model.discriminator(at)), strict=True)))
        assert faded == [True, False, True, False]


def test_halfway_is_half_of_both():
    model = growing(8)
    z = torch.randn(5, 6).double()
    drawn = {}
    for alpha in (0.0, 0.5, 1.0):
        model.grow(1, alpha)
        drawn[alpha] = model.generator(z)
    torch.testing.assert_close(drawn[0.5], (drawn[0.0] + drawn[1.0]) / 2)


def test_alpha_rises_in_every_stage():
    model = growing(16, stage_steps=10, fade=0.5)
    assert [model.growth(step) for step in (0, 9, 10, 12, 15, 19, 20, 21, 25, 29, 500)] == [
        (0, 1.0), (0, 1.0), (1, 0.0), (1, 0.4), (1, 1.0), (1, 1.0), (2, 0.0), (2, 0.2), (2, 1.0), (2, 1.0), (2, 1.0)
    ]  # fmt: skip
    assert [growing(16, fade=0.0).growth(step) for step in (0, 10, 20)] == [(0, 1.0), (1, 1.0), (2, 1.0)]


def test_it_sees_and_makes_images_of_its_stage():
    model = growing(16).train()
    images = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8)
    for step, size in ((0, 4), (12, 8), (25, 16)):
        model.step = step
        model.discriminator_terms(images)
        assert model.real(images).shape == (6, 3, size, size) == model.generator(torch.randn(6, 6).double()).shape
        assert model.sample(3).shape == (3, 3, 16, 16)
    model.grow(1, 0.0)  # what is faded out of the made images is faded out of the real ones
    torch.testing.assert_close(model.real(images), enlarge(shrink(shrink(2 * images.double() / 255 - 1))))
    assert model.eval().decode(torch.randn(2, 6).double(), resolution=8, alpha=0.3).shape == (2, 3, 8, 8) and model.generator.stage == 1


def test_growing_trains_through_its_stages(digits):
    model, config = recipes.recipe("progan", "smoke", digits)
    assert model.config.stage_steps == 2 * (640 // 32) // 3
    training.fit(model, digits, config, progress=False)
    assert (model.generator.stage, model.generator.alpha) == (1, 1.0)


def test_equal_layers_start_with_unit_variance_and_learn_at_one_speed():
    torch.manual_seed(0)
    x = torch.randn(64, 50, 6, 6)
    assert EqualConv(50, 80, gain=1.0)(x)[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, abs=0.05)
    assert EqualLinear(50, 80, gain=1.0)(x[:, :, 0, 0]).std().item() == pytest.approx(1, abs=0.05)
    assert EqualConv(50, 80).weight.std().item() == pytest.approx(1, abs=0.02)
    normed = PixelNorm()(3 * x)
    torch.testing.assert_close(normed.square().mean(1), torch.ones(64, 6, 6))


def test_minibatch_deviation_tells_a_batch_of_copies():
    x = torch.randn(9, 4, 3, 3)
    found = minibatch_deviation(x)
    assert found.shape == (9, 5, 3, 3) and torch.equal(found[:, :4], x)
    torch.testing.assert_close(found[:, 4], x.std(0, unbiased=False).mean().expand(9, 3, 3))
    assert minibatch_deviation(x[:1].expand(9, -1, -1, -1))[:, 4].max() < 1e-3


# ---- measuring collapse


def test_coverage():
    read = F.one_hot(torch.arange(100) % 4, 8).float()
    assert measures.coverage(read) == {"classes_covered": 4, "class_entropy": pytest.approx(math.log(4) / math.log(8))}
    assert measures.coverage(read[:1].expand(100, -1)) == {"classes_covered": 1, "class_entropy": 0.0}


def test_diversity_within_a_class(digits):
    """Real images of each class have that of real images; one image a class has none, although the classes differ."""
    labels, features = digits.test_labels, digits.test_images.flatten(1).float()
    assert measures.diversity_within(features, labels, features, labels) == pytest.approx(1)
    first = torch.stack([features[labels == label][0] for label in range(10)])[labels]
    assert measures.diversity_within(first, labels, features, labels) < 1e-3 < 0.1 < measures.diversity(first)


def test_the_watch_sees_the_same_noise_each_time(digits):
    model, config = recipes.recipe("cgan", "smoke", digits)
    judge, how = recipes.recipe("classifier", "smoke", digits, epochs=2)
    training.fit(judge, digits, how, progress=False)
    watch = measures.CollapseWatch(measures.Judge(judge.eval(), "one of 8x8 digits"), digits.test_images, 100)
    model = GAN(replace(model.config, generator_norm=False))  # batch norm's running means would move on
    training.fit(model, digits, replace(config, learning_rate=0.0), on_report=watch, progress=False)
    assert list(watch.frames) == [0, 1, 2] == [row["epoch"] for row in watch.rows]
    torch.testing.assert_close(watch.frames[0], watch.frames[2])
    assert set(watch.rows[0]) == {"epoch", "classes_covered", "class_entropy", "diversity", "legibility", "recall"}
    alone = measures.CollapseWatch(None, digits.test_images, 100)
    training.fit(model, digits, replace(config, epochs=1), on_report=alone, progress=False)
    assert list(alone.frames) == [0, 1] and not alone.rows


# ---- bad input

BAD = {
    "objective 'wgan'": lambda: GAN(GANConfig(objective="wgan")),
    "network 'rnn'": lambda: GAN(GANConfig(network="rnn")),
    "mislabelled = 1.0": lambda: GAN(GANConfig(classes=10, mislabelled=1.0)),
    "of 0 classes": lambda: GAN(GANConfig(mislabelled=0.1)),
    "no told 'shout'": lambda: GAN(GANConfig(classes=10, told="shout")),
    r"sides divisible by 4": lambda: GAN(GANConfig(image_shape=(1, 30, 30))),
    "one label an image": lambda: GAN(GANConfig(classes=10, parts=2)),
    "not both 0": lambda: GAN(GANConfig(adversarial=0.0)),
    "decay 1.0": lambda: training.fit(tiny().float(), data.load("digits").head(10, 5), training.TrainConfig(compile=False, average=1.0)),
    "latent = 0": lambda: GAN(GANConfig(latent=0)),
    "from 0 to 2": lambda: tiny(classes=3).eval().sample(2, labels=torch.tensor([0, 3])),
    "No labels were given to a conditional GAN": lambda: tiny(classes=3).sample(2),
    "this GAN knows none": lambda: tiny().sample(2, labels=torch.tensor([0, 1])),
    "Labels from 0 to 7": lambda: training.fit(tiny(classes=3), data.load("digits").head(10, 5), training.TrainConfig(compile=False)),
    "temperature -1": lambda: tiny().sample(2, temperature=-1),
    r"Latents of shape \(2, 5\)": lambda: tiny().decode(torch.zeros(2, 5)),
    "no stage of resolution 12: take one of 4, 8, 16": lambda: growing().decode(torch.zeros(2, 6).double(), resolution=12),
    "α = 1.5": lambda: growing().decode(torch.zeros(2, 6).double(), resolution=8, alpha=1.5),
    "α = -0.1": lambda: growing().grow(1, -0.1),
    "batch of 1 image": lambda: minibatch_deviation(torch.zeros(1, 2, 4, 4)),
    "A progan has no setting 'spectral_norm'": lambda: recipes.settings_of("progan", ["spectral_norm=True"]),
    "stage_steps = 0": lambda: ProGAN(ProGANConfig(stage_steps=0)),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_sentence(message):
    with pytest.raises(UserError, match=message) as error:
        BAD[message]()
    assert len(str(error.value).splitlines()) == 1


def test_noise_and_label_come_in_together():
    generator = Generator(GANConfig(**SMALL, classes=3))
    assert generator.net[0].in_features == 12 and generator(torch.zeros(2, 6), torch.tensor([0, 2])).shape == (2, 1, 8, 8)
