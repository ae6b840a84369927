"""``symmd bench`` on a tiny model: its table, its JSON, the structures that it makes, and how it fails."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.data import chemical_symbols

from model_cases import make_config, make_network
from symmd_md import cli
from symmd_md.analysis import bench
from symmd_md.analysis.bench_structures import (
    CONTACT,
    Structure,
    alanine_dipeptide,
    species_of,
    structure_of,
    water_box,
)
from symmd_md.data.neighbours import neighbour_list
from symmd_md.export import write_model_file

SIDES = ["engine", "new list", "torch eager", "TorchScript"]
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that does not know nitrogen."""
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    write_model_file(make_network(make_config()), path, {"weights": "random"})
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of ``symmd bench`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["symmd", "bench", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_table_and_json_have_every_side_with_units(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    target = tmp_path / "bench.json"
    options = ("--atoms", "22,12", "--threads", "1", "--seconds", "0", "--json", target)
    assert run(monkeypatch, model, *options) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    for text in ("median", "fastest", "per atom", "faster", "speed-up", "(ms)", "(µs)", "(×)", *SIDES):
        assert text in printed
    for text in ("alanine dipeptide", "22 atoms", "liquid water", "12 atoms", "1 thread", "written: "):
        assert text in printed
    assert "no N in the model: C stands for it" in printed

    found = json.loads(target.read_text(encoding="utf-8"))
    assert [row["side"] for row in found["rows"]] == 2 * SIDES
    assert [row["atoms"] for row in found["rows"]] == 4 * [22] + 4 * [12]
    for row in found["rows"]:
        assert 0 < row["minimum_ms"] <= row["median_ms"]
        assert row["per_atom_us"] == pytest.approx(1e3 * row["median_ms"] / row["atoms"])
        assert row["steps"] >= bench.FEWEST_ROUNDS
        assert row["neighbours"] > 0
        assert row["times_engine"] == 1 or row["side"] != "engine"
        assert row["speedup"] == 1
    assert found["largest_force_difference"] < 1e-3
    assert found["replaced"] == {"N": "C"}
    assert len(found["sha256"]) == 64


def test_threads_are_compared_with_the_fewest(model: Path) -> None:
    rows = bench.measure(model, [9], [2, 1], 0.0).rows
    assert [row.threads for row in rows] == 4 * [1] + 4 * [2]
    for single, double in zip(rows[:4], rows[4:], strict=True):
        assert single.side == double.side
        assert double.speedup == pytest.approx(single.median_ms / double.median_ms)


def test_torch_is_left_out_where_memory_does_not_suffice(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "available_memory", lambda: 1.0)
    found = bench.measure(model, [9], [1], 0.0)
    assert [row.side for row in found.rows] == SIDES[:2]
    assert "memory" in found.left_out[0]
    assert "9 atoms in torch" in found.left_out[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--atoms", "x"), "--atoms takes positive whole numbers separated by commas, found 'x'"),
        (("--atoms", "22,"), "found '22,'"),
        (("--atoms", "2"), "3 to 1,000,000 atoms, found 2"),
        (("--atoms", "10000000"), "found 10000000"),
        (("--threads", "0"), "--threads takes positive whole numbers"),
        (("--threads", "100000"), "at most 256, found 100000"),
    ],
)
def test_wrong_options_are_one_sentence(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, str],
    message: str,
) -> None:
    assert run(monkeypatch, model, *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_missing_or_no_model_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "absent.pt") == 2
    assert "absent.pt" in capsys.readouterr().err
    other = tmp_path / "other.pt"
    other.write_text("no model")
    assert run(monkeypatch, other) == 2
    assert "other.pt" in capsys.readouterr().err


@pytest.mark.parametrize("atoms", [12, 22])
def test_a_moving_structure_has_its_list_built_each_step(model: Path, atoms: int) -> None:
    structure = structure_of(atoms)
    species, _ = species_of(structure, ("H", "C", "O"))
    staying = bench.EngineStep(model, structure, species, 1)
    moving = bench.EngineStep(model, structure, species, 1, moves=True)
    for step in (staying, moving):
        for _ in range(4):
            step()
    assert (staying.engine.list_builds, moving.engine.list_builds) == (1, 4)
    np.testing.assert_allclose(moving.forces, -staying.forces, atol=1e-4)


def test_the_molecule_is_alanine_dipeptide() -> None:
    molecule = alanine_dipeptide()
    assert Counter(chemical_symbols[n] for n in molecule.numbers) == {"C": 6, "H": 12, "N": 2, "O": 2}
    distance = distances(molecule)
    bonded = distance < 1.6
    # A tree of bonds, each atom with its valence, and nothing else that is close.
    assert bonded.sum() == 2 * 21
    valence = {6: (3, 4), 1: (1,), 7: (3,), 8: (1,)}
    for number, count in zip(molecule.numbers, bonded.sum(axis=1), strict=True):
        assert count in valence[int(number)]
    assert distance[~bonded].min() > 1.7
    assert distance.min() > 1.0


def distances(structure: Structure) -> np.ndarray:
    """[N, N] Å without images, the diagonal infinite."""
    difference = structure.positions[:, None] - structure.positions[None]
    found = np.linalg.norm(difference, axis=-1)
    np.fill_diagonal(found, np.inf)
    return found


@pytest.mark.parametrize("molecules", [1, 4, 33, 64])
def test_water_has_its_density_and_no_contacts(molecules: int) -> None:
    box = water_box(molecules)
    assert box.atoms == 3 * molecules
    assert box.cell is not None
    grams = molecules * 18.015 * 1.66053907e-24
    assert grams / (np.linalg.det(box.cell) * 1e-24) == pytest.approx(0.997, rel=1e-4)
    receiver, sender, _ = neighbour_list(box.positions, box.cell, np.array(box.periodic), CONTACT)
    assert (receiver // 3 == sender // 3).all()
    # In each molecule O-H twice and H-H, in both directions.
    assert len(receiver) == 6 * molecules
    np.testing.assert_array_equal(water_box(molecules).positions, box.positions)


def test_atoms_that_make_no_whole_molecules_are_left_away() -> None:
    assert structure_of(100).atoms == 99


def test_unknown_elements_are_replaced_by_near_ones() -> None:
    species, replaced = species_of(alanine_dipeptide(), ("Si", "Be"))
    assert replaced == {"H": "Be", "C": "Be", "N": "Be", "O": "Be"}
    assert set(species) == {1}
    species, replaced = species_of(alanine_dipeptide(), ("O", "N", "C", "H"))
    assert replaced == {}
    assert species[:3].tolist() == [2, 2, 0]


def benchmark_module(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A file of benchmarks/engine."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "engine"))
    return __import__(name)


@pytest.mark.parametrize(
    ("instruction", "flops"),
    [
        ("vfmadd231ps 0x2c8(%rsp),%zmm6,%zmm0", 32),
        ("vfnmadd132ss %xmm6,%xmm0,%xmm3", 2),
        ("vmulps 0x8c(%rsi){1to16},%zmm29,%zmm21", 16),
        ("vaddpd %ymm1,%ymm2,%ymm3", 4),
        ("mulps  %xmm1,%xmm0", 4),
        ("vdivss %xmm1,%xmm0,%xmm0", 1),
        ("vmovaps %zmm5,0x548(%rsp)", 0),
        ("vpaddd %zmm1,%zmm2,%zmm3", 0),
        ("add    $0x40,%rax", 0),
    ],
)
def test_operations_of_an_instruction(monkeypatch: pytest.MonkeyPatch, instruction: str, flops: int) -> None:
    assert benchmark_module(monkeypatch, "driver").instruction_flops(instruction) == flops


def test_operations_of_a_step_cover_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    step_flops = benchmark_module(monkeypatch, "flops").step_flops
    found = step_flops(make_config(), 20.0, 3)
    kernels = [f"layer {layer} {kernel}" for layer in (1, 2) for kernel in ("edges", "products")]
    parts = [f"{kernel}, {way}" for kernel in kernels for way in ("forward", "backward")]
    assert set(found) == {*parts, "channel mixing", "readout"}
    assert min(found.values()) > 0
    assert "layer 1 products, forward" not in step_flops(make_config(body_order=1), 20.0, 3)
