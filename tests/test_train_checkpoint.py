"""Checkpoints: read back what was written, refuse what is damaged, survive kill -9."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symmd_md.errors import CheckpointError
from symmd_md.files import remove_leftovers, write_atomically
from symmd_md.train.checkpoint import read_checkpoint, write_checkpoint
from training_cases import assert_same, child_environment

CONTENT = {
    "averaged": {"weight": torch.arange(6.0, dtype=torch.float64).reshape(2, 3)},
    "state": {"epoch": 3, "list": [1, 2.5, "x", None, True]},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, CONTENT)
    return path


def test_reads_back_what_was_written(checkpoint: Path) -> None:
    content = read_checkpoint(checkpoint)
    assert content.pop("format") == 1
    assert_same(content, CONTENT)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("position", [90, 400, -1])
def test_one_wrong_byte_is_refused(checkpoint: Path, position: int) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[position] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 does not match"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    ("keep", "message"), [(0, "cut short"), (10, "cut short"), (82, "cut short"), (300, "is damaged")]
)
def test_a_truncated_file_is_refused(checkpoint: Path, keep: int, message: str) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(checkpoint)


def test_missing_foreign_and_executable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(CheckpointError, match=r"is a folder; name a checkpoint in it"):
        read_checkpoint(tmp_path)
    (tmp_path / "text.ckpt").write_text("not a checkpoint at all\n" * 20)
    with pytest.raises(CheckpointError, match="is not a SymMD checkpoint"):
        read_checkpoint(tmp_path / "text.ckpt")
    write_checkpoint(tmp_path / "objects.ckpt", {"path": Path("x")})
    with pytest.raises(CheckpointError, match="holds other things than tensors and plain values"):
        read_checkpoint(tmp_path / "objects.ckpt")


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "new.ckpt", {"format": 99})
    with pytest.raises(CheckpointError, match="has format 99, this version reads format 1"):
        read_checkpoint(tmp_path / "new.ckpt")


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


WRITER = """
import sys, torch
from pathlib import Path
from symmd_md.train.checkpoint import write_checkpoint
for count in range(10**6):
    tensor = torch.full((2**22,), float(count))
    write_checkpoint(Path(sys.argv[1]), {"count": count, "tensor": tensor})
    print(count, flush=True)
"""


def test_kill_9_in_the_middle_of_a_write_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, env=child_environment()
    )
    assert child.stdout is not None
    for _ in range(3):
        last_reported = int(child.stdout.readline())
    while child.poll() is None and not any(tmp_path.glob(".last.ckpt.*")):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    content = read_checkpoint(path)
    assert content["count"] >= last_reported
    assert torch.equal(content["tensor"], torch.full((2**22,), float(content["count"])))
    write_atomically(tmp_path / ".hidden", b"kept")
    remove_leftovers(tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == [".hidden", "last.ckpt"]
