"""The HDF5 store: streamed in, read by index, and refused when damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from symmd_md.data import (
    Frame,
    FrameCollection,
    FrameStore,
    checked_frame,
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


def atom(name: str, value: object) -> Callable[[h5py.File], None]:
    """A damage to one value of atom 2, which is the second atom of frame 1."""

    def change(file: h5py.File) -> None:
        rows = file["atoms"][:]
        rows[name][2] = value
        file["atoms"][:] = rows

    return change


def record(name: str, value: object) -> Callable[[h5py.File], None]:
    """A damage to one value of frame 1."""

    def change(file: h5py.File) -> None:
        rows = file["frames"][:]
        rows[name][1] = value
        file["frames"][:] = rows

    return change


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (atom("number", 0), "expected atomic numbers from 1 to 118, found 0"),
        (atom("number", 119), "expected atomic numbers from 1 to 118, found 119"),
        (atom("position", np.nan), "expected finite positions, found NaN or infinity at atom 1"),
        (atom("force", np.inf), "expected finite forces, found NaN or infinity at atom 1"),
        (record("energy", np.inf), "expected finite energy, found NaN or infinity"),
        (record("stress", [[0, 0, 0], [0, np.nan, 0], [0, 0, 0]]), "expected finite stress"),
        (record("pbc", 1), "expected a cell at least 0.5 Å thick"),
        (record("first_atom", 10**9), "truncated or damaged file"),
        (record("first_atom", -1), "truncated or damaged file"),
        (
            lambda file: file["atoms"].resize(2, axis=0),
            "found a truncated or damaged file .atoms 1 to 3 of 2",
        ),
        (lambda file: file["sources"].resize(1, axis=0), "truncated or damaged file"),
    ],
)
def test_damaged_values_name_the_store_and_the_frame(
    tmp_path: Path, damage: Callable[[h5py.File], None], found: str
) -> None:
    path = tmp_path / "set.h5"
    write_store([frame(4), frame(1), frame(7)], path)  # 1, 2 and 4 atoms; the second and third are open
    with h5py.File(path, "r+") as file:
        damage(file)
    with pytest.raises(DataError, match=rf"set\.h5, frame [01]\b.*: .*{found}"):
        list(FrameStore(path))


def test_foreign_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.h5"
    write_store([frame(1)], path)
    with h5py.File(path, "r+") as file:
        del file["atoms"]
        file["atoms"] = np.zeros(2)
    with pytest.raises(DataError, match=r"set\.h5, frame 0: expected a whole store, found a truncated"):
        FrameStore(path)[0]
    with h5py.File(path, "r+") as file:
        del file["frames"]
        file["frames"] = np.zeros(2)
    with pytest.raises(DataError, match=r"set\.h5, frame 0: expected a store written by 'convert'"):
        FrameStore(path)
