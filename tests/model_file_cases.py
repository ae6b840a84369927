"""Model files put together by hand, as docs/model_file.md says, so that they can be wrong."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from model_cases import make_config, make_network
from symmd_md import _engine
from symmd_md.errors import ModelFileError
from symmd_md.export import model_file_bytes

SMALL = make_config(radial_knots=16, layers=2, hidden_degree=1, max_degree=1)
PROVENANCE = {"data": "made up", "note": "Å 🧪", "epochs": 3, "nested": {"list": [1.5, None, True]}}
ENTRY = "model/extra/symmd.safetensors"
LARGE = 0xFFFFFFFF
"""A zip field that says: look into the zip64 record."""
ADVICE = (
    "copy or export it again|export it again|export the model again|export an earlier checkpoint|"
    "update SymMD|name a file that symmd export wrote|make a model of it with symmd export"
)


def read(content: bytes) -> dict[str, Any]:
    """Summary of a file's content."""
    return _engine.model_file_summary(content, "x.pt")


def assert_refused(content: bytes, reason: str) -> None:
    """In one line that names the file, says why (a regular expression) and ends with what to do."""
    with pytest.raises(ModelFileError) as caught:
        read(content)
    message = str(caught.value)
    assert re.fullmatch(f"cannot use model file x.pt: {reason}[;:] ([^;]*; )?({ADVICE})", message), message


@dataclass
class Parts:
    """Everything a container consists of; tests change what they like before ``built`` puts it together."""

    header: Any
    """The model's header: an object for JSON, or its text."""
    tensors: dict[str, np.ndarray]
    metadata: dict[str, Any] = field(default_factory=dict)
    """Replaces entries of ``__metadata__``; None removes one."""
    tail: bytes = b""
    """Follows the last tensor."""

    def built(self) -> bytes:
        """The file, with the SHA-256 that its content asks for."""
        text = self.header if isinstance(self.header, str) else json.dumps(self.header)
        entries: dict[str, Any] = {}
        data = b""
        digest = hashlib.sha256(f"symmd 1\nheader {len(text.encode())}\n{text}".encode())
        for name, array in sorted(self.tensors.items()):
            dtype = {"f4": "F32", "f8": "F64"}[array.dtype.str[1:]]
            digest.update(f"\n{name} {dtype} {','.join(str(size) for size in array.shape)}\n".encode())
            digest.update(array.tobytes())
            entries[name] = {
                "dtype": dtype,
                "shape": list(array.shape),
                "data_offsets": [len(data), len(data) + array.nbytes],
            }
            data += array.tobytes()
        metadata = {"format": "symmd", "format_version": "1", "header": text, "sha256": digest.hexdigest()}
        metadata = {key: value for key, value in (metadata | self.metadata).items() if value is not None}
        return with_header(json.dumps({"__metadata__": metadata} | entries), data + self.tail)


@functools.cache
def _small_parts() -> Parts:
    content = model_file_bytes(make_network(SMALL), PROVENANCE)
    return Parts(header=read(content)["header"], tensors=safetensors.numpy.load(content))


def small_parts() -> Parts:
    """A valid model in pieces that may be changed."""
    return copy.deepcopy(_small_parts())


def with_header(text: str | bytes, data: bytes = b"") -> bytes:
    """A container with this text as its header."""
    content = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(content)) + content + data


@dataclass
class Archive:
    """A zip archive with one stored entry; each field is what the archive says, right or wrong."""

    content: bytes
    name: str = ENTRY
    local_name: str = ENTRY
    method: int = 0
    flags: int = 0
    size: int | None = None
    position: int | None = None
    copies: int = 1
    entries: int | None = None
    directory: int | None = None
    """Position of the central directory."""
    disk: int = 0
    wide: bool = False
    """Sizes, positions and counts in zip64 records."""
    comment: bytes = b""

    def built(self) -> bytes:
        """The bytes of the archive."""
        check, size = zlib.crc32(self.content), len(self.content) if self.size is None else self.size
        name, local_name = self.name.encode(), self.local_name.encode()
        local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 45, self.flags, self.method, 0, 0, check,
                            size & LARGE, size & LARGE, len(local_name), 4)  # fmt: skip
        local += local_name + struct.pack("<HH", 0x4246, 0) + self.content
        position = self.position or 0
        written = [size, size, position]
        extra = struct.pack("<HHH", 0x4246, 2, 7)
        if self.wide:
            extra += struct.pack("<HHQQQ", 1, 24, *written)
            written = [LARGE] * 3
        central = struct.pack("<IHHHHHHI", 0x02014B50, 45, 45, self.flags, self.method, 0, 0, check)
        central += struct.pack("<IIHHHHHII", *written[:2], len(name), len(extra), 0, 0, 0, 0, written[2])
        directory = (central + name + extra) * self.copies
        entries = self.copies if self.entries is None else self.entries
        start = len(local) if self.directory is None else self.directory
        end64 = b""
        if self.wide:
            end64 = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, self.disk, self.disk, entries, entries,
                                len(directory), start)  # fmt: skip
            end64 += struct.pack("<IIQI", 0x07064B50, 0, len(local) + len(directory), 1)
        end = struct.pack("<IHHHHIIH", 0x06054B50, self.disk, self.disk, 0xFFFF if self.wide else entries,
                          0xFFFF if self.wide else entries, len(directory), LARGE if self.wide else start,
                          len(self.comment))  # fmt: skip
        return local + directory + end64 + end + self.comment
