"""Moving a slider, as a hand would: by setting its value."""

import io

import pytest
import torch
from conftest import stir, tiny_flow
from PIL import Image

from helpers import UserError, data, sliders
from helpers.autoencoders import VAE, Autoencoder, AutoencoderConfig, VAEConfig


def explorers():
    model = tiny_flow().eval()
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    directions = torch.randn(3, 64, dtype=torch.float64)
    both = {"AE": Autoencoder(AutoencoderConfig((1, 8, 8), 2, width=4)).eval(), "VAE": VAE(VAEConfig((1, 8, 8), 2, width=4)).eval()}
    many = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8)
    return {
        "between, position": (sliders.between(both, images), "position", 0.2),
        "between, second": (sliders.between(both, images), "second", 0),
        "plane": (sliders.plane(both["AE"], many, torch.arange(20) % 10, data.DIGITS), "vertical", -9.0),
        "walk of a VAE": (sliders.walk(both["VAE"], images[0], torch.eye(2)), "step", 1.5),
        "temperature": (sliders.temperature(model, n=4), "temperature", 1.1),
        "interpolation": (sliders.interpolation(model, *images), "position", 0.2),
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


def test_the_view_has_a_picture_beside_it(monkeypatch):
    shown = []
    monkeypatch.setattr(sliders, "display", lambda bundle, raw: shown.append(bundle))
    explorer = sliders.temperature(tiny_flow(), n=2)
    explorer.show()
    assert set(shown[0]) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert shown[0]["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.box.model_id


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
    model, noise = explorer.model, sliders._noise(explorer.model, 2, 0)
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


def test_directions_of_the_wrong_size():
    with pytest.raises(UserError, match=r"\(3, 63\).*\(K, 64\)"):
        sliders.walk(tiny_flow(), torch.zeros(1, 8, 8, dtype=torch.uint8), torch.zeros(3, 63))
