"""The frames of several files as one sequence: stores stay on disk, other files are in memory."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from symmd_md.data.frame import Frame
from symmd_md.data.keys import LabelKeys
from symmd_md.data.reading import is_store, iterate_frames, source_files
from symmd_md.data.store import FrameStore
from symmd_md.errors import DataError


class FrameCollection(Sequence[Frame]):
    """Frames of ``paths`` one after the other; stores stay on disk, other files are read at once."""

    def __init__(self, paths: Sequence[Path], keys: LabelKeys | None = None) -> None:
        if not paths:
            raise DataError("expected at least one structure file, found an empty list; set 'data.train'")
        self.paths = tuple(Path(path) for path in paths)
        self.parts: list[Sequence[Frame]] = [
            FrameStore(path) if is_store(path) else list(iterate_frames(path, keys)) for path in self.paths
        ]
        self._first = np.cumsum([0, *(len(part) for part in self.parts)]).tolist()

    def __len__(self) -> int:
        return int(self._first[-1])

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...

    def __getitem__(self, index: int | slice) -> Frame | list[Frame]:
        if isinstance(index, slice):
            return [self[item] for item in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"frame {index} of a collection of {len(self)}")
        index %= len(self)
        part = bisect.bisect_right(self._first, index) - 1
        return self.parts[part][index - self._first[part]]

    def __iter__(self) -> Iterator[Frame]:
        return (frame for part in self.parts for frame in part)

    @property
    def on_disk(self) -> bool:
        """Whether any part is read from disk frame by frame."""
        return any(isinstance(part, FrameStore) for part in self.parts)

    def isolated_atoms(self) -> NDArray[np.int64]:
        """Indices of the frames that are one isolated atom."""
        counts = np.concatenate(
            [
                part.atom_counts
                if isinstance(part, FrameStore)
                else np.array([frame.atom_count for frame in part])
                for part in self.parts
            ]
        )
        single = np.flatnonzero(counts == 1)
        return np.array([index for index in single if self[int(index)].is_isolated_atom], dtype=np.int64)

    def digests(self) -> list[str]:
        """SHA-256 of each path: of a store's frames as they were written, else of the files' contents."""
        return [
            part.sha256 if isinstance(part, FrameStore) else _digest(path)
            for path, part in zip(self.paths, self.parts, strict=True)
        ]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in source_files(path):
        if path.is_dir():
            digest.update(file.name.encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
