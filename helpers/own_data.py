"""One's own pictures as a data set: a folder of them, or arrays in an .npz. Whatever is done to make them fit is said."""

import hashlib
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from helpers import UserError
from helpers.progress import bar

SIZES = (28, 32, 64)  # what pictures of a folder are made to measure
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
Image.init()  # PIL looks at the content, not at the name: PostScript would go to another program
FORMATS = tuple(name for name in ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM") if name in Image.OPEN)
STRANGE = (".heic", ".heif", ".dng", ".cr2", ".nef", ".arw", ".psd", ".svg", ".jxl", ".jp2")  # pictures too, which are not read
MEGAPIXELS = 64  # of a picture that is decoded: each thread holds one
SPLITS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
LEAST = 10, 2  # training and test images of a data set


# ---------------------------------------------------------------------------------------------------------- a folder


def read_folder(folder: Path, size: int, cache: Path, seed: int = 0):
    """Pictures under `folder` as arrays, training and test, images uint8 (N, C, size, size) and labels (N,), and the classes' names.

    Its sub-folders are the classes; without any, all are of one class. A tenth of each class, drawn by `seed`, is the test set, unless
    the sub-folders are SPLITS, with classes in each: train and test, and maybe val, whose arrays are then the last two; or train and val,
    which is then the test set. What was read once is kept under `cache` until a file changes.
    Grey where all are grey, else in colour; cropped to the square in the middle. A file that can't be read is named and left out.
    """
    if size not in SIZES:
        raise UserError(f"Pictures of {size}x{size} were asked for: take a size of {', '.join(map(str, SIZES))}.")
    parts, unreadable = _listed(folder)
    images, rows, reasons = _cached(folder, sorted({path for paths in parts.values() for _, path in paths}), size, cache)
    for path, reason in (unreadable | reasons).items():
        print(f"{path} is left out: {reason}.")
    found = {part: [(label, path) for label, path in paths if path in rows] for part, paths in parts.items()}
    classes = tuple(dict.fromkeys(label for label, _ in found["train"]))
    if "test" not in found:
        found = _split(found["train"], seed)
    names, number, order, labels = ("train", "test", "validation")[: len(found)], {label: i for i, label in enumerate(classes)}, [], {}
    for part in names:
        known = [(number[label], rows[path]) for label, path in found[part] if label in number]
        strangers = sorted({label for label, _ in found[part]} - set(classes))
        if strangers:
            print(f"{len(found[part]) - len(known)} {part} pictures are left out: of {', '.join(strangers)} there are none to train on.")
        labels[part] = np.array([label for label, _ in known], np.int64)
        order += [row for _, row in known]
    enough(folder, len(labels["train"]), len(labels["test"]))
    arrange(images, order + sorted(set(range(len(images))) - set(order)))
    if all((some == some[:, :1]).all() for some in np.array_split(images[: len(order)], 1 + len(order) // 1_000)):
        images = images[:, :1]
    ends = np.cumsum([len(labels[part]) for part in names])
    cut = np.split(images, ends)
    return [array for i, part in enumerate(names) for array in (cut[i], labels[part])], classes


def arrange(images: np.ndarray, order) -> None:
    """images[order], in its place: a second array beside it might not fit into memory."""
    moved = np.zeros(len(images), bool)
    for first in range(len(images)):
        if moved[first] or order[first] == first:
            continue
        held, place = images[first].copy(), first
        while order[place] != first:
            images[place], moved[place] = images[order[place]], True
            place = order[place]
        images[place], moved[place] = held, True


def enough(source, train: int, test: int) -> None:
    """UserError unless there are enough images to train and to test on."""
    if train < LEAST[0] or test < LEAST[1]:
        raise UserError(f"{source} has {train} training and {test} test images: at least {LEAST[0]} and {LEAST[1]} are needed.")


def _listed(folder: Path):
    """{"train": [(class, path)], maybe "test": ...} in the order of names, and what could not be looked into: path -> reason."""
    unreadable, seen, others = {}, {os.path.realpath(folder): folder}, []

    def under(top) -> list[Path]:
        found = []
        for where, folders, files in os.walk(top, followlinks=True, onerror=lambda e: unreadable.update({e.filename: e.strerror})):
            real = os.path.realpath(where)
            if real in seen:  # links in a circle, or to another class, whose pictures would be in training and test at once
                if seen[real] != folder:
                    print(f"{where} is left out: it is {seen[real]} by another name.")
                folders.clear()
                continue
            seen[real] = where
            others.extend(name for name in files if name.lower().endswith(STRANGE))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            found += [Path(where, name) for name in sorted(files) if is_picture(name)]
        return found

    def classes(top) -> list[tuple[str, Path]]:
        inside = sorted(path for path in top.iterdir() if not path.name.startswith("."))
        beside = [path for path in inside if path.is_file() and is_picture(path.name)]
        others.extend(path.name for path in inside if path.is_file() and path.name.lower().endswith(STRANGE))
        sorted_in = [(path.name, picture) for path in inside if path.is_dir() for picture in under(path)]
        if sorted_in and beside:
            print(f"{len(beside)} pictures of {top} are left out: they are in none of its sub-folders, which are the classes.")
        deeper = sorted({picture.parent.name for _, picture in sorted_in if picture.parent.parent.parent == top})
        name = sorted_in[0][0] if len({label for label, _ in sorted_in}) == 1 else None
        if name and deeper and (len(deeper) > 1 or any(name.lower() in names for names in SPLITS.values())):
            print(f"All pictures of {top} are of one class, {name}: give {top / name} if {', '.join(deeper[:3])} and the like are the classes.")
        return sorted_in or [(folder.name, picture) for picture in beside]

    try:
        parts = {name: classes(path) for name, path in _splits(folder).items()}
    except OSError as error:
        raise UserError(f"{folder} can't be read ({error.strerror}): mend its permissions.") from None
    if others:
        kinds = ", ".join(sorted({Path(name).suffix.lower() for name in others}))
        print(f"{len(others)} pictures under {folder} are left out: {kinds} can't be read; save them as JPEG or PNG.")
    if not parts["train"]:
        raise UserError(f"{folder} holds no pictures ({', '.join(ENDINGS)}): give the folder that they, or the folders of their classes, are in.")
    return parts, unreadable


def _splits(folder: Path) -> dict:
    """Which folder holds which part: sub-folders that are named so, of which there must be two, or the folder itself for all."""
    inside = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    found = {part: next((inside[name] for name in names if name in inside), None) for part, names in SPLITS.items()}
    train, validation, test = found["train"], found["validation"], found["test"]
    known = [path for path in (train, validation, test) if path is not None]
    sorted_in = all(any(inner.is_dir() for inner in path.iterdir()) for path in known)
    if train is None or len(known) < 2 or not (sorted_in or len(known) == len(inside)):  # classes may be called so, too
        return {"train": folder}
    if rest := [path.name for path in inside.values() if path not in known]:
        print(f"{', '.join(rest)} of {folder} {'is' if len(rest) == 1 else 'are'} left out: beside {train.name}/ they are no class.")
    parts = {"train": train, "test": test or validation} | ({"validation": validation} if test and validation else {})
    print(f"{folder} is split already: {', '.join(f'{part}: {path.name}/' for part, path in parts.items())}.")
    return parts


def is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _split(listed, seed: int) -> dict:
    """A tenth of each class for the test set, at least one where there are two."""
    parts, classes = {"train": [], "test": []}, {label: [] for label, _ in listed}
    for i in np.random.default_rng(seed).permutation(len(listed)):
        classes[listed[i][0]].append(listed[i])
    for own in classes.values():
        held = max(1, len(own) // 10) if len(own) > 1 else 0
        parts["test"] += own[:held]
        parts["train"] += own[held:]
    return parts


def _cached(folder: Path, paths: list[Path], size: int, cache: Path):
    """Pictures, uint8 (N, 3, size, size); path -> row; and path -> reason of those that can't be read. Read anew only where a file has changed."""
    stamps = ["(N, C, H, W)"]
    for path in paths:
        try:
            stat = path.stat()
            stamps.append([str(path), stat.st_size, stat.st_mtime_ns])
        except OSError as error:
            stamps.append([str(path), error.strerror])
    listing = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    kept = cache / f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]}-{size}.npz"
    try:
        with np.load(kept, allow_pickle=False) as file:
            if str(file["listing"]) == listing:
                images, reasons = file["images"], {Path(path): reason for path, reason in json.loads(str(file["reasons"])).items()}
                return images, _rows(paths, reasons), reasons
    except Exception:  # not there yet, or cut off: numpy and zipfile each raise their own kinds
        pass
    images = np.zeros((len(paths), 3, size, size), np.uint8)

    def read(i: int) -> str | None:
        found = read_picture(paths[i], size)
        if isinstance(found, str):
            return found
        images[i] = found.transpose(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(bar(pool.map(read, range(len(paths))), total=len(paths), desc=f"reading {folder.name}", unit="picture"))
    reasons = {path: reason for path, reason in zip(paths, answers, strict=True) if reason}
    if len(reasons) < len(paths):
        _keep(kept, listing=listing, images=images, reasons=json.dumps({str(path): reason for path, reason in reasons.items()}))
    return images, _rows(paths, reasons), reasons


def _rows(paths, reasons) -> dict:
    return {path: row for row, path in enumerate(paths) if path not in reasons}


def _keep(kept: Path, **arrays) -> None:
    file = None
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        for old in kept.parent.glob("*.part"):  # of processes that were killed
            if time.time() - old.stat().st_mtime > 3_600:
                old.unlink()
        with tempfile.NamedTemporaryFile(dir=kept.parent, suffix=".part", delete=False) as file:
            np.savez(file, **arrays)
        os.replace(file.name, kept)
    except OSError as error:
        print(f"What was read can't be kept in {kept.parent} ({error.strerror}): it will be read again next time.")
        if file is not None:
            Path(file.name).unlink(missing_ok=True)


def read_picture(path: Path, size: int):
    """The square in the middle of a picture as uint8 (size, size, 3), upright, on white where it is transparent; or why it can't be read."""
    try:
        with Image.open(path, formats=FORMATS) as picture:
            picture.draft("RGB", (2 * size, 2 * size))  # a JPEG is decoded no larger than needed
            if picture.width * picture.height > MEGAPIXELS * 1e6:
                return f"it is too large, {picture.width}x{picture.height}: make it at most {MEGAPIXELS} megapixels"
            picture = on_white(ImageOps.exif_transpose(picture))
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            how = Image.Resampling.BOX if side >= size else Image.Resampling.BICUBIC
            return np.asarray(picture.resize((size, size), how, (left, top, left + side, top + side)))
    except OSError as error:
        return error.strerror or "it is damaged or no picture"
    except Image.DecompressionBombError:
        return f"it is too large: make it at most {MEGAPIXELS} megapixels"
    except Exception as error:  # a damaged file can raise nearly anything
        return f"it is damaged or no picture ({type(error).__name__})"


def on_white(picture: Image.Image) -> Image.Image:
    """Any kind of picture as RGB: 16 bits to 8, floats in [0, 1] to 8, palettes looked up, transparent ones laid on white."""
    if picture.mode[0] in "IF":  # of 16 bits, or of 32, which hold what somebody put there
        values = np.asarray(picture).astype(np.float64)
        most = 65_535 if ";16" in picture.mode else next((top for top in (1, 255, 65_535) if values.max() <= top), values.max())
        most = 255 if picture.mode == "I" and most == 1 else most
        return Image.fromarray((values * (255 / most)).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


# ----------------------------------------------------------------------------------------------------------- an .npz


def read_npz(path: Path):
    """The arrays of an .npz as `read_folder` gives them; never unpickles. What does not fit is made to, and said."""
    arrays = _arrays(path)
    train, test = (_images(path, arrays[f"{part}_images"], part) for part in ("train", "test"))
    enough(path, len(train), len(test))
    if train.shape[1:] != test.shape[1:]:
        raise UserError(f"{path} has training images of {train.shape[1:]} but test images of {test.shape[1:]}: make them equal.")
    if "train_labels" not in arrays:  # all are of one class
        return [train, np.zeros(len(train), np.int64), test, np.zeros(len(test), np.int64)], ("0",)
    labels = [_labels(path, arrays[f"{part}_labels"], len(images)) for part, images in (("train", train), ("test", test))]
    values = np.unique(labels[0])
    known = np.isin(labels[1], values)
    if not known.all():
        strangers = ", ".join(map(str, np.unique(labels[1][~known])[:10]))
        print(f"{path}: {(~known).sum()} test images are left out: of {strangers} there are none to train on.")
        enough(path, len(train), int(known.sum()))
    numbers = [np.searchsorted(values, part).astype(np.int64) for part in (labels[0], labels[1][known])]
    return [train, numbers[0], test[known], numbers[1]], tuple(map(str, values))


def _arrays(path: Path) -> dict:
    try:
        with np.load(path, allow_pickle=False) as file:
            kinds = ("images", "labels") if {"train_labels", "test_labels"} & set(file) else ("images",)
            wanted = [f"{part}_{kind}" for part in ("train", "test") for kind in kinds]
            missing = set(wanted) - set(file)
            if missing:
                raise UserError(f"{path} lacks {', '.join(sorted(missing))}: add these arrays.")
            return {name: file[name] for name in wanted}
    except UserError:
        raise
    except Exception as error:  # numpy, zipfile and zlib each raise their own kinds on a damaged file
        raise UserError(f"{path} can't be read as an .npz of plain arrays ({type(error).__name__}): write it again with numpy.savez.") from None


def _images(path: Path, images, part: str):
    """uint8 (N, C, H, W), both sides divisible by 4, of (N, H, W) or (N, H, W, C): uint8, uint16, or floats in [0, 1]."""
    shape = f"{path} has {part} images of {images.dtype} {images.shape}"
    if images.ndim not in (3, 4) or not len(images) or 0 in images.shape:
        raise UserError(f"{shape}: they must be of shape (N, H, W) or (N, H, W, C).")
    images = images[:, :, :, None] if images.ndim == 3 else images
    if images.shape[3] not in (1, 2, 3, 4):
        raise UserError(f"{shape}, (N, H, W, C) being expected: grey (1) or colour (3) is allowed, either with a transparency more.")
    done = []
    if images.dtype == np.uint16:
        images, done = (images / 257).round().astype(np.uint8), ["16 bits are made 8"]
    elif np.issubdtype(images.dtype, np.floating):
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise UserError(f"{shape} from {images.min():g} to {images.max():g}: floats must be from 0 to 1.")
        images, done = (images * 255).round().astype(np.uint8), ["floats are made 8 bits"]
    elif images.dtype != np.uint8:
        raise UserError(f"{shape}: they must be uint8, uint16, or floats from 0 to 1.")
    if images.shape[3] in (2, 4):
        alpha = images[..., -1:] / 255
        images = (images[..., :-1] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
        done.append("what is transparent is laid on white")
    pad = [(0, -side % 4) for side in images.shape[1:3]]
    if any(more for _, more in pad):
        pad = [(more // 2, more - more // 2) for _, more in pad]
        images = np.pad(images, [(0, 0), *pad, (0, 0)], mode="edge")
        done.append(f"their edges are repeated up to {images.shape[1]}x{images.shape[2]}, sides that are divisible by 4")
    if done:
        print(f"{shape}: {'; '.join(done)}.")
    return images.transpose(0, 3, 1, 2)


def _labels(path: Path, labels, n: int):
    if labels.shape != (n,) or labels.dtype.kind not in "iuU" or (labels.dtype.kind == "i" and labels.min() < 0):
        raise UserError(f"{path} has labels of {labels.dtype} {labels.shape}: they must be {n} whole numbers from 0 up, or names.")
    return labels
