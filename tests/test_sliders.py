"""Moving a slider, as a hand would: by setting its value."""

import base64
import io
import math

import pytest
import torch
from conftest import stir, tiny_flow
from PIL import Image

from helpers import UserError, data, training
from helpers.models.autoencoders import VAE, Autoencoder, AutoencoderConfig, VAEConfig
from helpers.models.autoregressive import PixelConfig, Pixels
from helpers.models.codebook import VQVAE, VQVAEConfig
from helpers.models.flow_map import FlowMap, FlowMapConfig
from helpers.models.fvae import FVAE, FVAEConfig
from helpers.models.gans import GAN, GANConfig
from helpers.models.growing import ProGAN, ProGANConfig
from helpers.models.masked import MaskedConfig, MaskedWords
from helpers.models.matching import FlowMatching, MatchingConfig
from helpers.show import explorer, sliders
from helpers.show.paper import Paper

HALVES = {"early": slice(32), "late": slice(32, None)}
CURVE = {"β = 1": (20.0, 80.0), "β = 4": (8.0, 110.0)}


def told():
    return stir(GAN(GANConfig((1, 8, 8), classes=10, latent=4, width=4))).eval()


def grown():
    return stir(ProGAN(ProGANConfig((3, 16, 16), latent=4, width=4))).eval()


def moving():
    """Flow matching that is not at rest, of ten classes."""
    return stir(FlowMatching(MatchingConfig((1, 8, 8), width=(8, 8), blocks=1, classes=10)), 0.2).eval()


def hopping():
    return stir(FlowMap(FlowMapConfig((1, 8, 8), width=(8, 8), blocks=1, classes=10)), 0.2).eval()


def writing():
    torch.manual_seed(0)
    return stir(Pixels(PixelConfig((1, 8, 8), width=16, layers=1, heads=2, near=16, blocks=1))).eval()


def masking():
    torch.manual_seed(0)
    config = MaskedConfig((1, 8, 8), width=8, codes=8, code_width=4, reader_width=16, reader_layers=1, reader_heads=2, steps=4)
    return stir(MaskedWords(config)).eval()


def wordy():
    """A codebook whose prior was told ten classes."""
    small = {"codes": 8, "code_width": 4, "prior_width": 8, "prior_layers": 1, "prior_heads": 2}
    return stir(VQVAE(VQVAEConfig((1, 8, 8), width=4, classes=10, **small)), 0.5).eval()


def explorers():
    model = tiny_flow().eval()
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    directions = torch.randn(3, 64, dtype=torch.float64)
    both = {"AE": Autoencoder(AutoencoderConfig((1, 8, 8), 2, width=4)).eval(), "VAE": VAE(VAEConfig((1, 8, 8), 2, width=4)).eval()}
    bent = stir(FVAE(FVAEConfig((1, 8, 8), 2, width=4, where="both"))).eval()
    many = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    return {
        "between, position": (sliders.between(both, images), "position", 0.2),
        "between, second": (sliders.between(both, images), "second", 0),
        "plane": (sliders.plane(both["AE"], many, torch.arange(20) % 10, data.DIGITS), "vertical", -9.0),
        "walk of a VAE": (sliders.walk(both["VAE"], images[0], torch.eye(2)), "step", 1.5),
        "dimensions, a latent": (sliders.dimensions(both["VAE"], many, [1, 0], {1: "slant 84 %"}), "z1", -2.0),
        "dimensions, image": (sliders.dimensions(both["VAE"], many, [0]), "image", 3),
        "rate and distortion": (sliders.rate_distortion({"β = 1": both["VAE"], "β = 4": bent}, many, CURVE), "beta", 0),
        "f-VAE": (sliders.temperature(bent, n=4), "temperature", 0.1),
        "GAN, class": (sliders.classes_and_noise(told(), data.FASHION, n=4), "label", 8),
        "GAN, noise": (sliders.classes_and_noise(told(), data.FASHION, n=4), "noise", 5),
        "GAN, truncation": (sliders.classes_and_noise(told(), data.FASHION, n=4), "truncation", 0.2),
        "guidance": (sliders.guided(moving(), data.DIGITS, n=4), "guidance", 4.0),
        "guidance, class": (sliders.guided(moving(), data.DIGITS, n=4), "label", 10),
        "guidance, steps": (sliders.guided(moving(), data.DIGITS, n=4), "steps", 1),
        "stirred, strength": (sliders.stirred(moving(), n=4), "strength", 3.0),
        "stirred, steps": (sliders.stirred(moving(), n=4), "steps", 50),
        "few steps, class": (sliders.few_steps(hopping(), data.DIGITS, n=4), "label", 8),
        "few steps, way": (sliders.few_steps(hopping(), data.DIGITS, n=4), "way", 1),
        "few steps, noise": (sliders.few_steps(hopping(), data.DIGITS, n=4), "noise", 5),
        "filled, share": (sliders.filled(moving(), many, n=3), "share", 0.8),
        "filled, side": (sliders.filled(moving(), many, n=3), "side", 2),
        "filled, repeats": (sliders.filled(moving(), many, n=3), "repeats", 4),
        "between classes": (sliders.morph(told(), data.DIGITS, n=3), "towards", 0.9),
        "within a class": (sliders.morph(told(), data.DIGITS, n=3), "noise", 0.6),
        "stage": (sliders.growth(grown(), n=3), "stage", 1),
        "ProGAN, truncation": (sliders.temperature(grown(), n=3, highest=2.0), "temperature", 0.3),
        "temperature": (sliders.temperature(model, n=4), "temperature", 1.1),
        "told": (sliders.temperature(model, n=4, told=lambda z, images: f"norm {z.norm():.1f}"), "temperature", 1.1),
        "flipbook": (sliders.flipbook({f"page {i}": sliders.plots.grid(images[i : i + 1]) for i in range(2)}), "step", 1),
        "redrawn, early": (sliders.redrawn(model, HALVES, n=4), "early", 3),
        "redrawn, late": (sliders.redrawn(model, HALVES, n=4), "late", 3),
        "pen, sheet": (sliders.pen(tiny_flow(classes=10).eval(), images, data.DIGITS), "sheet", 1),
        "pen, paper": (sliders.pen(tiny_flow(classes=10).eval(), images, data.DIGITS), "paper", [*range(64)]),
        "drawn, sheet": (sliders.drawn(both, images), "sheet", 1),
        "drawn, paper": (sliders.drawn(both, images), "paper", [*range(64)]),
        "words, word": (sliders.words(wordy(), many), "word", 6),
        "words, place": (sliders.words(wordy(), many), "column", 0),
        "completed, rows": (sliders.completed(wordy(), many, data.DIGITS, n=3), "kept", 2),
        "completed, draw": (sliders.completed(wordy(), many, data.DIGITS, n=3), "draw", 7),
        "pixel by pixel": (sliders.pixel_by_pixel(writing(), n=3), "pixels", 8),
        "pixel by pixel, temperature": (sliders.pixel_by_pixel(writing(), n=3), "temperature", 0.2),
        "expected, row": (sliders.expected(writing(), many), "row", 2),
        "expected, column": (sliders.expected(writing(), many), "column", 7),
        "continued, rows": (sliders.continued(writing(), many, n=3), "kept", 2),
        "continued, draw": (sliders.continued(writing(), many, n=3), "draw", 7),
        "passes, on the way": (sliders.passes(masking(), n=3), "share", 2),
        "passes, how many": (sliders.passes(masking(), n=3), "steps", 2),
        "holes, side": (sliders.holes(masking(), many, n=3), "side", 2),
        "holes, share": (sliders.holes(masking(), many, n=3), "share", 1.0),
        "class": (sliders.chosen(tiny_flow(classes=10).eval(), data.DIGITS, n=4), "class", 8),
        "pair": (sliders.chosen(tiny_flow((1, 8, 16), classes=10, parts=2).eval(), data.DIGITS, n=4), "right", 2),
        "walk, step": (sliders.walk(model, images[0], directions), "step", 1.5),
        "walk, direction": (sliders.walk(model, images[0], directions), "direction", 2),
    }


@pytest.mark.parametrize("name", explorers())
def test_moving_changes_the_picture_and_moving_back_restores_it(name):
    explorer, control, value = explorers()[name]
    slider = explorer.controls[control]
    first, start, caption = explorer.picture.value, slider.value, explorer.caption.value
    if control == "direction":  # at step 0 all directions show the same images
        explorer.controls["step"].value = 1.0
        first, caption = explorer.picture.value, explorer.caption.value
    slider.value = value
    assert explorer.picture.value != first and explorer.caption.value != caption
    assert Image.open(io.BytesIO(explorer.picture.value)).size == Image.open(io.BytesIO(first)).size
    slider.value = start
    assert explorer.picture.value == first


def test_reset_and_roll():
    """Each draws once, however many controls it moves; a roll always shows another draw."""
    found = sliders.classes_and_noise(told(), data.FASHION, n=2)
    first, drawn = found.picture.value, []
    reset, roll = (button for row in found.box.children if hasattr(row, "children") for button in row.children)
    found.draw, before = (lambda model, draw=found.draw, **values: drawn.append(values) or draw(model, **values)), -1
    for _ in range(5):
        roll.click()
        assert drawn[-1]["noise"] not in (before, 0 if before < 0 else None)
        before = drawn[-1]["noise"]
    found.controls["label"].value, found.controls["truncation"].value = 8, 0.5
    assert found.picture.value != first and len(drawn) == 7
    reset.click()
    assert found.picture.value == first and len(drawn) == 8 and drawn[-1] == {"label": 3, "noise": 0, "truncation": 1.0}


def test_an_explorer_keeps_its_own_model():
    """A later cell that rebinds a name must not change what a slider draws."""
    model = tiny_flow()
    explorer = sliders.temperature(model, n=2)
    before = explorer.picture.value
    model = tiny_flow(couplings=(1, 1))
    explorer.refresh()
    assert explorer.model is not model and explorer.picture.value == before


def test_moving_a_slider_leaves_the_random_numbers_alone():
    explorer = sliders.temperature(tiny_flow(), n=2)
    before = torch.get_rng_state()
    explorer.controls["temperature"].value = 0.3
    assert torch.equal(before, torch.get_rng_state())


def test_the_view_has_its_states_beside_it(monkeypatch):
    shown = []
    monkeypatch.setattr(explorer, "display", lambda bundle, raw, metadata: shown.append((bundle, metadata)))
    temperature = sliders.temperature(tiny_flow(), n=2)
    temperature.show(count=5)
    (bundle, metadata), pages = shown[0], temperature.states("temperature", 5)
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert [caption.split(" (")[0][-4:] for caption, _ in pages] == ["0.00", "0.30", "0.60", "0.90", "1.20"]
    sheet = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).convert("RGB")
    last = pages[-1][1].convert("RGB")  # each under its caption, three to a row: the fifth is the second of the last row
    left = last.width + 12
    assert sheet.crop((left, sheet.height - last.height, left + last.width, sheet.height)).tobytes() == last.tobytes()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == temperature.box.model_id
    assert "5 states of the slider temperature" in metadata["image/png"]["alt"]
    assert temperature.controls["temperature"].value == 0.8


def test_states_go_over_what_there_is():
    two = sliders.flipbook({f"page {i}": sliders.plots.grid(torch.rand(1, 1, 8, 8)) for i in range(2)})
    assert [caption for caption, _ in two.states("step", 9)] == ["page 0", "page 1"]
    named = sliders.chosen(tiny_flow(classes=10).eval(), data.FASHION, n=2)
    assert [caption.split(" of ")[1].split(" at")[0] for caption, _ in named.states("class", 3)] == [data.FASHION[i] for i in (0, 4, 9)]


def test_slerp_keeps_to_the_arc():
    a, b = torch.randn(2, 5, 30, dtype=torch.float64)
    a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sliders.slerp(a, b, 0.0), a)
    torch.testing.assert_close(sliders.slerp(a, b, 1.0), b)
    torch.testing.assert_close(sliders.slerp(a, b, 0.3).norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_names_of_classes_must_be_those_of_the_model():
    with pytest.raises(UserError, match="10 names.*has none"):
        sliders.chosen(tiny_flow(), data.DIGITS)


def test_a_pair_is_drawn_from_its_label():
    explorer = sliders.chosen(tiny_flow((1, 8, 16), classes=10, parts=2).eval(), data.DIGITS, n=2)
    explorer.controls["left"].value, explorer.controls["right"].value = 4, 2
    model, noise = explorer.model, sliders.noise_of(explorer.model, 2, 0)
    expected = sliders.plots.grid(model.decode(0.8 * noise, torch.tensor([42, 42])), columns=2, scale=10)
    assert expected.tobytes() == explorer.image.tobytes() and "4 and 2" in explorer.caption.value


def test_a_plane_marks_the_point_whose_image_it_shows():
    model = stir(Autoencoder(AutoencoderConfig((1, 8, 8), 2, width=4))).eval()
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    explorer = sliders.plane(model, images, torch.arange(20) % 10, data.DIGITS)
    here = model.encode(images)[3].tolist()
    for control, value in zip(("horizontal", "vertical"), here, strict=True):
        explorer.controls[control].value = value
    _, place = sliders.plots.scatter_map(model.encode(images).detach(), torch.arange(20) % 10, data.DIGITS)
    assert explorer.image.getpixel(tuple(round(v) for v in place(*here))) == (0, 0, 0)
    expected = sliders.plots.grid(model.decode(torch.tensor([here])), scale=360 // 8 - 1).convert("RGB")
    assert explorer.image.crop((468, 0, 468 + expected.width, expected.height)).tobytes() == expected.tobytes()
    with pytest.raises(UserError, match="3 latents"):
        sliders.plane(Autoencoder(AutoencoderConfig((1, 8, 8), 3, width=4)), images, torch.arange(20), data.DIGITS)


def test_every_latent_has_its_slider():
    model = stir(VAE(VAEConfig((1, 8, 8), 3, width=4))).eval()
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8) // 255 * 255  # black or white: nothing is left to chance
    explorer = sliders.dimensions(model, images, [2, 0], {0: "slant 84 %"})
    assert [control.description for control in explorer.controls.values()] == ["image", "z2", "z0 slant 84 %"]
    explorer.controls["image"].value, explorer.controls["z0"].value, explorer.controls["z2"].value = 1, -1.5, 0.5
    code = model.encode(images)[1:2]
    strip = torch.cat([images[1:2] / 255, model.decode(torch.cat([code, code + torch.tensor([[-1.5, 0, 0.5]])]))])
    assert explorer.image.tobytes() == sliders.plots.grid(strip, columns=3, scale=20).tobytes()
    assert "z2 +0.5, z0 -1.5" in explorer.caption.value
    for order, names in (([0, 3], {}), ([0], {7: "width"})):
        with pytest.raises(UserError, match="no latent [37].*0 to 2"):
            sliders.dimensions(model, images, order, names)


def test_the_cross_is_on_the_curve():
    models = {label: stir(VAE(VAEConfig((1, 8, 8), 2, width=4)), i).eval() for i, label in enumerate(CURVE)}
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    explorer = sliders.rate_distortion(models, images, CURVE, n=3)
    _, place = sliders.plots.curve_map(CURVE, "", "")
    for i, label in enumerate(CURVE):
        explorer.controls["beta"].value = i
        assert explorer.image.getpixel(tuple(round(v) for v in place(*CURVE[label]))) == (0, 0, 0)
        assert explorer.caption.value.startswith(label)
    with pytest.raises(UserError, match="β = 4 but points β = 1"):
        sliders.rate_distortion({"β = 4": models["β = 4"]}, images, {"β = 1": (1.0, 2.0)})


def test_fading_in_by_hand():
    """At α = 0 a stage shows what the one before shows, and the model itself stays fully grown."""
    explorer = sliders.growth(grown(), n=3)
    stage, alpha = explorer.controls.values()
    stage.value, alpha.value = 1, 1.0
    before = explorer.picture.value
    stage.value, alpha.value = 2, 0.0
    assert explorer.picture.value == before and "the stage before" in explorer.caption.value
    alpha.value = 0.5
    assert explorer.picture.value != before and "between two stages" in explorer.caption.value
    assert (explorer.model.generator.stage, explorer.model.generator.alpha) == (2, 1.0)


def test_morphing_ends_at_the_classes():
    explorer = sliders.morph(told(), data.DIGITS, n=3)
    explorer.controls["first"].value, explorer.controls["second"].value, explorer.controls["towards"].value = 2, 7, 1.0
    expected = explorer.model.decode(sliders.noise_of(explorer.model, 3, 0), torch.full((3,), 7))
    assert explorer.image.tobytes() == sliders.plots.grid(expected, columns=3, scale=10).tobytes()
    for explore in (sliders.morph, sliders.classes_and_noise):
        with pytest.raises(UserError, match="3 names of classes were given: this model has 10"):
            explore(told(), ("a", "b", "c"))


def test_a_sheet_that_is_taken_again_is_a_new_one():
    sheets = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    explorer = sliders.pen(tiny_flow(classes=10).eval(), sheets, data.DIGITS)
    sheet, paper = explorer.controls["sheet"], explorer.controls["paper"]
    first = explorer.caption.value
    paper.value = [*range(64)]
    drawn = explorer.caption.value
    sheet.value = 1
    assert paper.value == [] and paper.sheet == sheets[1].flatten().tolist()
    second = explorer.caption.value
    sheet.value = 0
    assert explorer.caption.value == first and len({first, drawn, second}) == 3
    colour = Paper(torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8))  # drawn on in grey
    assert colour.image([], 1).equal(colour.sheets[1:]) and colour.image([7] * 64, 1).equal(torch.full((1, 3, 8, 8), 7, dtype=torch.uint8))
    assert len(colour.sheet) == 64
    assert paper.image([], 1).equal(sheets[1:]) and paper.image([*range(64)], 1).flatten().tolist() == [*range(64)]


def test_the_pen_says_what_the_flow_says():
    model, sheets = tiny_flow(classes=10).eval(), torch.randint(0, 256, (1, 1, 8, 8), dtype=torch.uint8)
    explorer = sliders.pen(model, sheets, data.DIGITS)
    with training.aside():
        log_p = model.class_log_probs(sheets)[0]
    bits = -(log_p.exp().mean().log() / (64 * math.log(2))).item()
    assert f"{bits:.3f} bits/dim, read as {log_p.argmax()}" in explorer.caption.value
    with pytest.raises(UserError, match="3 names of classes were given: this model has 10"):
        sliders.pen(model, sheets, ("a", "b", "c"))


def test_parts_of_the_latents_are_drawn_apart():
    model = tiny_flow().eval()
    explorer = sliders.redrawn(model, HALVES, n=3)
    explorer.controls["late"].value = 5
    a, b = (sliders.noise_of(model, 3, seed) for seed in (0, 5))
    expected = model.decode(0.8 * torch.cat([a[:, :32], b[:, 32:]], dim=1))
    assert explorer.image.tobytes() == sliders.plots.grid(expected, columns=3, scale=10).tobytes()
    for parts, sizes in (
        ({"none": slice(0), "all": slice(64)}, "0, 64"),
        ({"early": slice(32)}, "32"),
        ({"one": slice(64), "two": slice(64)}, "64, 64"),
    ):
        with pytest.raises(UserError, match=f"Parts of .{sizes}. latents.*has 64"):
            sliders.redrawn(model, parts)


def test_directions_of_the_wrong_size():
    with pytest.raises(UserError, match=r"\(3, 63\).*\(K, 64\)"):
        sliders.walk(tiny_flow(), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 63))
