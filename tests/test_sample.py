"""Sampling: dihedral restraints, the plan of the runs, and resuming. Angles in degrees, lengths in Å."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase import Atoms, units
from ase.build import bulk, molecule

from symmd_md import cli
from symmd_md.configuration import from_mapping
from symmd_md.data import read_frames
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.sample import dynamics
from symmd_md.sample.contacts import with_one_contact
from symmd_md.sample.frames import frame_text, iterate_conformations, whole_frames
from symmd_md.sample.methods import Method
from symmd_md.sample.plan import SamplingPlan, jobs_of, read_plan
from symmd_md.sample.restraint import (
    DihedralRestraint,
    bonds,
    dihedral_angle,
    dihedral_gradient,
    turn_dihedral,
)

EMT = "ase.calculators.emt:EMT"
HYDROGEN_PEROXIDE = (2, 0, 1, 3)

needs_tblite = pytest.mark.skipif(
    importlib.util.find_spec("tblite") is None,
    reason="tblite is not installed: pip install 'symmd-md[label]'",
)


def peroxide() -> Atoms:
    """H2O2: the oxygens are atoms 0 and 1."""
    atoms = molecule("H2O2")
    assert atoms.get_chemical_symbols() == ["O", "O", "H", "H"]
    return atoms


def random_quadruple(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3))


@pytest.mark.parametrize("seed", range(5))
def test_dihedral_angle_is_that_of_ase(seed: int) -> None:
    atoms = Atoms("H4", positions=random_quadruple(seed))
    expected = atoms.get_dihedral(0, 1, 2, 3)
    found = dihedral_angle(atoms.positions, (0, 1, 2, 3))
    assert -180.0 <= found <= 180.0
    assert found % 360.0 == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_dihedral_gradient_is_the_derivative(seed: int) -> None:
    positions, step = random_quadruple(seed), 1e-6
    gradient = dihedral_gradient(positions, (0, 1, 2, 3))
    for atom in range(4):
        for axis in range(3):
            angles = []
            for sign in (1, -1):
                moved = positions.copy()
                moved[atom, axis] += sign * step
                angles.append(np.radians(dihedral_angle(moved, (0, 1, 2, 3))))
            difference = np.angle(np.exp(1j * (angles[0] - angles[1]))) / (2 * step)
            assert gradient[atom, axis] == pytest.approx(difference, rel=1e-5, abs=1e-7)


def test_restraint_forces_are_the_derivative_of_its_energy() -> None:
    atoms = Atoms("H4", positions=random_quadruple(7))
    restraint = DihedralRestraint((3, 1, 0, 2), 40.0, 1.7)
    forces = np.zeros((4, 3))
    restraint.adjust_forces(atoms, forces)
    for atom in range(4):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * 1e-6
                energies.append(restraint.adjust_potential_energy(moved))
            assert forces[atom, axis] == pytest.approx(
                -(energies[0] - energies[1]) / 2e-6, rel=1e-5, abs=1e-7
            )


def test_restraint_is_in_the_forces_but_not_in_the_bare_ones() -> None:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = False
    atoms.rattle(0.1, seed=1)
    atoms.calc = Method(EMT).calculator()
    bare = atoms.get_forces()
    atoms.set_constraint(DihedralRestraint((0, 1, 2, 3), 10.0, 2.0))
    assert np.abs(atoms.get_forces() - bare).max() > 1e-3
    assert np.abs(atoms.get_forces(apply_constraint=False) - bare).max() == 0.0
    copied = atoms.copy().constraints[0]
    assert (copied.atoms, copied.angle, copied.stiffness) == ([0, 1, 2, 3], 10.0, 2.0)


@pytest.mark.parametrize("angle", [-170.0, 0.0, 33.0, 180.0])
def test_turning_a_dihedral_keeps_the_bonds(angle: float) -> None:
    atoms = molecule("CH3CH2OH")
    bonded = bonds(atoms.numbers, atoms.positions)
    carbon, oxygen = 0, atoms.get_chemical_symbols().index("O")
    other = next(k for k in np.flatnonzero(bonded[oxygen]) if atoms.numbers[k] == 6)
    hydrogen = next(k for k in np.flatnonzero(bonded[oxygen]) if atoms.numbers[k] == 1)
    far = carbon if carbon != other else 1
    turned = turn_dihedral(atoms.positions, bonded, (far, other, oxygen, hydrogen), angle)
    difference = dihedral_angle(turned, (far, other, oxygen, hydrogen)) - angle
    assert (difference + 180.0) % 360.0 - 180.0 == pytest.approx(0.0, abs=1e-8)
    before = np.linalg.norm(atoms.positions[:, None] - atoms.positions[None], axis=-1)
    after = np.linalg.norm(turned[:, None] - turned[None], axis=-1)
    assert np.abs((after - before)[bonded]).max() < 1e-12


def test_a_ring_is_not_turned() -> None:
    atoms = molecule("C6H6")
    bonded = bonds(atoms.numbers, atoms.positions)
    assert (turn_dihedral(atoms.positions, bonded, (0, 1, 2, 3), 90.0) == atoms.positions).all()


def plan_of(start: Path, **changes: object) -> SamplingPlan:
    run = {"name": "warm", "temperatures": [300, 500], "steps": 20, "every": 5, "equilibration": 5}
    return from_mapping(
        SamplingPlan,
        {"start": str(start), "method": EMT, "seed": 4, "runs": [{**run, **changes}]},
    )


@pytest.fixture
def copper(tmp_path: Path) -> Path:
    """Two clusters of copper, which EMT computes in a millisecond."""
    path = tmp_path / "start.xyz"
    text = ""
    for seed in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        text += frame_text(atoms.numbers, atoms.positions, {})
    path.write_text(text)
    return path


def test_jobs_are_every_combination_with_seeds_of_their_own() -> None:
    restraints = [
        {"atoms": [0, 1, 2, 3], "angles": [0, 90, 180]},
        {"atoms": [1, 2, 3, 4], "angles": [10, 20]},
    ]
    jobs = jobs_of(plan_of(Path("start.xyz"), restraints=restraints, repeats=2), structures=2)
    assert len(jobs) == 3 * 2 * 2 * 2 * 2
    assert len({job.seed for job in jobs}) == len(jobs)
    assert {job.angles for job in jobs} == {(a, b) for a in (0.0, 90.0, 180.0) for b in (10.0, 20.0)}
    assert jobs[0].frames == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 30}, "'every' = 30 of the run 'warm' exceeds its 'steps' = 20"),
        ({"temperatures": []}, "'temperatures' of the run 'warm' must be positive"),
        ({"time_step": 0}, "'time_step' of the run 'warm' must be positive"),
        ({"restraints": [{"atoms": [0, 1, 2], "angles": [0]}]}, "four different atoms"),
        ({"restraints": [{"atoms": [0, 1, 2, 3], "angles": []}]}, "at least one of 'angles'"),
        ({"temperatur": [3]}, "did you mean 'temperatures'"),
    ],
)
def test_a_wrong_plan_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        plan_of(Path("start.xyz"), **changes)


def test_starts_and_atoms_must_exist(copper: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"names structure 5, but .* has 2"):
        dynamics.sample(plan_of(copper, starts=[0, 5]), tmp_path / "out.xyz")
    with pytest.raises(ConfigurationError, match=r"names structure -1, but"):
        dynamics.sample(plan_of(copper, starts=[-1]), tmp_path / "out.xyz")
    with pytest.raises(ConfigurationError, match=r"names structure none, but"):
        dynamics.sample(plan_of(copper, starts=[]), tmp_path / "out.xyz")
    beyond = [{"atoms": [0, 1, 2, 4], "angles": [0]}]
    with pytest.raises(ConfigurationError, match=r"names atom 4, but .* has 4 atoms"):
        dynamics.sample(plan_of(copper, restraints=beyond), tmp_path / "out.xyz")


@pytest.mark.parametrize("seed", range(10))
def test_a_contact_moves_one_atom_along_a_line(seed: int) -> None:
    atoms = molecule("CH3CH2OH")
    bounds = (0.7, 1.3)
    found = with_one_contact(atoms.numbers, atoms.positions, bounds, np.random.default_rng(seed))
    (moved,) = np.flatnonzero(np.abs(found - atoms.positions).max(axis=1) > 0)
    others = np.delete(np.arange(len(atoms)), moved)
    before, after = atoms.positions[others] - atoms.positions[moved], found[others] - found[moved]
    step = found[moved] - atoms.positions[moved]
    along = np.linalg.norm(np.cross(before, step), axis=1) < 1e-9
    distances, factors = np.linalg.norm(before, axis=1), np.linalg.norm(after, axis=1)
    factors /= distances
    # The partner is on the line, near, not lighter, and as far as was drawn; nobody else comes nearer.
    partners = along & (distances < 3.0) & (atoms.numbers[others] >= atoms.numbers[moved])
    assert ((factors[partners] >= bounds[0]) & (factors[partners] <= bounds[1])).any()
    assert (factors >= bounds[0] - 1e-12)[distances < 3.0].all()
    again = with_one_contact(atoms.numbers, atoms.positions, bounds, np.random.default_rng(seed))
    assert (again == found).all()


def test_contacts_that_cannot_be_are_refused(copper: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(SymmdError, match="two atoms within 3 Å, found none"):
        with_one_contact(np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 9]]), (0.7, 1.5), generator)
    # Whichever atom of an equilateral triangle moves away from another one, the third stays behind.
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]])
    with pytest.raises(SymmdError, match="choose other 'contacts'"):
        with_one_contact(np.array([1, 1, 1]), triangle, (2.0, 2.01), generator)
    with pytest.raises(ConfigurationError, match="two rising positive factors"):
        plan_of(copper, contacts=[1.5, 0.7])
    crystal = tmp_path / "crystal.xyz"
    atoms = bulk("Cu", cubic=True)
    crystal.write_text(frame_text(atoms.numbers, atoms.positions, {}, atoms.cell.array, atoms.pbc))
    with pytest.raises(ConfigurationError, match=r"are for molecules, but a structure of .* is periodic"):
        dynamics.sample(plan_of(crystal, contacts=[0.7, 1.5]), tmp_path / "out.xyz")


def test_contacts_are_in_the_frames_but_not_in_the_dynamics(copper: Path) -> None:
    structures = [conformation.atoms() for conformation in iterate_conformations(copper)]
    positions = []
    for changes in ({"contacts": [0.7, 0.75]}, {}):
        plan = plan_of(copper, temperatures=[1.0], **changes)
        result = dynamics.run_job(jobs_of(plan, 2)[0], structures, plan.reference)
        assert result.failure is None
        lines = result.text.splitlines()
        rows = [
            line.split()[1:] for first in range(0, len(lines), 6) for line in lines[first + 2 : first + 6]
        ]
        positions.append(np.array(rows, dtype=float).reshape(4, 4, 3))
    for close, plain in zip(*positions, strict=True):
        moved = np.sort(np.linalg.norm(close - plain, axis=1))
        # At 1 K nothing else moves as far, although the random numbers of the two runs differ.
        assert moved[-1] > 0.35
        assert moved[-2] < 0.1


class Interrupted(Exception):
    """Stands for the kill."""


def test_an_interrupted_sampling_goes_on_to_the_same_frames(copper: Path, tmp_path: Path) -> None:
    plan = plan_of(copper)
    whole = dynamics.sample(plan, tmp_path / "whole.xyz", processes=2)
    assert (whole.frames, whole.jobs, whole.resumed, whole.failures) == (16, 4, 0, [])

    def kill(done: int, of: int) -> None:
        assert of == 4
        if done == 2:
            raise Interrupted

    output = tmp_path / "cut.xyz"
    with pytest.raises(Interrupted):
        dynamics.sample(plan, output, done=kill)
    assert not output.exists()
    with pytest.raises(ConfigurationError, match="another plan or of other starting structures"):
        dynamics.sample(plan_of(copper, every=4), output)
    again = dynamics.sample(plan, output)
    assert (again.frames, again.resumed) == (16, 2)
    assert output.read_bytes() == (tmp_path / "whole.xyz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.xyz", "start.xyz", "whole.xyz"]
    with pytest.raises(ConfigurationError, match="exists; remove it"):
        dynamics.sample(plan, output)

    notes = [conformation.notes for conformation in iterate_conformations(output)]
    assert {note["temperature"] for note in notes} == {"300.0", "500.0"}
    assert [note["step"] for note in notes[:4]] == ["10", "15", "20", "25"]
    assert notes[0]["seed"] == "4.0"
    assert notes[0]["run"] == "warm"
    assert notes[0]["sampled_with"].startswith(f"{EMT}, ase ")
    frames = read_frames(output)
    differences = [np.abs(frames[0].positions - frame.positions).max() for frame in frames[1:]]
    assert min(differences) > 1e-3


def test_a_run_that_breaks_a_bond_ends_and_is_reported(copper: Path, tmp_path: Path) -> None:
    plan = plan_of(copper, temperatures=[90000.0], steps=200, starts=[0])
    summary = dynamics.sample(plan, tmp_path / "out.xyz")
    assert len(summary.failures) == 1
    assert "run 'warm' from structure 0 at 90000 K, after" in summary.failures[0]
    assert "broke or formed" in summary.failures[0]
    assert summary.frames < 40


def test_a_sampling_without_a_frame_is_an_error_and_leaves_nothing(copper: Path, tmp_path: Path) -> None:
    plan = plan_of(copper, temperatures=[90000.0], steps=200, every=200)
    for _ in range(2):
        with pytest.raises(
            SymmdError, match=r"none of 2 runs from .*start.xyz gave a frame; the first one: run"
        ):
            dynamics.sample(plan, tmp_path / "out.xyz")
        assert [path.name for path in tmp_path.iterdir()] == ["start.xyz"]


def test_the_command_reads_a_plan_and_says_what_came_of_it(
    copper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {"name": "both", "temperatures": [300, 90000], "starts": [1], "steps": 100, "every": 50}
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump({"start": str(copper), "method": EMT, "runs": [run]}))
    monkeypatch.setattr(sys, "argv", ["symmd", "sample", str(plan), "-o", str(tmp_path / "out.xyz")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 0
    printed = capsys.readouterr()
    assert "out.xyz: 2 frames of 2 runs" in printed.out.replace("\n", "")
    assert "ended early: run 'both' from structure 1 at 90000 K" in printed.err.replace("\n", " ")


@needs_tblite
@pytest.mark.parametrize("angle", [0.0, 60.0, 180.0])
def test_windows_hold_the_dihedral_with_xtb(angle: float) -> None:
    run = {
        "name": "window",
        "temperatures": [300],
        "steps": 60,
        "every": 5,
        "equilibration": 40,
        "friction": 0.1,
        "restraints": [{"atoms": list(HYDROGEN_PEROXIDE), "angles": [angle], "stiffness": 3.0}],
    }
    plan = from_mapping(SamplingPlan, {"start": "unused.xyz", "runs": [run]})
    (job,) = jobs_of(plan, 1)
    result = dynamics.run_job(job, [peroxide()], plan.reference)
    assert result.failure is None
    lines = result.text.splitlines()
    found = []
    for first in range(0, len(lines), 6):
        positions = np.array([line.split()[1:] for line in lines[first + 2 : first + 6]], dtype=float)
        found.append(dihedral_angle(positions, HYDROGEN_PEROXIDE))
    deviation = (np.array(found) - angle + 180.0) % 360.0 - 180.0
    width = np.degrees(np.sqrt(units.kB * 300 / 3.0))
    assert len(found) == 12
    assert np.abs(deviation).max() < 5 * width
    assert f"window={angle:g}" in lines[1]


def test_plan_of_the_example_reads() -> None:
    folder = Path(__file__).parents[1] / "examples" / "alanine_dipeptide"
    frames = {}
    for name in ("train", "valid", "test"):
        plan = read_plan(folder / f"sample_{name}.yaml")
        frames[name] = sum(job.frames for job in jobs_of(plan, 5))
        assert plan.method == "GFN2-xTB"
    assert frames["train"] > 3000
    assert frames["test"] >= 600
    assert len({read_plan(folder / f"sample_{name}.yaml").seed for name in frames}) == 3


def test_whole_frames_are_counted_in_bytes() -> None:
    frame = frame_text(np.array([1, 8]), np.zeros((2, 3)), {"note": "two words"})
    content = (frame * 3).encode()
    assert whole_frames(content) == len(content)
    for cut in range(1, len(frame)):
        assert whole_frames(content[:-cut]) == 2 * len(frame)
    assert whole_frames(b"") == 0
    assert json.dumps(frame).count("two words") == 1
