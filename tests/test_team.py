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
    for a, b in zip(one["epochs"], two["epochs"], strict=True):
        assert b[term] == pytest.approx(a[term], rel=0.15 if model in ("gan", "vqvae") else 0.02)
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
