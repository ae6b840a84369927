"""Engines on a device: how one is named and refused, and that each front end takes one (docs/cuda.md)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import numpy as np
import pytest

import device_cases
import lammps_cases
from device_cases import LIBRARY_VARIABLE, is_emulated, needs_device
from engine_cases import assert_identical, assert_same, compute, crystal_of, engine_of, large_crystal
from kernel_cases import CASES
from model_cases import SPECIES, make_config, make_network
from symmd_md import _engine
from symmd_md.engines.ase import SymmdCalculator
from symmd_md.errors import EngineError
from symmd_md.export import write_model_file
from symmd_md.model import SymmdNetwork

Rng = np.random.Generator


@pytest.fixture(scope="module")
def network() -> SymmdNetwork:
    return make_network(make_config(layers=2, radial_knots=64))


@pytest.fixture
def model(network: SymmdNetwork, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    write_model_file(network, path, {})
    return path


def refusal(make: Callable[[], object]) -> str:
    """The message of an EngineError, which is one line."""
    with pytest.raises(EngineError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is refused


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:1a", "cuda:99999", "CUDA", "", "cuda 0"])
def test_unknown_devices_are_refused(name: str, network: SymmdNetwork) -> None:
    message = refusal(lambda: engine_of(network, device=name))
    assert message == f"the device must be cpu, cuda or cuda:K with K counted from 0, found '{name}'"


def test_without_the_library_the_message_says_how_to_get_one(
    network: SymmdNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "libsymmd_cuda.so"
    monkeypatch.setenv(LIBRARY_VARIABLE, str(missing))
    for make in (lambda: engine_of(network, device="cuda"), _engine.device_count):
        message = refusal(make)
        assert str(missing) in message
        assert "install SymMD from its sources where nvcc of CUDA is found" in message
    assert compute(engine_of(network), ase.Atoms("H", positions=[[0, 0, 0]]))["forces"].shape == (1, 3)


def test_what_is_no_library_is_refused(
    network: SymmdNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "libsymmd_cuda.so"
    text.write_text("not a library")
    monkeypatch.setenv(LIBRARY_VARIABLE, str(text))
    message = refusal(lambda: engine_of(network, device="cuda"))
    assert f"the library of devices {text} does not load" in message


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("int nothing;", "found one that is none of SymMD"),
        (
            "static const char* library = {version};\n"
            "const void* symmd_device_library(void) {{ return &library; }}",
            "found symmd-device-0; install SymMD anew",
        ),
    ],
)
def test_libraries_of_another_build_are_refused(
    source: str, found: str, network: SymmdNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    (tmp_path / "other.c").write_text(source.format(version='"symmd-device-0"'))
    library = tmp_path / "libsymmd_cuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "other.c")], check=True)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(library))
    assert found in refusal(lambda: engine_of(network, device="cuda"))


@needs_device
def test_a_device_that_is_not_there(network: SymmdNetwork) -> None:
    message = refusal(lambda: engine_of(network, device="cuda:99"))
    count = _engine.device_count()
    assert message.startswith(f"device cuda:99 must be one of the {count} that are here, cuda:0")


# What holds on a device beside what tests/test_engine_*.py say


@needs_device
def test_an_engine_says_where_it_computes(network: SymmdNetwork) -> None:
    assert engine_of(network).device == "cpu"
    engine = engine_of(network, device="cuda")
    assert engine.device == "cuda"
    engine.threads = 7  # without effect there
    assert engine.threads == 7


@needs_device
def test_devices_do_not_see_each_other(network: SymmdNetwork, rng: Rng) -> None:
    devices = [f"cuda:{number}" for number in range(_engine.device_count())]
    if len(devices) == 1:
        pytest.skip("there is one GPU")
    structures = [crystal_of(rng, 4), crystal_of(rng, 3)]
    expected = [compute(engine_of(network), atoms) for atoms in structures]
    engines = [engine_of(network, device=device) for device in devices]
    for _ in range(2):
        for engine in engines:
            for atoms, results in zip(structures, expected, strict=True):
                assert_same(compute(engine, atoms), results)


@needs_device
def test_the_same_bits_on_a_device_whatever_came_before(network: SymmdNetwork, rng: Rng) -> None:
    atoms = large_crystal(rng, 3, spacing=2.2)
    options = {"device": "cuda", "precision": "float32", "deterministic": True}
    expected = compute(engine_of(network, **options), atoms)
    engine = engine_of(network, **options)
    moved = atoms.copy()
    moved.positions += 0.02 * rng.standard_normal(moved.positions.shape)
    for other in (moved, crystal_of(rng, 4), atoms, moved):
        compute(engine, other)
    assert_identical(compute(engine, atoms), expected)


@needs_device
def test_a_list_is_kept_on_a_device(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network, device="cuda", skin=1.0)
    atoms = crystal_of(rng, 4)
    for step in range(6):
        atoms.positions += 0.02 * rng.standard_normal(atoms.positions.shape)
        expected = compute(engine_of(network), atoms)
        assert_same(compute(engine, atoms), expected)
        if step == 2:
            settled = engine.memory_bytes
    assert engine.list_builds == 1
    assert engine.memory_bytes == settled > 0


@needs_device
def test_many_atoms_on_a_device_are_computed_in_another_order_and_named_in_theirs(rng: Rng) -> None:
    """More than 512, which the engine arranges in space before they go to the device."""
    network = make_network(
        make_config(layers=1, max_degree=1, channels=16, heads=2, cutoff=2.6, radial_knots=64)
    )
    atoms = large_crystal(rng, 9)
    engine = engine_of(network, device="cuda")
    expected = compute(engine_of(network), atoms)
    assert_same(compute(engine, atoms), expected)
    bad = atoms.copy()
    bad.positions[700] = bad.positions[3] + 1e-8
    message = refusal(lambda: compute(engine, bad))
    assert "atoms 4 and 701 coinciding" in message
    bad.positions[700, 1] = np.nan
    assert "701" in refusal(lambda: compute(engine, bad))
    assert_same(compute(engine, atoms), expected)


@needs_device
def test_species_and_coordinates_are_refused_by_name(network: SymmdNetwork, rng: Rng) -> None:
    engine = engine_of(network, device="cuda")
    atoms = crystal_of(rng, 4)
    expected = compute(engine, atoms)
    species = np.array([0, 1, len(SPECIES), 1])
    cell, pbc = atoms.cell.array, [True] * 3
    assert "species of atom 3 must be an index from 0 to 2, found 3" in refusal(
        lambda: engine.compute(species, atoms.positions, cell, pbc)
    )
    for value in (np.nan, np.inf, 1e300):
        bad = atoms.copy()
        bad.positions[2, 0] = value
        assert "atom 3" in refusal(lambda bad=bad: compute(engine, bad))
    assert_identical(compute(engine, atoms), expected)


@needs_device
@pytest.mark.skipif(not is_emulated(), reason="the memory of a GPU cannot be made small")
def test_little_memory_is_enough_in_chunks_and_less_is_refused(model: Path, rng: Rng, tmp_path: Path) -> None:
    atoms = large_crystal(rng, 6)
    expected = compute(_engine.Engine(model, precision="float64"), atoms)
    np.savez(tmp_path / "atoms.npz", numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array)
    script = (
        "import sys, json, numpy as np\n"
        "from symmd_md._engine import Engine\n"
        "atoms = np.load('atoms.npz')\n"
        "engine = Engine('model.safetensors', precision='float64', device='cuda')\n"
        "species = engine.species_of(atoms['numbers'])\n"
        "found = engine.compute(species, atoms['positions'], atoms['cell'], [True] * 3)\n"
        "print(json.dumps([found['energy'], found['forces'].tolist()]))\n"
    )

    def with_megabytes(count: int) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SYMMD_EMULATOR_MEGABYTES": str(count)}
        return subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    plan = _engine.device_memory_plan(model, len(atoms), 60.0, precision="float64")
    assert 0 < plan["chunk_bytes"] < plan["whole_bytes"]
    assert plan["chunk_bytes"] < 3e6 < plan["whole_bytes"]
    done = with_megabytes(3)
    assert done.returncode == 0, done.stderr
    energy, forces = json.loads(done.stdout)
    assert energy == pytest.approx(expected["energy"], rel=1e-10)
    np.testing.assert_allclose(forces, expected["forces"], rtol=0, atol=1e-9)
    done = with_megabytes(1)
    assert done.returncode != 0
    assert "the device cuda:0 has too little memory for 216 atoms" in done.stderr


# Front ends


@needs_device
def test_the_ase_calculator_computes_on_a_device(model: Path, rng: Rng) -> None:
    atoms = crystal_of(rng, 4)
    expected = SymmdCalculator(model, precision="float64")
    on_device = SymmdCalculator(model, precision="float64", device="cuda")
    for calculator in (expected, on_device):
        calculator.calculate(atoms, ["energy", "forces", "stress"])
    assert on_device.engine.device == "cuda"
    for name in ("energy", "energies", "forces", "stress"):
        np.testing.assert_allclose(on_device.results[name], expected.results[name], rtol=1e-10, atol=1e-12)
    expected.set(device="cuda")
    assert expected.engine.device == "cuda"


@needs_device
@pytest.mark.skipif(bool(lammps_cases.reason_to_skip()), reason=lammps_cases.reason_to_skip() or "runs")
def test_lammps_computes_on_devices(tmp_path: Path) -> None:
    atoms = lammps_cases.liquid(24)
    data, model = (
        lammps_cases.write_data(tmp_path, "liquid", atoms),
        lammps_cases.write_model(tmp_path, "two"),
    )
    end = lammps_cases.THERMO + lammps_cases.DUMP_FORCES + "run 0\n"
    script = lammps_cases.setup(data, model) + end
    expected = lammps_cases.expected("two", atoms)
    last = f"device cuda:{_engine.device_count() - 1}"
    for ranks, device in ((1, last), (2, "device cuda")):
        lammps_cases.run(tmp_path, script.replace("precision double", f"precision double {device}"), ranks)
        forces = lammps_cases.dumped(tmp_path)[-1][:, 1:]
        np.testing.assert_allclose(forces, expected.forces.numpy(), rtol=0, atol=1e-9)
    wrong = script.replace("precision double", "device cuda:99")
    assert "device cuda:99 must be one of the" in lammps_cases.refusal(tmp_path, wrong, ranks=2)


@needs_device
def test_openmm_computes_on_a_device(model: Path) -> None:
    openmm = pytest.importorskip("openmm", reason="OpenMM is not installed")
    from symmd_md.openmm.library import load_library

    if load_library():
        pytest.skip(load_library())
    from symmd_md.openmm import system_from

    atoms = lammps_cases.molecule()
    energies = []
    for device in ("cpu", "cuda"):
        _, system, positions = system_from(atoms, model, precision="double", device=device)
        system = openmm.XmlSerializer.clone(system)
        platform = openmm.Platform.getPlatformByName("Reference")
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
        context.setPositions(positions)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[1] == pytest.approx(energies[0], rel=1e-11)
    _, system, _ = system_from(atoms, model, device="cuda:99")
    with pytest.raises(openmm.OpenMMException, match="SymmdForce: device cuda:99 must be one of the"):
        openmm.Context(system, openmm.VerletIntegrator(0.001), platform)


@needs_device
def test_memory_is_predicted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from symmd_md.analysis.description import describe

    small, large = (_engine.device_memory_plan(model, count, 60.0) for count in (1000, 100000))
    assert 20 < large["whole_bytes"] / small["whole_bytes"] < 101
    assert small["device"] == ""
    known = _engine.device_memory_plan(model, 1000, 60.0, device="cuda")
    assert known["whole_bytes"] == small["whole_bytes"]
    assert 0 < known["free_bytes"] <= known["total_bytes"]
    describe(model, None, 5000, "cuda")
    printed = capsys.readouterr().out
    for text in ("5,000 atoms", "CPU", "GPU, whole step", "GPU, smallest chunks", "fits"):
        assert text in printed


def test_memory_of_the_processor_is_that_of_the_engine(model: Path, rng: Rng) -> None:
    from symmd_md.analysis.memory import _crystal, engine_bytes

    positions, cell = _crystal(12**3, 30.0, 3.5)
    engine = _engine.Engine(model, threads=1)
    engine.compute(np.zeros(len(positions), dtype=np.int32), positions, cell, [True] * 3)
    assert engine_bytes(model, len(positions), 30.0) == pytest.approx(engine.memory_bytes, rel=0.1)


# The programs of tests/native


@pytest.mark.skipif(not is_emulated(), reason=device_cases.reason_to_skip() or "there is a GPU")
@pytest.mark.parametrize("seed", ["", "1"])
@pytest.mark.parametrize(
    "program", sorted(path.stem for path in (device_cases.ROOT / "tests" / "native").glob("cuda_*.cpp"))
)
def test_programs_of_the_emulator(program: str, seed: str) -> None:
    """Threads of a block in order, and shuffled."""
    environment = {**os.environ, "SYMMD_EMULATOR_SEED": seed, "OMP_NUM_THREADS": "1"}
    if not seed:
        del environment["SYMMD_EMULATOR_SEED"]
    done = subprocess.run([device_cases.EMULATOR / program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_networks_of_every_kind_have_kernels_on_a_device() -> None:
    """What the processor runs, a device runs."""
    if device_cases.reason_to_skip():
        pytest.skip(device_cases.reason_to_skip())
    for config in CASES.values():
        engine_of(make_network(config), device="cuda")
