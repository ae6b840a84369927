"""The HDF5 store: streamed in, read by index, by several workers, and refused when damaged."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from symmd_md.data import (
    Frame,
    FrameCollection,
    FrameStore,
    GraphDataset,
    checked_frame,
    collate,
    convert,
    read_frames,
    write_store,
)
from symmd_md.errors import DataError


def frame(index: int) -> Frame:
    """A frame whose size and labels vary with ``index``."""
    generator = np.random.default_rng(index)
    count = 1 + index % 4
    periodic = index % 2 == 0
    return checked_frame(
        numbers=generator.choice([1, 8], size=count),
        positions=np.arange(count)[:, None] + 0.3 * generator.random((count, 3)),
        cell=8 * np.eye(3),
        pbc=[periodic, periodic, False],
        energy=None if index % 5 == 0 else float(index),
        forces=None if index % 3 == 0 else generator.normal(size=(count, 3)),
        stress=np.eye(3) * index if periodic and index % 4 else None,
        source=f"made, frame {index}",
    )


def assert_same(found: Frame, expected: Frame) -> None:
    for name in ("numbers", "positions", "cell", "pbc"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype
    assert found.energy == expected.energy
    for name in ("forces", "stress"):
        value, wanted = getattr(found, name), getattr(expected, name)
        assert (value is None) == (wanted is None)
        if wanted is not None:
            np.testing.assert_array_equal(value, wanted)


def test_store_gives_back_what_was_streamed_into_it(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    assert write_store((frame(index) for index in range(600)), path) == 600
    store = FrameStore(path)
    assert len(store) == 600
    for index in (0, 1, 255, 256, 511, 599):
        assert_same(store[index], frame(index))
    assert_same(store[-1], frame(599))
    assert [found.energy for found in store[2:4]] == [2.0, 3.0]
    np.testing.assert_array_equal(store.atom_counts, [1 + index % 4 for index in range(600)])
    assert store[7].source == f"{path}, frame 7 (from made, frame 7)"
    assert len(read_frames(path)) == 600
    with pytest.raises(IndexError):
        store[600]


def test_convert_streams_any_file_with_its_keys(tmp_path: Path) -> None:
    source = tmp_path / "set.xyz"
    source.write_text("".join(f"1\nProperties=species:S:1:pos:R:3 dft={k}\nHe 0 0 {k}\n" for k in range(3)))
    target = tmp_path / "folder" / "set.hdf5"
    assert convert(source, target, energy_key="dft") == 3
    assert [found.energy for found in FrameStore(target)] == [0.0, 1.0, 2.0]
    with pytest.raises(DataError, match=r"to end in \.h5 or \.hdf5, found 'set\.lmdb'"):
        convert(source, tmp_path / "set.lmdb")


def test_several_workers_read_one_store(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_store(map(frame, range(12)), path)
    dataset = GraphDataset(FrameStore(path), ("H", "O"), 3.0, cache_bytes=0)
    expected = collate([dataset[index] for index in range(12)])  # opens the file in this process first
    loader = DataLoader(dataset, batch_size=3, num_workers=2, collate_fn=collate)
    found = collate(list(loader))
    assert torch.equal(found.positions, expected.positions)
    assert torch.equal(found.edge_sender, expected.edge_sender)
    torch.testing.assert_close(found.forces, expected.forces, equal_nan=True)


def test_pickled_store_opens_its_file_again(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_store(map(frame, range(3)), path)
    store = FrameStore(path)
    assert_same(pickle.loads(pickle.dumps(store))[2], frame(2))


def test_collection_joins_stores_and_files(tmp_path: Path) -> None:
    store, text = tmp_path / "set.h5", tmp_path / "set.xyz"
    write_store([frame(1), frame(2)], store)
    text.write_text("1\nenergy=5\nHe 0 0 0\n2\nenergy=6\nH 0 0 0\nH 0 0 1\n")
    frames = FrameCollection([text, store])
    assert frames.on_disk
    assert len(frames) == 4
    assert [found.energy for found in frames] == [5.0, 6.0, 1.0, 2.0]
    assert frames[-1].energy == 2.0
    assert [found.energy for found in frames[1:3]] == [6.0, 1.0]
    assert frames.isolated_atoms().tolist() == [0]
    first, second = frames.digests()
    assert len(first) == len(second) == 64
    with pytest.raises(IndexError):
        frames[4]
    with pytest.raises(DataError, match="found an empty list"):
        FrameCollection([])


def test_failed_conversion_leaves_the_old_store_and_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_store([frame(1)], path)
    before = path.read_bytes()

    def frames() -> Iterator[Frame]:
        yield frame(2)
        raise DataError("source broke")

    with pytest.raises(DataError, match="source broke"):
        write_store(frames(), path)
    with pytest.raises(DataError, match=r"set\.h5, frame 0: expected at least one structure to store"):
        write_store([], path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_digest_depends_on_the_content_only(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.h5", "b.h5", "c.h5")]
    for path, first in zip(paths, (1, 1, 2), strict=True):
        write_store([frame(first), frame(3)], path)
    a, b, c = (FrameStore(path).sha256 for path in paths)
    assert a == b != c


def test_damaged_missing_and_foreign_stores_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_store(map(frame, range(300)), path)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"cut\.h5, frame 0: expected an HDF5 store, found a truncated"):
        FrameStore(cut)
    with pytest.raises(DataError, match=r"none\.h5, frame 0: expected a store, found nothing"):
        FrameStore(tmp_path / "none.h5")
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["data"] = np.zeros(3)
    with pytest.raises(DataError, match=r"foreign\.h5, frame 0: expected a store written by 'convert'"):
        FrameStore(foreign)
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(DataError, match=r"set\.h5, frame 0: expected a store of version 1, found version 99"):
        FrameStore(path)
