"""Two processes under torchrun give what one gives, up to rounding."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from symmd_md.train import run_config, train
from symmd_md.train.checkpoint import read_checkpoint
from symmd_md.train.logs import COLUMNS, read_log
from training_cases import child_environment, make_frames, run_mapping, write_frames


def test_two_processes_equal_one(tmp_path: Path) -> None:
    # Seven structures in batches of three: shares of 2 + 1, and a last batch with work for one process only.
    mapping = run_mapping(write_frames(tmp_path / "data.xyz", make_frames()), max_epochs=3, max_minutes=1e6)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(mapping))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = ["-m", "symmd_md", "train", str(file), "-o", str(tmp_path / "two")]
    environment = child_environment(GLOO_SOCKET_IFNAME="lo")
    done = subprocess.run(launcher + arguments, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 processes") == 1
    train(run_config(mapping), tmp_path / "one")
    one, two = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("one", "two"))
    assert two["state"]["step"] == one["state"]["step"] == 9
    assert two["provenance"]["processes"] == 2
    for name, tensor in one["state"]["parameters"].items():
        torch.testing.assert_close(two["state"]["parameters"][name], tensor, rtol=1e-8, atol=1e-10)
    for name, tensor in one["averaged"].items():
        torch.testing.assert_close(two["averaged"][name], tensor, rtol=1e-8, atol=1e-10)
    rows = [read_log(tmp_path / name / "log.csv") for name in ("one", "two")]
    for row, other in zip(*rows, strict=True):
        for column in COLUMNS:
            if column not in ("minutes", "learning_rate"):
                assert other[column] == pytest.approx(row[column], rel=1e-5, nan_ok=True), column
