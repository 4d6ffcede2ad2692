"""Data sets as a handful of uint8 tensors.

A whole data set lies in memory, on the training device if asked: no worker processes, no transforms image by image,
no float copy. Batches are drawn by index and models do their own pre-processing.
"""

import gzip
import hashlib
import os
import socket
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import filelock
import numpy as np
import torch

from helpers import UserError, own_data, take

DIGITS = tuple("0123456789")
FASHION = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PAIRS = tuple(f"{i:02}" for i in range(100))
SHAPES = ("rectangle", "ellipse", "triangle")
CLASSES = {"mnist": DIGITS, "fashion": FASHION, "cifar10": CIFAR10, "digits": DIGITS, "pairs": PAIRS, "sprites": SHAPES}
NAMES = tuple(CLASSES)

# MD5 of the published IDX files, unpacked: torchvision itself checks only the archives it downloads.
IDX_MD5 = {
    "MNIST": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "FashionMNIST": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}

FOLDERS = {"mnist": "MNIST", "fashion": "FashionMNIST"}
BUNDLED = Path(__file__).resolve().parents[1] / "mnist"  # MNIST comes with the repository
PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")
DOWNLOAD_TIMEOUT = 30  # seconds without a byte; torchvision itself would wait for ever


@dataclass(frozen=True)
class Dataset:
    """Images as uint8 (N, C, H, W), labels as int64 (N,), in three parts that never mix.

    `validation` is cut from the published training set by a fixed seed, and every choice is made on it; `test` is
    the published test set, whole.
    """

    name: str
    classes: tuple[str, ...]
    train_images: torch.Tensor
    train_labels: torch.Tensor
    validation_images: torch.Tensor
    validation_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    parts: int = 1  # images side by side in one, as in `pairs`; a label is then a number of so many digits
    factors: tuple[str, ...] = ()  # what the images of `sprites` are made of
    validation_factors: torch.Tensor | None = None  # int64 (N, len(factors)): which value of each factor an image has
    test_factors: torch.Tensor | None = None
    strokes: bool = False  # bright strokes of a pen on black, whose slant, thickness and the like can be measured
    read_as: str = ""  # the data set whose classifier reads the parts of an image; "": its own

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return tuple(self.train_images.shape[1:])

    def part(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of "train", "validation" or "test"."""
        if split not in ("train", "validation", "test"):
            raise UserError(f"There is no split {split!r}: take train, validation or test.")
        return getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")

    @property
    def judge(self) -> str:
        """The name of the shipped classifier that reads its images, if there is one."""
        return f"classifier-{self.read_as or self.name}"

    def identity(self, labelled: bool = True) -> dict:
        """What tells a training's data from others: `fingerprint`, and for one that reads labels the names of the classes."""
        return {"sha256": self.fingerprint(labelled)} | ({"classes": list(self.classes)} if labelled else {})

    def fingerprint(self, labelled: bool = True) -> str:
        """sha256 of what a training sees, training and validation, with or without labels: two data sets of one name are told apart by it."""
        found = hashlib.sha256()
        for split in ("train", "validation"):
            for tensor in self.part(split)[: 1 + labelled]:
                found.update(f"{split} {tuple(tensor.shape)}".encode())
                found.update(tensor.contiguous().cpu().numpy())
        return found.hexdigest()

    def to(self, device) -> "Dataset":
        return replace(self, **{k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)})

    def head(self, train: int | None = None, validation: int | None = None, test: int | None = None) -> "Dataset":
        """The first so many images of each part; None keeps all of it."""
        sizes = {"train": train, "validation": validation, "test": test}
        return replace(
            self,
            validation_factors=None if self.validation_factors is None else self.validation_factors[:validation],
            test_factors=None if self.test_factors is None else self.test_factors[:test],
            **{f"{part}_{kind}": getattr(self, f"{part}_{kind}")[:n] for part, n in sizes.items() for kind in ("images", "labels")},
        )


def described(dataset: Dataset) -> str:
    """ "2 classes (cat 40, dog 40): 65 training, 7 validation, 8 test pictures"."""
    counts = sum(dataset.part(split)[1].bincount(minlength=len(dataset.classes)) for split in ("train", "validation", "test")).tolist()
    named = [f"{name} {count}" for name, count in zip(dataset.classes, counts, strict=True)]
    shown = ", ".join(named[:10]) + (f", ... {named[-1]}" if len(named) > 10 else "")
    sizes = ", ".join(f"{len(dataset.part(split)[0]):,} {split.replace('train', 'training')}" for split in ("train", "validation", "test"))
    return f"{len(named)} class{'es' * (len(named) > 1)} ({shown}): {sizes} pictures"


def label(name: str, classes: tuple[str, ...]) -> int:
    """The label of a class by its name: "7" or "Sandal", or "37" of `pairs`. UserError for a name that is none."""
    if name not in classes:
        raise UserError(f"There is no class {name!r}: {take(name, classes)}.")
    return classes.index(name)


def data_dir(root: str | os.PathLike | None = None) -> Path:
    """The folder that holds the data sets: `root`, else the environment variable DATA_DIR, else data/."""
    return Path(root or os.environ.get("DATA_DIR") or "data").expanduser()


def load(name: str, root=None, device="cpu", fallback: str | None = None, validation: int = 5_000, seed: int = 0, size: int | None = None) -> Dataset:
    """Load a data set: MNIST out of the repository, others from the network when they are not there yet.

    "pairs" are pairs of MNIST's digits, "sprites" are drawn here.

    name: one of NAMES, or the path of a folder of pictures, or of an .npz with arrays train_images and test_images, (N, H, W) or
    (N, H, W, C), and maybe train_labels and test_labels (N,): see helpers.own_data.
    fallback: a data set to take instead when the one asked for can't be had; a banner then says so.
    validation: how many training images to hold out (at most a tenth of them).
    size: what the pictures of a folder are made to measure; None: the environment variable SIZE, else 28.
    The name of one's own data set is its path: an .npz called mnist.npz is never taken for MNIST.
    Raises UserError where the name is unknown, or files are missing, damaged or not what they should be.
    """
    if name == "pairs":
        of = load("mnist", root, device, fallback, validation)
        return pairs(of, seed)
    if name == "sprites":
        return sprites(validation, seed).to(device)
    try:
        arrays, classes = _read(name, data_dir(root), size, seed)
    except DataUnavailable as error:
        if fallback is None:
            raise
        print(_banner(f"{name.upper()} IS NOT HERE. THIS RUN USES {fallback.upper()} INSTEAD.", str(error)))
        return load(fallback, root, device, validation=validation, seed=seed, size=size)
    arrays = [np.ascontiguousarray(array) for array in arrays]
    train_images, train_labels, test_images, test_labels = map(torch.from_numpy, arrays[:4])
    if name not in NAMES:  # sorted by class as often as not, and measures look at the first few thousand
        mixed = epoch_order(len(test_images), seed, 0)
        test_images, test_labels = test_images[mixed], test_labels[mixed]
    if len(arrays) > 4 and len(arrays[4]):  # held out by whoever made the folder
        held = map(torch.from_numpy, arrays[4:])
        return Dataset(name, classes, train_images, train_labels, *held, test_images, test_labels).to(device)
    order = torch.randperm(len(train_images), generator=torch.Generator().manual_seed(seed))
    held_out = min(validation, len(order) // 10)
    if name in NAMES:
        train_images = train_images[order]
    else:  # which may be as large as the memory
        own_data.arrange(arrays[0], order.tolist())
    train_labels = train_labels[order]
    return Dataset(
        name, classes,
        train_images[held_out:], train_labels[held_out:],
        train_images[:held_out], train_labels[:held_out],
        test_images, test_labels,
        strokes=name == "mnist",
    ).to(device)  # fmt: skip


def pairs(dataset: Dataset, seed: int = 0) -> Dataset:
    """Two images side by side, (N, C, H, 2W), with the two-digit label of both: a 3 left of a 7 is 37.

    Each part of `dataset`, which needs ten classes, is paired with itself in a random order that `seed` fixes, so that
    what was held out stays held out; there are as many pairs as there were images.
    """
    if len(dataset.classes) != 10:
        raise UserError(f"{dataset.name} has {len(dataset.classes)} classes: pairs are made of data sets with ten.")
    tensors = {}
    for i, split in enumerate(("train", "validation", "test")):
        images, labels = dataset.part(split)
        left, right = (epoch_order(len(images), seed, 2 * i + side).to(images.device) for side in (0, 1))
        tensors[f"{split}_images"] = torch.cat([images[left], images[right]], dim=3)
        tensors[f"{split}_labels"] = 10 * labels[left] + labels[right]
    return replace(dataset, name="pairs", classes=PAIRS, parts=2, read_as=dataset.read_as or dataset.name, strokes=False, **tensors)


FACTORS = {  # of the sprites: name -> its values, in pixels and radians
    "shape": torch.arange(3),
    "scale": torch.linspace(4.0, 6.5, 5),
    "rotation": torch.arange(8) * torch.pi / 16,  # less than a right angle: no shape looks the same twice
    "x": torch.linspace(8.0, 19.0, 10),
    "y": torch.linspace(8.0, 19.0, 10),
}


def sprites(validation: int = 1_000, seed: int = 0) -> Dataset:
    """All 12,000 combinations of FACTORS as images (1, 28, 28), in the manner of dSprites (Matthey et al. 2017).

    A fifth, drawn at random, is the test set; its factors and those of the validation images are kept. The label is the shape.
    """
    which = torch.cartesian_prod(*(torch.arange(len(values)) for values in FACTORS.values()))
    images = draw_sprites(*(values[column] for values, column in zip(FACTORS.values(), which.T, strict=True)))
    which, images = (part[torch.randperm(len(which), generator=torch.Generator().manual_seed(seed))] for part in (which, images))
    labels, test, held = which[:, 0], len(which) // 5, min(validation, 1_000)
    parts = [(part[test + held :], part[test : test + held], part[:test]) for part in (images, labels)]
    tensors = [tensor for split in zip(*parts, strict=True) for tensor in split]
    return Dataset("sprites", SHAPES, *tensors, factors=tuple(FACTORS), validation_factors=which[test : test + held], test_factors=which[:test])


def draw_sprites(shape, scale, rotation, x, y, side: int = 28) -> torch.Tensor:
    """White shapes on black, uint8 (N, 1, side, side), edges one pixel soft: each twice as long as it is wide.

    shape (N,) is 0 for a rectangle, 1 for an ellipse, 2 for a triangle; scale: half the length, x, y: the middle, in pixels.
    """
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    scale, rotation, x, y = (value[:, None, None].float() for value in (scale, rotation, x, y))
    across, down = columns - x, rows - y
    u = (across * rotation.cos() + down * rotation.sin()) / scale  # along the shape, which reaches from -1 to 1
    v = 2 * (down * rotation.cos() - across * rotation.sin()) / scale  # and across it
    rectangle = torch.maximum(u.abs(), 0.5 * v.abs() + 0.5)
    ellipse = (u.square() + v.square()).sqrt()
    triangle = torch.maximum(-u, 0.5 * u + v.abs() + 0.5)
    inside = torch.stack([rectangle, ellipse, triangle])[shape, torch.arange(len(shape))]  # below 1
    steepness = torch.stack([scale, 0.75 * scale, scale])[shape, torch.arange(len(shape))]  # about one pixel from dark to bright
    return (255 * ((1 - inside) * steepness + 0.5).clamp(0, 1)).round().to(torch.uint8)[:, None]


def epoch_order(n: int, seed: int, epoch: int) -> torch.Tensor:
    """A permutation of n that depends on seed and epoch alone, so that a resumed run meets the same batches."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(1_000_003 * seed + epoch))


class DataUnavailable(UserError):
    """The data set is neither on disk nor to be downloaded."""


def picture_size(size: int | None = None) -> int:
    """`size`, else the environment variable SIZE, else 28."""
    found = size or os.environ.get("SIZE") or own_data.SIZES[0]
    if not str(found).isdecimal():
        raise UserError(f"SIZE is {found!r}: take one of {', '.join(map(str, own_data.SIZES))}.")
    return int(found)


def _read(name, root, size=None, seed=0):
    """Four arrays (train and test, images as uint8 (N, C, H, W), labels as int64) and the names of the classes."""
    if name == "mnist" and BUNDLED.is_dir():
        return _read_bundled(), DIGITS
    if name in FOLDERS:
        return _read_idx(FOLDERS[name], root), CLASSES[name]
    if name == "cifar10":
        packed = root / "cifar10.npz"
        return (own_data.read_npz(packed)[0] if packed.exists() else _read_cifar10(root)), CIFAR10
    if name == "digits":
        return _read_digits(), DIGITS
    path = Path(name).expanduser()
    if path.is_dir():
        return own_data.read_folder(path, picture_size(size), root / "pictures", seed)
    if name.endswith(".npz"):
        if not path.exists():
            raise DataUnavailable(f"There is no file {path}: give the path of an .npz with train_images, train_labels, test_images, test_labels.")
        return own_data.read_npz(path)
    if path.is_file():
        mend = "unpack it and give the folder" if path.suffix.lower() in PACKED else "give a folder of pictures, or an .npz"
        raise UserError(f"{path} is a file of another kind: {mend}.")
    raise UserError(f"There is no data set {name!r}: {take(name, NAMES)}, the path of a folder of pictures, or of an .npz file.")


def _read_bundled():
    """MNIST out of the compressed files of the repository."""
    arrays = []
    for file, md5 in IDX_MD5["MNIST"].items():
        path = BUNDLED / f"{file}.gz"
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} can't be read ({error}): restore it with `git checkout mnist`.") from None
        if hashlib.md5(content).hexdigest() != md5:
            raise UserError(f"{path} is damaged: its content is not MNIST's; restore it with `git checkout mnist`.")
        values = np.frombuffer(content, np.uint8, offset=16 if "images" in file else 8)  # IDX: sizes stand before the values
        arrays.append(values.reshape(-1, 1, 28, 28).copy() if "images" in file else values.astype(np.int64))
    return arrays


def _read_idx(folder, root):
    from torchvision import datasets

    raw = root / folder / "raw"
    kind = getattr(datasets, folder)
    if not all((raw / file).exists() for file in IDX_MD5[folder]):
        _download(lambda: kind(root, download=True), folder, root)  # what another process has fetched meanwhile is not fetched again
    for file, md5 in IDX_MD5[folder].items():
        try:
            found = hashlib.md5((raw / file).read_bytes()).hexdigest()
        except OSError as error:
            raise UserError(f"{raw / file} can't be read ({error.strerror}): mend its permissions or delete it.") from None
        if found != md5:
            raise UserError(f"{raw / file} is damaged or not {folder}'s (MD5 {found}, published {md5}): delete it and load again.")
    parts = [kind(root, train=train) for train in (True, False)]
    return [a for p in parts for a in (p.data.numpy()[:, None], p.targets.numpy())]


def _read_cifar10(root):
    from torchvision import datasets

    def read(train, download=False):
        return datasets.CIFAR10(root, train=train, download=download)

    try:
        parts = [read(True), read(False)]  # raises RuntimeError where a file is missing or its checksum is wrong
    except RuntimeError:
        _download(lambda: read(True, download=True), "CIFAR10", root)
        parts = [read(True), read(False)]
    return [a for p in parts for a in (p.data.transpose(0, 3, 1, 2), np.array(p.targets))]


def _read_digits():
    """scikit-learn's 1,797 digits of 8x8 with 17 grey levels, stretched to 0..255; the last 297 are the test set."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * (255 / 16)).round().astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    return images[:1500], labels[:1500], images[1500:], labels[1500:]


def _download(fetch, what, root):
    try:
        root.mkdir(parents=True, exist_ok=True)
        writable = os.access(root, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        raise DataUnavailable(f"{what} is not under {root} and that folder can't be written: point DATA_DIR at one that can.")
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with filelock.FileLock(root / ".download.lock"):  # of several processes one fetches, the others wait
            fetch()
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataUnavailable(f"{what} is not under {root} and its download failed ({reason}): check the network, or copy the files there.") from None
    finally:
        socket.setdefaulttimeout(before)


def _banner(title, text):
    width = max(len(title), 60) + 4
    return "\n".join(["#" * width, f"# {title}".ljust(width - 1) + "#", "#" * width, text])
