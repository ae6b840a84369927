"""The engine against the plain network in fp64, against finite differences, and between instruction sets."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import separated_points
from engine_cases import (
    NARROW_CELL,
    assert_identical,
    assert_same,
    benzyloxy_pyridine_amine,
    compute,
    crystal_of,
    engine_of,
    large_crystal,
    molecule_of,
    on_every_device,
    random_config,
    random_symbols,
    reference,
    structures_of_every_kind,
)
from kernel_cases import CASES
from model_cases import make_config, make_network
from symmd_md import _engine
from symmd_md.export import network_from_model_file, write_model_file
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork, layers


@on_every_device
@pytest.mark.parametrize("name", CASES)
def test_engine_equals_the_network(name: str) -> None:
    network = make_network(CASES[name])
    engine = engine_of(network)
    for kind, atoms in structures_of_every_kind(np.random.default_rng([1, len(name)])).items():
        try:
            assert_same(compute(engine, atoms), reference(network, atoms))
        except AssertionError as error:
            raise AssertionError(f"{kind}: {error}") from None


@on_every_device
@pytest.mark.parametrize("seed", range(24))
def test_engine_equals_a_random_network(seed: int) -> None:
    generator = np.random.default_rng([2, seed])
    network = make_network(random_config(generator), seed)
    engine = engine_of(network, skin=float(generator.uniform(0, 1.5)), threads=int(generator.integers(1, 4)))
    for atoms in (
        molecule_of(generator, int(generator.integers(2, 30))),
        crystal_of(generator, int(generator.integers(1, 5)), pbc=tuple(generator.random(3) < 0.6)),
    ):
        assert_same(compute(engine, atoms), reference(network, atoms))


@pytest.mark.parametrize("name", ["L2-h1", "layer-cutoffs", "convolution-square"])
def test_engine_equals_the_network_for_many_atoms(name: str, rng: np.random.Generator) -> None:
    config = dataclasses.replace(CASES[name], channels=16, heads=4)
    network = make_network(config)
    atoms = large_crystal(rng)
    assert len(atoms) > 512
    expected = reference(network, atoms)
    for threads in (1, 2):
        assert_same(compute(engine_of(network, threads=threads), atoms), expected)


@on_every_device
@pytest.mark.parametrize("seed", range(12))
def test_engine_equals_the_network_in_any_cell(seed: int) -> None:
    """Triclinic cells of either handedness, also thinner than the cutoff, with atoms anywhere."""
    generator = np.random.default_rng([3, seed])
    network = make_network(make_config(radial_knots=64), seed)
    engine = engine_of(network)
    for _ in range(4):
        lengths = generator.uniform(2.0, 7.0, 3)
        cell = np.diag(lengths) + 0.4 * lengths.min() * generator.uniform(-1, 1, (3, 3))
        if generator.random() < 0.5:
            cell = cell[::-1].copy()
        count = max(1, int(abs(np.linalg.det(cell)) / 20))
        atoms = crystal_of(generator, count, cell, tuple(generator.random(3) < 0.7), least=1.1)
        assert_same(compute(engine, atoms), reference(network, atoms))


@on_every_device
@pytest.mark.parametrize("name", ["L3-h2", "convolution", "one-layer", "linear-L1"])
def test_results_do_not_depend_on_what_else_is_asked(name: str, rng: np.random.Generator) -> None:
    engine = engine_of(make_network(CASES[name]))
    atoms = crystal_of(rng, 4)
    everything = compute(engine, atoms)
    arguments = (engine.species_of(atoms.numbers), atoms.positions, atoms.cell.array, atoms.pbc.tolist())
    energies = ("energy", "atom_energy")
    for wanted in ({}, {"forces"}, {"virial"}, {"atom_virial"}, {"forces", "atom_virial"}):
        asked = {name: name in wanted for name in ("forces", "virial", "atom_virial")}
        found = engine.compute(*arguments, **asked)
        assert_identical(found, {key: everything[key] for key in (*energies, *sorted(wanted))})


@on_every_device
def test_sums_of_atoms_are_the_totals(rng: np.random.Generator) -> None:
    found = compute(engine_of(make_network(CASES["L2-h2"])), crystal_of(rng, 4))
    assert found["energy"] == pytest.approx(found["atom_energy"].sum(), rel=1e-14)
    np.testing.assert_allclose(found["atom_virial"].sum(0), found["virial"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found["virial"], found["virial"].T)
    np.testing.assert_allclose(found["forces"].sum(0), 0, rtol=0, atol=1e-12)


@on_every_device
@pytest.mark.parametrize("name", ["L2-h1", "L3-h3", "convolution-square", "layer-cutoffs"])
def test_forces_are_the_slopes_of_the_energy(name: str, rng: np.random.Generator) -> None:
    # Without a skin each displaced structure has a list of its own.
    engine = engine_of(make_network(CASES[name]), skin=0)
    atoms = crystal_of(rng, 4)
    forces = compute(engine, atoms)["forces"]
    step = 1e-4
    slopes = np.zeros_like(forces)
    for index in np.ndindex(forces.shape):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[index] += sign * step
            slopes[index] -= sign * compute(engine, moved)["energy"] / (2 * step)
    np.testing.assert_allclose(forces, slopes, rtol=0, atol=2e-6 * np.abs(forces).max())


@on_every_device
@pytest.mark.parametrize("name", ["L2-h1", "L3-h3", "convolution-square", "layer-cutoffs"])
def test_virial_is_the_slope_of_the_energy_under_strain(name: str, rng: np.random.Generator) -> None:
    engine = engine_of(make_network(CASES[name]), skin=0)
    atoms = crystal_of(rng, 4)
    virial = compute(engine, atoms)["virial"]
    step = 1e-5
    slopes = np.zeros((3, 3))
    for index in np.ndindex(3, 3):
        for sign in (1, -1):
            strain = np.eye(3)
            strain[index] += sign * step
            strained = atoms.copy()
            strained.set_cell(atoms.cell.array @ strain.T)
            strained.positions = atoms.positions @ strain.T
            slopes[index] -= sign * compute(engine, strained)["energy"] / (2 * step)
    np.testing.assert_allclose(virial, slopes, rtol=0, atol=5e-6 * np.abs(virial).max())


ORGANIC = ModelConfig(species=("H", "C", "N", "O"))
"""The default network: 2 layers, L = 2, 64 channels, 8 heads, r_c = 5 Å, splines with 256 intervals."""
ORGANIC_STATISTICS = ModelStatistics(
    reference_energies={"H": -13.6, "C": -1029.4, "N": -1484.9, "O": -2042.0},
    energy_scale=1.0,
    mean_neighbours=17.0,
)


def organic_network(seed: int, dtype: torch.dtype) -> SymmdNetwork:
    """Fresh weights with larger queries, products and readouts, as if trained; forces of up to 1 eV/Å."""
    torch.manual_seed(seed)
    network = SymmdNetwork(ORGANIC, ORGANIC_STATISTICS).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "queries" in name:
                parameter.mul_(20)
            if "square" in name or "cube" in name:
                parameter.mul_(2)
            if "readout" in name:
                parameter.mul_(3)
    return network.to(dtype)


@on_every_device
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("written", [torch.float32, torch.float64])
def test_single_precision_is_good_enough_for_molecules(
    seed: int, written: torch.dtype, tmp_path: Path
) -> None:
    write_model_file(organic_network(seed, written), tmp_path / "model.safetensors", {"source": "a test"})
    engine = _engine.Engine(tmp_path / "model.safetensors", precision="float32", threads=1)
    network = network_from_model_file(tmp_path / "model.safetensors").double()
    generator = np.random.default_rng(seed)
    for away in (0.0, 1e4):
        atoms = benzyloxy_pyridine_amine()
        atoms.positions += 0.1 * generator.standard_normal(atoms.positions.shape) + away
        found, exact = compute(engine, atoms), reference(network, atoms)
        assert 0.5 < np.abs(exact["forces"]).max() < 5
        assert np.abs(found["forces"] - exact["forces"]).max() < 2e-5
        assert abs(found["energy"] - exact["energy"]) / len(atoms) < 1e-6


def use_the_radial_networks_themselves(network: SymmdNetwork, patch: pytest.MonkeyPatch) -> None:
    """Instead of their splines: a "table" is then the radial network, and reading it is running it."""

    def itself(radial: Callable[[Tensor], Tensor], distance: Tensor, cutoff: float) -> Tensor:
        return radial(distance)

    patch.setattr(layers, "evaluate_spline", itself)
    for layer in network.layers:
        patch.setattr(layer.radial, "table", lambda radial=layer.radial: radial)


@pytest.mark.parametrize("seed", range(3))
def test_splines_are_as_good_as_the_radial_networks(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = organic_network(seed, torch.float64)
    atoms = benzyloxy_pyridine_amine()
    found = compute(engine_of(network), atoms)
    use_the_radial_networks_themselves(network, monkeypatch)
    exact = reference(network, atoms)
    assert abs(found["energy"] - exact["energy"]) / len(atoms) < 1e-6
    assert np.abs(found["atom_energy"] - exact["atom_energy"]).max() < 1e-6
    assert np.abs(found["forces"] - exact["forces"]).max() < 1e-4


def test_splines_converge_with_the_fourth_power(monkeypatch: pytest.MonkeyPatch) -> None:
    """eq. 9: half the interval, a sixteenth of the error."""
    atoms = benzyloxy_pyridine_amine()
    errors = []
    for knots in (64, 128, 256):
        torch.manual_seed(1)
        config = dataclasses.replace(ORGANIC, radial_knots=knots)
        network = SymmdNetwork(config, ORGANIC_STATISTICS).double()
        found = compute(engine_of(network), atoms)
        with monkeypatch.context() as patch:
            use_the_radial_networks_themselves(network, patch)
            exact = reference(network, atoms)
        errors.append(np.abs(found["atom_energy"] - exact["atom_energy"]).max())
    assert errors[0] / errors[1] > 8
    assert errors[1] / errors[2] > 8


@pytest.fixture(scope="module")
def results_by_instruction_set(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What each set that this machine has gives for the same models and structures."""
    folder = tmp_path_factory.mktemp("instruction_sets")
    generator = np.random.default_rng(5)
    structures = {
        "molecule": molecule_of(generator, 13),
        "crystal": crystal_of(generator, 4, NARROW_CELL, (True, True, False)),
    }
    models = []
    for name in (
        "L0",
        "L1-h1",
        "L2-h1",
        "L3-h3",
        "48-channels-24-heads",
        "convolution-square",
        "layer-cutoffs",
    ):
        models.append(f"{name}.safetensors")
        write_model_file(make_network(CASES[name]), folder / models[-1], {"source": "a test"})
    arrays: dict[str, object] = {"models": models, "names": list(structures)}
    for name, atoms in structures.items():
        parts = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array}
        arrays |= {f"{name}.{part}": value for part, value in (parts | {"pbc": atoms.pbc}).items()}
    np.savez(folder / "structures.npz", **arrays)
    found = {}
    for instruction_set in ("baseline", "avx2", "avx512"):
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("engine_child.py")), str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "SYMMD_INSTRUCTION_SET": instruction_set, "OMP_NUM_THREADS": "1"},
        )
        if done.returncode:
            assert "which this processor or this build does not have" in done.stderr, done.stderr
            continue
        printed = json.loads(done.stdout)
        assert printed["instruction_set"] == instruction_set
        found[instruction_set] = printed["results"]
    return found


@pytest.mark.parametrize("instruction_set", ["avx2", "avx512"])
def test_instruction_sets_agree(
    instruction_set: str, results_by_instruction_set: dict[str, dict[str, dict[str, object]]]
) -> None:
    if instruction_set not in results_by_instruction_set:
        pytest.skip(f"this processor or this build has no {instruction_set}")
    expected, found = (results_by_instruction_set[name] for name in ("baseline", instruction_set))
    assert expected.keys() == found.keys()
    for name, results in expected.items():
        assert_same(found[name], results, 1e-11 if name.startswith("float64") else 1e-5)


def test_baseline_equals_the_network(
    results_by_instruction_set: dict[str, dict[str, dict[str, object]]],
) -> None:
    network = make_network(CASES["L2-h1"])
    atoms = molecule_of(np.random.default_rng(5), 13)
    found = results_by_instruction_set["baseline"]["float64 L2-h1.safetensors molecule"]
    assert_same(found, reference(network, atoms))


@on_every_device
def test_empty_structures_have_no_energy() -> None:
    engine = engine_of(make_network(make_config()))
    for pbc in (False, True):
        found = compute(engine, ase.Atoms(cell=np.eye(3) * 4, pbc=pbc))
        assert found["energy"] == 0
        assert found["forces"].shape == (0, 3)
        assert found["atom_virial"].shape == (0, 3, 3)
        np.testing.assert_array_equal(found["virial"], np.zeros((3, 3)))


@on_every_device
def test_a_wide_spread_of_points_is_no_trouble(rng: np.random.Generator) -> None:
    """Clusters some kilometres apart: the list must not need memory for what lies between them."""
    network = make_network(make_config())
    engine = engine_of(network)
    atoms = molecule_of(rng, 8)
    alone = compute(engine, atoms)
    others = ase.Atoms(
        random_symbols(rng, 6), positions=separated_points(rng, 6, np.eye(3) * 4, False, 1.0) + 2.0**22
    )
    both = compute(engine, atoms + others)
    np.testing.assert_allclose(both["atom_energy"][:8], alone["atom_energy"], rtol=0, atol=1e-12)
