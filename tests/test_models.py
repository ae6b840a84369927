"""The models that ship: their names in place of paths, what they say about themselves, and that it is so."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.optimize import LBFGS

import symmd_md
from symmd_md import cli
from symmd_md._engine import Engine, model_file_summary
from symmd_md.analysis.bench_structures import alanine_dipeptide
from symmd_md.engines.ase import SymmdCalculator
from symmd_md.errors import ModelFileError
from symmd_md.models import model_path, shipped_model, shipped_names
from symmd_md.sample.restraint import bonds, dihedral_angle, turn_dihedral

ROOT = Path(__file__).parents[1]
HEIGHT = 1.5
"""eV, 29 kT at 600 K: as high as every wall must be at least."""
PHI, PSI = (1, 3, 4, 5), (3, 4, 5, 7)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of ``symmd`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["symmd", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def dipeptide() -> Atoms:
    structure = alanine_dipeptide()
    return Atoms(numbers=structure.numbers, positions=structure.positions)


def test_a_name_is_the_file_in_the_package() -> None:
    assert "ala2" in shipped_names()
    path = model_path("ala2")
    assert path.is_file()
    assert path.name == "ala2.pt"
    assert path.parent.name == "models"
    assert any(path.is_relative_to(folder) for folder in symmd_md.__path__)
    assert model_path(Path("ala2")) == path


def test_an_existing_file_wins_but_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ala2").mkdir()
    assert model_path("ala2").name == "ala2.pt"
    Path("ala2").rmdir()
    Path("ala2").write_bytes(b"mine")
    assert model_path("ala2") == Path("ala2")


@pytest.mark.parametrize("path", ["missing.pt", "folder/ala2", "ala2.safetensors"])
def test_what_looks_like_a_path_comes_back_for_the_reader(path: str) -> None:
    assert model_path(path) == Path(path)
    with pytest.raises(ModelFileError, match=path):
        Engine(model_path(path))


def test_a_wrong_name_is_answered_with_the_names(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (("info", "ala3"), ("bench", "ala3"), ("models", "--path", "ala3")):
        assert run(monkeypatch, *arguments) == 2
        assert "what ships: ala2" in capsys.readouterr().err
    with pytest.raises(ModelFileError, match="what ships: ala2"):
        SymmdCalculator("ala3")


def test_models_lists_what_ships(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "models") == 0
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("ala2", "H, C, N, O", "RMSE", "300 to 600 K", "GFN2-xTB", "docs/models/ala2.md"):
        assert part in printed
    assert run(monkeypatch, "models", "--path", "ala2") == 0
    assert capsys.readouterr().out == f"{model_path('ala2')}\n"


def test_info_and_lammps_take_the_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "info", "ala2") == 0
    assert "TorchScript archive" in capsys.readouterr().out
    dipeptide().write(tmp_path / "start.xyz")
    assert run(monkeypatch, "lammps", "ala2", tmp_path / "start.xyz", "-o", tmp_path / "run") == 0
    (line,) = [
        line for line in (tmp_path / "run" / "in.lammps").read_text().splitlines() if "pair_coeff" in line
    ]
    assert (tmp_path / "run" / line.split()[3].strip('"')).resolve() == model_path("ala2").resolve()


def test_the_calculator_takes_the_name_and_keeps_it() -> None:
    named, direct = SymmdCalculator("ala2", threads=1), SymmdCalculator(model_path("ala2"), threads=1)
    atoms = dipeptide()
    assert (named.get_forces(atoms) == direct.get_forces(atoms)).all()
    assert named.parameters["path"] == "ala2"
    named.set(precision="float64")
    assert np.abs(named.get_forces(atoms) - direct.get_forces(atoms)).max() < 1e-4


def test_the_card_is_within_what_was_promised() -> None:
    model = shipped_model("ala2")
    assert set(model.elements) == {"H", "C", "N", "O"}
    assert model.size < 5_000_000
    assert (ROOT / model.card).is_file()
    assert {"300 K", "450 K", "600 K"} < set(model.errors)
    for subset, errors in model.errors.items():
        assert errors["frames"] >= 150
        assert errors["energy RMSE (meV/atom)"] <= 1.0
        if subset in ("300 to 600 K", "whole (φ, ψ) plane"):
            assert errors["force RMSE (meV/Å)"] <= 25.0
    assert {"300 to 600 K", "whole (φ, ψ) plane"} < set(model.errors)
    text = (ROOT / model.card).read_text(encoding="utf-8")
    for errors in model.errors.values():
        assert f"| {errors['force RMSE (meV/Å)']:g} |" in text
    assert model_file_summary(model.path)["sha256"] in text


def test_the_file_tells_nothing_of_the_machine_that_wrote_it() -> None:
    content = model_path("ala2").read_bytes()
    for folder in (b"/" + b"tmp/", b"/" + b"home/", b"/" + b"root/", b"/" + b"work/"):
        assert folder not in content


def test_minima_are_where_gfn2_xtb_has_them() -> None:
    # GFN2-xTB: C7eq at (−81°, 75°), C7ax at (71°, −63°) and 56.7 meV above.
    atoms = dipeptide()
    atoms.calc = SymmdCalculator("ala2", precision="float64", threads=1)
    found = []
    for phi, psi in ((-80.0, 75.0), (70.0, -60.0)):
        start = atoms.copy()
        bonded = bonds(start.numbers, start.positions)
        start.positions = turn_dihedral(start.positions, bonded, PHI, phi)
        start.positions = turn_dihedral(start.positions, bonded, PSI, psi)
        start.calc = atoms.calc
        assert LBFGS(start, logfile=None).run(fmax=0.005, steps=300)
        angles = [dihedral_angle(start.positions, dihedral) for dihedral in (PHI, PSI)]
        found.append((angles, start.get_potential_energy()))
    (equatorial, lowest), (axial, higher) = found
    assert np.abs(np.array(equatorial) - (-81.0, 75.0)).max() < 8.0
    assert np.abs(np.array(axial) - (71.0, -63.0)).max() < 8.0
    assert higher - lowest == pytest.approx(0.0567, abs=0.015)


def test_a_bond_that_is_shortened_meets_a_wall() -> None:
    atoms = dipeptide()
    calculator = SymmdCalculator("ala2", precision="float64", threads=1)
    bonded = bonds(atoms.numbers, atoms.positions)
    rest = calculator.get_potential_energy(atoms)
    for first, second in np.argwhere(bonded).tolist():
        line = atoms.positions[first] - atoms.positions[second]
        before, factor = -np.inf, 0.95
        while before < HEIGHT:
            moved = atoms.copy()
            moved.positions[first] = atoms.positions[second] + factor * line
            energy = calculator.get_potential_energy(moved) - rest
            symbols = f"{atoms.symbols[first]}{first} to {atoms.symbols[second]}{second}"
            assert energy > before, f"{symbols} at {factor:.2f}: a fall from {before:.2f} eV"
            before, factor = energy, factor - 0.01


@pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None,
    reason="tblite is not installed: pip install 'symmd-md[label]'",
)
def test_forces_of_shaken_molecules_are_those_of_gfn2_xtb() -> None:
    from symmd_md.sample.methods import Method

    calculator, differences = SymmdCalculator("ala2", threads=1), []
    relaxed = dipeptide()
    relaxed.calc = calculator
    LBFGS(relaxed, logfile=None).run(fmax=0.05, steps=100)
    for seed in range(10):
        atoms = relaxed.copy()
        atoms.rattle(0.03, seed=seed)
        reference = atoms.copy()
        reference.calc = Method("GFN2-xTB").calculator()
        differences.append(calculator.get_forces(atoms) - reference.get_forces())
    assert 1e3 * np.sqrt(np.square(differences).mean()) < 25.0


def test_the_model_is_under_version_control_and_so_in_every_distribution() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    path = "python/symmd_md/models/ala2.pt"
    listed = subprocess.run(["git", "ls-files", path], cwd=ROOT, capture_output=True, text=True, check=True)
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT)
    assert listed.stdout.strip() == path
    assert ignored.returncode == 1
