"""One HTML file with sliders that move without an installation: shipped models inside it, as ONNX, and a runtime for them.

`python -m helpers page` takes ONNX Runtime Web from npm, once, and puts it into the file with the weights, all packed: nothing is fetched when it is
opened. What the browser draws is what PyTorch draws, to a grey level (tests/browser.py).
"""

import base64
import gzip
import io
import json
import subprocess
import tarfile
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from helpers import UserError, data, weights
from helpers.training import write_atomically

RUNTIME = "onnxruntime-web@1.30.0"
FILES = {"runtime": "package/dist/ort.wasm.bundle.min.mjs", "wasm": "package/dist/ort-wasm-simd-threaded.wasm"}
MODELS = {"vae": "betavae-mnist", "gan": "cgan-fashion", "flow": "matching-fashion"}
SHOWN, DRAWS = {"gan": 8, "flow": 4}, 8  # images at once, and how many draws of noise for them
LARGEST = 15 * 2**20  # bytes of the page


class Network(nn.Module):
    """A function of a model as a module of its own, as the export wants one."""

    def __init__(self, model, function):
        super().__init__()
        self.model, self.function = model, function

    def forward(self, *inputs):
        return self.function(self.model, *inputs)


def networks() -> dict:
    """name -> (module, inputs by name): what the page asks of each model. Inputs (N, ...), labels (N,) whole numbers."""
    vae, gan, flow = (weights.load_model(name)[0].float() for name in MODELS.values())
    label = torch.zeros(2, dtype=torch.long)
    return {
        "vae": (Network(vae, lambda model, z: model.decode(z)), {"z": torch.zeros(2, vae.latent_dim)}),
        "gan": (Network(gan, lambda model, z, label: model.decode(z, label)), {"z": torch.zeros(2, gan.latent_dim), "label": label}),
        "flow": (
            Network(flow, lambda model, x, t, label: model.velocity(x, t, label)),
            {"x": torch.zeros(2, *flow.config.image_shape), "t": torch.zeros(2), "label": label},
        ),
    }


def onnx_of(module, inputs: dict) -> bytes:
    """The module as ONNX for any number of images; weights that half precision holds exactly, as shipped ones are, take half the place."""
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
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and (values.astype("float16") == values).all():
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
            return {name: files.extractfile(path).read() for name, path in FILES.items()}


def noises() -> dict[str, torch.Tensor]:
    """The noise that the page has, name -> (draws, images, latents)."""
    sizes, generator = {name: weights.load_model(MODELS[name])[0].latent_dim for name in SHOWN}, torch.Generator().manual_seed(0)
    return {name: torch.randn(DRAWS, SHOWN[name], size, generator=generator) for name, size in sizes.items()}


def order_of(vae, n: int = 64, most: int = 6) -> list[int]:
    """The latents that change the image most, in that order."""
    generator = torch.Generator().manual_seed(0)
    z, changes = torch.randn(n, vae.latent_dim, generator=generator), []
    for k in range(vae.latent_dim):
        ends = [z.clone(), z.clone()]
        ends[0][:, k], ends[1][:, k] = -2, 2
        changes.append((vae.decode(ends[1]) - vae.decode(ends[0])).abs().mean().item())
    return sorted(range(vae.latent_dim), key=lambda k: -changes[k])[:most]


def build(path) -> int:
    """Write the page to `path`; how many bytes it has. UserError where what it is built with is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("The page is built with onnx: `pip install -e '.[page]'`.") from None
    models, packed = networks(), lambda content: base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()
    vae = models["vae"][0].model
    bundle = {name: packed(content) for name, content in runtime().items()}
    bundle |= {
        "models": {name: packed(onnx_of(module, inputs)) for name, (module, inputs) in models.items()},
        "noises": {name: base64.b64encode(z.numpy().tobytes()).decode() for name, z in noises().items()},
        "latents": {name: module.model.latent_dim for name, (module, _) in models.items()},
        "side": vae.config.image_shape[1],
        "order": order_of(vae),
        "classes": data.FASHION,
        "shown": SHOWN,
        "draws": DRAWS,
        "said": f"Ready: {', '.join(MODELS.values())}.",
    }
    text = Path(__file__).with_suffix(".html").read_text("utf-8").replace("{{ bundle }}", json.dumps(bundle))
    content = text.encode()
    if len(content) > LARGEST:
        raise UserError(f"The page has {len(content) / 2**20:.1f} MB: more than {LARGEST // 2**20}.")
    write_atomically(Path(path), lambda file: file.write(content))
    return len(content)
