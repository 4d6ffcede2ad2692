"""Every way in which a data set can be missing, damaged or wrong, without a network."""

import gzip
import os
import socket
import struct

import numpy as np
import pytest
import torch

from helpers import UserError, data


def test_digits_need_no_network(digits):
    assert digits.image_shape == (1, 8, 8)
    assert (len(digits.train_images), len(digits.validation_images), len(digits.test_images)) == (1350, 150, 297)
    assert digits.train_images.dtype == torch.uint8 and digits.train_labels.dtype == torch.int64
    assert digits.train_images.max() == 255 and set(digits.test_labels.tolist()) == set(range(10))


def test_parts_never_mix(tmp_path):
    numbers = np.arange(200, dtype=np.uint8)[:, None, None]
    path = tmp_path / "numbers.npz"
    np.savez(path, train_images=np.broadcast_to(numbers, (200, 8, 8)), test_images=np.zeros((40, 8, 8), np.uint8))
    dataset = data.load(str(path), validation=50)
    parts = [dataset.part(split)[0][:, 0, 0, 0].tolist() for split in ("train", "validation", "test")]
    assert [len(part) for part in parts] == [180, 20, 40]
    assert sorted(parts[0] + parts[1]) == list(range(200))
    with pytest.raises(UserError, match="'dev'.*train, validation or test"):
        dataset.part("dev")


def test_the_order_of_an_epoch_depends_on_seed_and_epoch_alone():
    torch.manual_seed(5)
    first = data.epoch_order(100, seed=1, epoch=2)
    assert torch.equal(first, data.epoch_order(100, seed=1, epoch=2))
    assert not torch.equal(first, data.epoch_order(100, seed=1, epoch=3))
    assert not torch.equal(first, data.epoch_order(100, seed=2, epoch=2))
    assert torch.equal(first.sort().values, torch.arange(100))


def test_pairs(digits):
    """Labels match halves, every part is paired with itself, a seed is a set."""
    made = data.pairs(digits, seed=3)
    assert made.image_shape == (1, 8, 16) and made.parts == 2 and made.classes[7] == "07" and len(made.classes) == 100
    for split in ("train", "validation", "test"):
        images, labels = made.part(split)
        known = {image.numpy().tobytes(): label.item() for image, label in zip(*digits.part(split), strict=True)}
        assert len(images) == len(digits.part(split)[0])
        for image, label in zip(images, labels.tolist(), strict=True):
            left, right = (half.contiguous().numpy().tobytes() for half in image.chunk(2, dim=2))
            assert label == 10 * known[left] + known[right]  # a KeyError: a half from another part
    assert torch.equal(made.train_images, data.pairs(digits, seed=3).train_images)
    assert not torch.equal(made.train_images, data.pairs(digits, seed=4).train_images)
    with pytest.raises(UserError, match="pairs has 100 classes"):
        data.pairs(made)


@pytest.mark.parametrize("name", ["7", "123", "ab", ""])
def test_a_pair_is_two_digits(name):
    assert data.label("07", data.PAIRS) == 7
    with pytest.raises(UserError, match=f"{name!r}.*one of 00, 01, ... 99"):
        data.label(name, data.PAIRS)
    with pytest.raises(UserError, match="'Socks'.*Sandal"):
        data.label("Socks", data.FASHION)


def test_unknown_name():
    with pytest.raises(UserError, match="'mnits'.*mnist, fashion, cifar10, digits"):
        data.load("mnits")


# ---- MNIST, which comes with the repository


def test_mnist_is_here_without_a_network(tmp_path, monkeypatch):
    def none(*args, **options):
        raise OSError("there is no network")

    monkeypatch.setattr(socket, "create_connection", none)
    monkeypatch.setattr(socket, "getaddrinfo", none)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nothing"))
    dataset = data.load("mnist", fallback="digits")
    assert dataset.name == "mnist" and not (tmp_path / "nothing").exists()
    assert [len(dataset.part(split)[0]) for split in ("train", "validation", "test")] == [55_000, 5_000, 10_000]
    assert dataset.test_labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9] and dataset.image_shape == (1, 28, 28)
    everything = torch.cat([dataset.train_labels, dataset.validation_labels])
    assert everything.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize("change", [lambda b: b[:-200], lambda b: gzip.compress(gzip.decompress(b)[:-1]), None], ids=["half", "other", "missing"])
def test_a_bundled_file_that_is_damaged(tmp_path, monkeypatch, change):
    for file in data.BUNDLED.glob("*.gz"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(change(file.read_bytes())) if change else file.unlink()
    monkeypatch.setattr(data, "BUNDLED", tmp_path)
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.gz .*git checkout mnist"):
        data.load("mnist")


# ---- files that torchvision fetches


def write_idx(raw):
    """Files of the right names and format, but not MNIST's."""
    raw.mkdir(parents=True)
    for part, n in (("train", 6), ("t10k", 2)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, n, 28, 28) + bytes(n * 784))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, n) + bytes(n))


def test_files_that_are_not_what_was_published(tmp_path):
    write_idx(tmp_path / "FashionMNIST" / "raw")
    with pytest.raises(UserError, match="train-images-idx3-ubyte is damaged or not FashionMNIST's.*delete it"):
        data.load("fashion", tmp_path)


def test_genuine_files_load_and_a_flipped_bit_is_noticed(tmp_path, monkeypatch):
    tmp_path = tmp_path / "données à moi ✓"  # a folder as people have them
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    raw = tmp_path / "FashionMNIST" / "raw"
    write_idx(raw)
    monkeypatch.setitem(data.IDX_MD5, "FashionMNIST", {f.name: data.hashlib.md5(f.read_bytes()).hexdigest() for f in raw.iterdir()})
    assert data.load("fashion").test_images.shape == (2, 1, 28, 28)
    for change in (lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:]):
        file = raw / "t10k-images-idx3-ubyte"
        whole = file.read_bytes()
        file.write_bytes(change(whole))
        with pytest.raises(UserError, match="t10k-images-idx3-ubyte is damaged"):
            data.load("fashion", tmp_path)
        file.write_bytes(whole)


# ---- downloads, from a server on loopback


@pytest.fixture
def server(monkeypatch):
    """serve(handler) makes torchvision's address of Fashion-MNIST a loopback server that treats each connection with handler."""
    import threading

    from torchvision import datasets

    sockets = []

    def serve(handle):
        listener = socket.create_server(("127.0.0.1", 0))
        sockets.append(listener)

        def loop():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                sockets.append(connection)
                connection.recv(4096)
                handle(connection)

        threading.Thread(target=loop, daemon=True).start()
        monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [f"http://127.0.0.1:{listener.getsockname()[1]}/"])
        monkeypatch.setattr(data, "DOWNLOAD_TIMEOUT", 0.5)
        for proxy in ("http_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(proxy, raising=False)

    yield serve
    for one in sockets:
        one.close()


def refuse(connection):
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    connection.close()


def send_half(connection):
    body = gzip.compress(bytes(1000))
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(body)) + body)
    connection.close()


@pytest.mark.parametrize("handle", [lambda connection: None, refuse, send_half], ids=["hangs", "403", "half"])
def test_a_download_that_fails(server, tmp_path, handle):
    server(handle)
    with pytest.raises(UserError, match="FashionMNIST is not under .* download failed .*copy the files there"):
        data.load("fashion", tmp_path)
    assert socket.getdefaulttimeout() is None


def test_the_fallback_says_so(server, tmp_path, capsys):
    server(refuse)
    dataset = data.load("fashion", tmp_path, fallback="digits")
    assert dataset.name == "digits"
    assert "FASHION IS NOT HERE. THIS RUN USES DIGITS INSTEAD." in capsys.readouterr().out


def test_data_dir_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "file" / "data"))
    with pytest.raises(UserError, match=r"file/data and that folder can't be written.*DATA_DIR"):
        data.load("fashion")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_data_dir(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="can't be written"):
        data.load("fashion", tmp_path)
