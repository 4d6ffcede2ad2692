"""One HTML file with sliders that move without an installation: shipped models inside it, as ONNX, and a runtime for them.

`python -m helpers page` takes ONNX Runtime Web from npm, once, and puts it into the file with the weights, all packed: nothing is fetched when it is
opened. What the browser draws is what PyTorch draws, to a grey level (tests/browser_page.py).
"""

import gzip
import io
import json
import math
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from helpers import UserError, data, measures, weights
from helpers.measures import disentanglement
from helpers.models.autoencoders import gaussian_kl
from helpers.training import write_atomically

RUNTIME = "onnxruntime-web@1.23.0"  # newer ones draw the same and are 0.7 MB larger
FILES = {"runtime": "package/dist/ort.wasm.bundle.min.mjs", "wasm": "package/dist/ort-wasm-simd-threaded.wasm"}
# how the runtime looks for its binary, which it is given: a data: address has no such URL
SOUGHT = b'new URL("ort-wasm-simd-threaded.wasm",import.meta.url).href'
MODELS = {"vae": "betavae-mnist", "gan": "cgan-fashion", "flow": "matching-fashion", "map": "flow-map-fashion", "judge": "classifier-mnist"}
COARSE = ("encoder", "judge")  # networks that read and don't draw: their weights in 256 levels, or they would find no room
SHOWN, DRAWS = {"gan": 8, "flow": 10}, 5  # images at once, and how many draws of noise for them
STROKE = Path(__file__).parent / "show" / "stroke.js"  # of a pen, here and in a notebook
LARGEST = 9 * 2**20  # bytes of the page


class Network(nn.Module):
    """A function of a model as a module of its own, as the export wants one."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs):
        return self.function(self.model, *inputs)


def networks() -> dict:
    """name -> (module, inputs by name): what the page asks of each model. Inputs (N, ...), labels (N,) whole numbers."""
    vae, gan, flow, few, judge = (weights.load_model(name)[0].float() for name in MODELS.values())
    label = torch.zeros(2, dtype=torch.long)
    images, times = torch.zeros(2, *flow.config.image_shape), torch.zeros(2)
    return {
        "vae": (Network(vae, lambda model, z: model.decode(z)), {"z": torch.zeros(2, vae.latent_dim)}),
        "gan": (Network(gan, lambda model, z, label: model.decode(z, label)), {"z": torch.zeros(2, gan.latent_dim), "label": label}),
        "flow": (
            Network(flow, lambda model, x, t, label: model.velocity(x, t, label)),
            {"x": images, "t": times, "label": label},
        ),
        "map": (
            Network(few, lambda model, x, t, s, label: model.mean_velocity(x, t, s, label)),
            {"x": images, "t": times, "s": times, "label": label},
        ),
        "encoder": (Network(vae, read), {"x": images}),
        "judge": (Network(judge, lambda model, x: model(x).softmax(1)), {"x": images}),
    }


def read(vae, x):
    """What a VAE's encoder says of images: the mean code (N, D), and after it the KL divergence from the prior in bits (N, 1)."""
    mean, log_std, _ = vae.posterior(x)
    return torch.cat([mean, gaussian_kl(mean, log_std).sum(1, keepdim=True) / math.log(2)], dim=1)


def onnx_of(module, inputs: dict, coarse: bool = False) -> bytes:
    """The module as ONNX for any number of images; weights that half precision holds exactly, as shipped ones are, take half the place.

    coarse: a quarter, each rounded to one of 255 levels of the largest of its tensor.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    buffer, axes = io.BytesIO(), {name: {0: "n"} for name in [*inputs, "out"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that checks of labels are not traced, and of the exporter's own future
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            buffer,
            dynamo=False,
            opset_version=17,
            input_names=[*inputs],
            output_names=["out"],
            dynamic_axes=axes,
        )
    model = onnx.load_from_string(buffer.getvalue())
    for tensor in list(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if coarse and tensor.data_type == TensorProto.FLOAT and values.size > 500:
            name, scale = tensor.name, abs(values).max() / 127
            tensor.CopyFrom(numpy_helper.from_array((values / scale).round().astype("int8"), name + ".coarse"))
            model.graph.initializer.append(numpy_helper.from_array(np.float32(scale), name + ".scale"))
            model.graph.node.insert(0, helper.make_node("Mul", [name + ".whole", name + ".scale"], [name]))
            model.graph.node.insert(0, helper.make_node("Cast", [name + ".coarse"], [name + ".whole"], to=TensorProto.FLOAT))
        elif tensor.data_type == TensorProto.FLOAT and (values.astype("float16") == values).all():
            name, half = tensor.name, values.astype("float16")
            tensor.CopyFrom(numpy_helper.from_array(half, name + ".half"))
            model.graph.node.insert(0, helper.make_node("Cast", [name + ".half"], [name], to=TensorProto.FLOAT))
    return model.SerializeToString()


def runtime() -> dict[str, bytes]:
    """The files of ONNX Runtime Web, by npm. UserError where there is no npm, or it can't fetch them."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            subprocess.run(["npm", "pack", RUNTIME, "--silent"], cwd=folder, check=True, capture_output=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            raise UserError(f"npm could not fetch {RUNTIME} ({type(error).__name__}): the page needs npm and a network once, to be built.") from None
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as files:
            found = {name: files.extractfile(path).read() for name, path in FILES.items()}
    assert SOUGHT in found["runtime"], f"{RUNTIME} asks for its binary in another way: look how"
    return found | {"runtime": found["runtime"].replace(SOUGHT, b'""')}


def noises() -> dict[str, torch.Tensor]:
    """The noise that the page has, name -> (draws, images, latents), of numbers that half precision holds."""
    sizes, generator = {name: weights.load_model(MODELS[name])[0].latent_dim for name in SHOWN}, torch.Generator().manual_seed(0)
    return {name: torch.randn(DRAWS, SHOWN[name], size, generator=generator).half().float() for name, size in sizes.items()}


def order_of(vae, n: int = 64, most: int = 6) -> list[int]:
    """The latents that change the image most, in that order."""
    generator = torch.Generator().manual_seed(0)
    z, changes = torch.randn(n, vae.latent_dim, generator=generator), []
    for k in range(vae.latent_dim):
        ends = [z.clone(), z.clone()]
        ends[0][:, k], ends[1][:, k] = -2, 2
        changes.append((vae.decode(ends[1]) - vae.decode(ends[0])).abs().mean().item())
    return sorted(range(vae.latent_dim), key=lambda k: -changes[k])[:most]


def named(vae, least: float = 0.4) -> dict[int, str]:
    """What latents do, where that is measured: latent -> the attribute of a digit's stroke of whose variance it explains most, and its share."""
    images = data.load("mnist").test_images[:2_000]
    codes, found = measures.encoded(vae, images), {}
    for name, values in disentanglement.attributes(images).items():
        for k, share in enumerate(disentanglement.explained(codes, values).tolist()):
            if share > max(least, found.get(k, ("", 0.0))[1]):
                found[k] = name, share
    return {k: f"{name} ({share:.0%})" for k, (name, share) in found.items()}


def packed(name: str, content: bytes) -> str:
    """Bytes, compressed, as text inside a page in UTF-8, seven bits a letter: a seventh more than the bytes, where base64 has a third.

    Letters that HTML would change, 0 and carriage return, or that could end the script, stand at 128 and above.
    """
    content = gzip.compress(content, 9, mtime=0)
    bits = np.unpackbits(np.frombuffer(content, dtype=np.uint8))
    groups = np.packbits(np.pad(bits, (0, -len(bits) % 7)).reshape(-1, 7), axis=1)[:, 0] >> 1
    text = groups.tobytes().decode("ascii").translate({0: 128, 13: 129, 60: 130})
    return f'<script type="text/plain" id="packed-{name}" data-bytes="{len(content)}">{text}</script>'


def build(path) -> int:
    """Write the page to `path`; how many bytes it has. UserError where what it is built with is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("The page is built with onnx: `pip install -e '.[page]'`.") from None
    models, files = networks(), runtime()
    vae = models["vae"][0].model
    files |= {name: onnx_of(module, inputs, name in COARSE) for name, (module, inputs) in models.items()}
    files |= {f"noise-{name}": z.half().numpy().tobytes() for name, z in noises().items()}
    bundle = {
        "models": list(models),
        "latents": {name: models[name][0].model.latent_dim for name in ("vae", "gan", "flow", "map")},
        "side": vae.config.image_shape[1],
        "order": order_of(vae),
        "names": named(vae),
        "classes": data.FASHION,
        "shown": SHOWN,
        "draws": DRAWS,
        "said": "Ready. Move anything, by mouse, finger or arrow keys.",
    }
    text = Path(__file__).with_suffix(".html").read_text("utf-8")
    text = (
        text.replace("{{ bundle }}", json.dumps(bundle))
        .replace("{{ stroke }}", STROKE.read_text("utf-8"))
        .replace("{{ packed }}", "\n".join(packed(*item) for item in files.items()))
    )
    content = text.encode()
    if len(content) > LARGEST:
        raise UserError(f"The page has {len(content) / 2**20:.1f} MB: more than {LARGEST // 2**20}.")
    write_atomically(Path(path), lambda file: file.write(content))
    return len(content)
