"""Checkpoints: tensors and plain values behind a SHA-256, written atomically, read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from symmd_md.errors import CheckpointError
from symmd_md.files import write_atomically

MAGIC = b"SYMMD CHECKPOINT\n"
FORMAT = 1
DIGEST_LENGTH = 64


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values; the previous file stays whole until the new one is."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT} | content, buffer)
    payload = buffer.getbuffer()
    digest = hashlib.sha256(payload).hexdigest().encode("ascii")
    write_atomically(path, b"".join((MAGIC, digest, b"\n", payload)))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, on the CPU; a missing, damaged or foreign file is refused."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {path} does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(
            f"{path} is a folder; name a checkpoint in it, such as {path}/best.ckpt"
        ) from None
    start = len(MAGIC) + DIGEST_LENGTH + 1
    if not content.startswith(MAGIC) or len(content) <= start:
        raise CheckpointError(
            f"{path} is not a SymMD checkpoint or is cut short; name a last.ckpt or best.ckpt"
        )
    digest = content[len(MAGIC) : start - 1]
    if hashlib.sha256(memoryview(content)[start:]).hexdigest().encode("ascii") != digest:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 does not match its content; use another one or train again"
        )
    try:
        loaded = torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        raise CheckpointError(
            f"{path} holds other things than tensors and plain values; use one that symmd train wrote"
        ) from None
    if not isinstance(loaded, dict) or loaded.get("format") != FORMAT:
        found = loaded.get("format") if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"{path} has format {found}, this version reads format {FORMAT}; use a matching version"
        )
    return loaded
