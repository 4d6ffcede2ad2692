"""Two processes train as one. On a processor it is torchrun that starts them; `accelerate launch` does the same for GPUs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from helpers import UserError
from helpers.training import Team
from helpers.weights import ROOT

pytest.importorskip("accelerate")
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "helpers"]
ALONE = [sys.executable, "-m", "helpers"]


def train(launcher, model, folder, *options):
    command = [*launcher, "train", model, "--dataset", "digits", "--profile", "smoke", "--folder", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads((folder / "result.json").read_text())


TERMS = {"realnvp": "train_loss", "vae": "train_loss", "gan": "train_discriminator_penalty", "vqvae": "train_autoencoder_loss"}


@pytest.mark.parametrize(("model", "term"), TERMS.items())
def test_two_processes_learn_as_one_does(model, term, tmp_path):
    """The same batches, their gradients averaged: the same curve, but for the noise that each draws."""
    one, two = train(ALONE, model, tmp_path / "one"), train(LAUNCH, model, tmp_path / "two")
    assert two["processes"] == 2 and "processes" not in one
    assert [row["step"] for row in one["epochs"]] == [row["step"] for row in two["epochs"]]
    total, other = (sum(row[term] for row in record["epochs"]) for record in (one, two))
    assert other == pytest.approx(total, rel=0.15 if model == "vqvae" else 0.02)
    least = 0.01 * one["epochs"][0][term] if model == "gan" else 0.0  # in the end the penalty is a hundredth of what it was, and mostly chance
    for a, b in zip(one["epochs"], two["epochs"], strict=True):
        assert b[term] == pytest.approx(a[term], rel=0.15 if model in ("gan", "vqvae") else 0.02, abs=least)
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in (tmp_path / "one").iterdir()}


def test_two_processes_are_killed_and_one_goes_on(tmp_path):
    command = [*LAUNCH, "train", "realnvp", "--dataset", "digits", "--profile", "smoke", "--epochs", "30", "--folder", str(tmp_path)]
    environment = os.environ | {"CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "1"}
    both = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "checkpoint.pt").exists():
        assert both.poll() is None
        time.sleep(0.01)
    for process in [*psutil.Process(both.pid).children(recursive=True), both]:  # torchrun's own death would leave its workers alive
        with contextlib.suppress(psutil.NoSuchProcess):  # one may go with another
            process.send_signal(signal.SIGKILL)
            process.wait()
    reached = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"]
    record = train(ALONE, "realnvp", tmp_path, "--epochs", "30", "--resume")
    assert 0 < reached < record["epochs"][-1]["step"] and record["epochs"][-1]["epoch"] == 30


def test_shares_of_a_batch(monkeypatch):
    team = Team()
    assert team.size == 1 and team.first and team.share(7) == slice(0, 7)
    team.size, team.rank = 3, 1
    assert team.share(12) == slice(4, 8)
    with pytest.raises(UserError, match="no equal shares for 3 processes.*divisible by 3"):
        team.share(32)


CODEBOOK = """
import sys, torch
from accelerate import Accelerator
from helpers.models.codebook import Codebook
from helpers.training import Team
torch.manual_seed(0)
team, centres, book = Team(), 8 * torch.randn(16, 4), Codebook(128, 4, 0.9)
book.words += 50  # so that nearly all are dead, and put somewhere else
team.own_noise(0, 0)
for _ in range(120):
    mine = centres[torch.randint(16, (256,))] + 0.1 * torch.randn(256, 4)
    book.learn(mine, book.nearest(mine))
    team.average_buffers(book)
near = torch.cdist(book.words, centres).min(1)
if team.first:
    print("ALIVE", int((book.uses > 0.1).sum()), "FAR", near.values.max().item(), "MET", len(near.indices.unique()))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_two_processes_share_a_codebook(tmp_path):
    """Each sees half of a batch; no word lies between two data, as the mean of two revived ones would."""
    (tmp_path / "book.py").write_text(CODEBOOK)
    command = [*LAUNCH[:-2], str(tmp_path / "book.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-2_000:]
    _, alive, _, far, _, met = done.stdout.split()
    assert int(alive) >= 120 and float(far) < 1.0 and int(met) == 16
