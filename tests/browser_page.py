"""The page in a real browser: it is what `make page` makes, it needs no network, and it draws what PyTorch draws."""

import gzip
import re

import browser
import numpy as np
import pytest
import torch

from helpers import UserError, data, weights
from helpers import page as page_of
from helpers.models.layers import levels

page = browser.page  # a fixture

MOVES = {  # what is set, and what PyTorch makes of it
    "vae": {"0": 1.5, "1": -2.0},
    "gan": {"label": 8, "noise": 2, "truncation": 0.6},
    "flow": {"label": 2, "guidance": 2.0, "steps": 4, "noise": 3},
}
TIME = 0.5


def expected(name):
    """The images of MOVES by PyTorch, as grey levels (N, H, W)."""
    moves, noise = MOVES[name], page_of.noises()
    model = weights.load_model(page_of.MODELS["flow" if name == "map" else name])[0]
    if name == "vae":
        z = torch.zeros(1, model.latent_dim)
        for place, value in moves.items():
            z[0, page_of.order_of(model)[int(place)]] = value
        return levels(model.decode(z))[:, 0]
    z, label = noise[name][moves["noise"]], torch.full((page_of.SHOWN[name],), moves["label"])
    if name == "gan":
        return levels(model.decode(moves["truncation"] * z, label))[:, 0]
    return levels(model.trajectory(z, label, moves["steps"], moves["guidance"])[round(TIME * moves["steps"])])[:, 0]


def expected_hops():
    """The rows of the flow map: in one, two and four steps."""
    model, moves = weights.load_model(page_of.MODELS["map"])[0], MOVES["flow"]
    z, label = page_of.noises()["flow"][moves["noise"]], torch.full((page_of.SHOWN["flow"],), moves["label"])
    return levels(torch.cat([model.decode(z, label, steps=steps) for steps in (1, 2, 4)]))[:, 0]


DRAWN = """
async ([name, values, time]) => {
  const own = window.playground[{vae: 'digit', gan: 'clothes', flow: 'flow'}[name]], done = async () => {
    while (!own.draw.idle()) await new Promise(next => setTimeout(next, 20));
  };
  if (name === 'flow') { own.play(false); own.time = time; }
  await done();  // what was wished before
  own.set(values);
  await done();
}
"""
PIXELS = """
name => {
  const picture = document.querySelector(`#${name} .picture`), data = picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data;
  return {width: picture.width, height: picture.height, grey: Array.from(data).filter((_, i) => i % 4 === 0)};
}
"""
DRAGGED = """
async ([id, drawn]) => {  // a slider moved at every frame for two seconds: pictures a second, and the longest that the page was blocked
  const long = [], watch = new PerformanceObserver(list => long.push(...list.getEntries().map(entry => entry.duration)));
  watch.observe({type: 'longtask'});
  const input = document.getElementById(id), begun = performance.now(), count = new Function('return ' + drawn);
  let pictures = 0, last = count();
  while (performance.now() - begun < 2000) {
    await new Promise(requestAnimationFrame);
    input.value = Number(input.min) + (Number(input.max) - Number(input.min)) * (0.5 + 0.5 * Math.sin((performance.now() - begun) / 200));
    input.dispatchEvent(new Event('input'));
    if (count() !== last) { pictures++; last = count(); }
  }
  input.dispatchEvent(new Event('change'));
  watch.disconnect();
  return [pictures / 2, Math.max(0, ...long)];
}
"""
DRAGS = {  # slider -> what changes with each picture, and how many a second there are at least
    "vae-z{first}": ("window.playground.digit.root.dataset.drawn", 20),
    "gan-truncation": ("window.playground.clothes.root.dataset.drawn", 10),
    "flow-guidance": ("window.playground.flow.rough", 4),
}


def images_of(found, side):
    """The images that a canvas shows, (N, H, W), with a pixel between them."""
    grey = torch.tensor(found["grey"]).view(found["height"], found["width"])
    grey = torch.nn.functional.pad(grey, (0, 1, 0, 1)).unfold(0, side + 1, side + 1).unfold(1, side + 1, side + 1)
    return grey.flatten(0, 1)[:, :side, :side]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    try:
        page_of.build(path)
    except UserError as error:
        pytest.skip(str(error))  # no npm, or no network for it
    return path


def contents(path):
    """A page without what is packed in it, and the files in there, whoever's zlib compressed them."""
    found = {}

    def taken(match):
        text = match[3].translate({128: 0, 129: 13, 130: 60}).encode("ascii")
        bits = np.unpackbits(np.frombuffer(text, dtype=np.uint8)[:, None], axis=1)[:, 1:].reshape(-1)
        found[match[1]] = gzip.decompress(np.packbits(bits).tobytes()[: int(match[2])])
        return ""

    page = re.sub(r'<script type="text/plain" id="packed-([\w-]+)" data-bytes="(\d+)">([^<]*)</script>', taken, path.read_bytes().decode())
    return {"page": page.encode()} | found


def test_the_committed_page_is_what_is_made(file):
    committed, made = contents(browser.ROOT / "docs" / "index.html"), contents(file)
    assert len(made) == 11 and [name for name in made if committed.get(name) != made[name]] == [], "run `make page`"


def test_what_reads_a_drawing_reads_as_well_in_255_levels():
    from onnx.reference import ReferenceEvaluator

    images, networks = data.load("mnist").test_images[:500] / 255, page_of.networks()
    for name in page_of.COARSE:
        module, inputs = networks[name]
        coarse = page_of.onnx_of(module, inputs, coarse=True)
        truth, found = module(images), torch.from_numpy(ReferenceEvaluator(coarse).run(None, {"x": images.numpy()})[0])
        assert len(coarse) < 350_000
        if name == "judge":
            assert (truth.argmax(1) == found.argmax(1)).float().mean() > 0.99
        else:
            assert (truth - found)[:, :-1].abs().mean() < 0.05 and (truth - found)[:, -1].abs().mean() < 1  # of codes with a spread of 1, and of bits


SEVEN = """
async () => {
  for (const [from, to] of [[[8, 7], [19, 7]], [[19, 7], [15, 14]], [[15, 14], [12, 22]]]) await playground.sheet.draw(from, to);
  while (!playground.sheet.read.idle()) await new Promise(done => setTimeout(done, 20));
  return [Array.from(playground.sheet.ink), Array.from(playground.digit.z), document.querySelector('#vae .said').textContent];
}
"""


def a_digit_is_drawn(page):
    """The page's encoder and judge say of a drawn 7 what PyTorch's do; by hand and by keys there is ink, and it can be cleared."""
    ink, code, said = page.evaluate(SEVEN)
    image, networks = torch.tensor(ink, dtype=torch.float32).view(1, 1, 28, 28) / 255, page_of.networks()
    truth = networks["encoder"][0](image)[0]
    assert (truth[:-1] - torch.tensor(code)).abs().max() < 0.3 and abs(truth[-1] - float(re.search(r"carries (\d+) bits", said)[1])) < 3
    assert f"takes it for a {networks['judge'][0](image).argmax()}" in said
    found = images_of(page.evaluate(PIXELS, "vae"), 28)[0]
    assert (found - levels(page_of.networks()["vae"][0](torch.tensor([code])))[0, 0].int()).abs().max() <= 1  # what is drawn is what the code says
    page.locator("#vae .clear").click()
    assert page.evaluate("Math.max(...playground.sheet.ink)") == 0
    box = page.locator("#vae .sheet").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 4)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    by_hand = page.evaluate("playground.sheet.ink.reduce((a, b) => a + b)")
    page.locator("#vae .sheet").focus()
    for key in (" ", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("playground.sheet.ink.reduce((a, b) => a + b)") > by_hand > 1_000
    page.wait_for_function("playground.sheet.read.idle()")


@pytest.mark.parametrize("width", [1440, 900, 390])
def test_the_page_draws_what_pytorch_draws(page, file, width):
    """Opened as a file, without a network; on the narrowest screen in the dark, and without motion."""
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.context.set_offline(True)
    if width == 390:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{file.as_uri()}#class=5&guidance=2&steps=3")
    page.wait_for_function("document.getElementById('state').textContent.startsWith('Ready')", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    values = "[playground.flow.values.label, playground.flow.values.guidance, playground.flow.values.steps, playground.flow.playing]"
    assert page.evaluate(values) == [5, 2, 3, width != 390]
    if width != 390:  # it plays by itself
        page.wait_for_function("time => playground.flow.time !== time", arg=page.evaluate("playground.flow.time"), timeout=10_000)
        for slider, (drawn, least) in DRAGS.items():
            first = page_of.order_of(weights.load_model(page_of.MODELS["vae"])[0])[0]
            pictures, blocked = page.evaluate(DRAGGED, [slider.format(first=first), drawn])
            print(f"{slider}: {pictures:.0f} pictures a second, blocked for at most {blocked:.0f} ms")
            assert pictures >= least and blocked <= 120, slider
    else:
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
        assert page.evaluate("Math.min(...[...document.querySelectorAll('input[type=range]')].map(one => one.getBoundingClientRect().height))") >= 40
    for name, moves in MOVES.items():
        order = page_of.order_of(weights.load_model(page_of.MODELS["vae"])[0])
        page.evaluate(DRAWN, [name, {order[int(key)] if name == "vae" else key: value for key, value in moves.items()}, TIME])
        for shown, known in ((name, expected(name)), *([("map", expected_hops())] if name == "flow" else [])):
            found = images_of(page.evaluate(PIXELS, shown), known.shape[1])[: len(known)]
            assert (found - known.int()).abs().max() <= 1, shown
    page.locator("#vae .sheet").scroll_into_view_if_needed()
    a_digit_is_drawn(page)
    first = page.locator("#vae output").first.text_content()
    page.locator("#vae .pad").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("first => document.querySelector('#vae output').textContent !== first", arg=first)
    said = page.locator("#flow .said").text_content()
    page.locator("#flow .classes button").nth(9).click()
    page.wait_for_function("said => document.querySelector('#flow .said').textContent !== said", arg=said)
    assert "class=8" in page.url and not errors
