"""Labels from reference methods: exact, resumable, whole or absent. Energies in eV, forces in eV/Å."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.emt import EMT

from symmd_md import cli
from symmd_md.data import read_frames
from symmd_md.errors import ConfigurationError, SymmdError
from symmd_md.sample.frames import Conformation, frame_text, iterate_conformations
from symmd_md.sample.labels import label, label_frame
from symmd_md.sample.methods import Method

EMT_METHOD = Method("ase.calculators.emt:EMT")
FAILING = '''
import os
import numpy as np
from ase.calculators.emt import EMT
from ase.calculators.calculator import CalculationFailed

class Failing(EMT):
    """EMT that gives up where the first atom is left of the origin, and goes wrong far right of it."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        if -8 <= self.atoms.positions[0, 0] < 0:
            raise CalculationFailed("no convergence\\nafter 3 cycles")
        if self.atoms.positions[0, 0] < -8:
            os._exit(1)  # as a crash or the kernel does
        if self.atoms.positions[0, 0] > 5:
            self.results["forces"] = np.full((len(self.atoms), 3), np.nan)
'''


SLEEPING = """
import os, pathlib, sys, time
from ase.calculators.emt import EMT

class Sleeping(EMT):
    def calculate(self, *arguments, **options):
        pathlib.Path(os.environ["WORKER_FILE"]).write_text(str(os.getpid()))
        time.sleep(600)
"""


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed: pip install 'symmd-md[label]'",
    )


def water(seed: int = 0) -> Atoms:
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=seed)
    return atoms


def write_source(path: Path, shifts: list[float]) -> Path:
    """Water molecules with an old label and notes, the first atom at x = 0.1 + shift."""
    text = ""
    for number, shift in enumerate(shifts):
        atoms = water(number)
        atoms.positions[:, 0] += 0.1 + shift - atoms.positions[0, 0]
        notes = {
            "temperature": 300.0 + number,
            "comment": f"frame {number}",
            "dipole": 3.0,
            "REF_energy": -9.0,
        }
        text += frame_text(atoms.numbers, atoms.positions, notes, energy=-99.0, forces=np.ones((3, 3)))
    path.write_text(text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source.xyz", [0.0] * 7)


def labelled_directly(atoms: Atoms, method: Method) -> tuple[str, str | None]:
    conformation = Conformation(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, {})
    result = label_frame((0, conformation), method, "here")
    return result.text, result.failure


def energy_and_forces(atoms: Atoms, method: Method) -> tuple[float, np.ndarray]:
    moved = atoms.copy()
    moved.calc = method.calculator()
    return moved.get_potential_energy(), moved.get_forces()


def largest_force_error(atoms: Atoms, method: Method, step: float) -> float:
    """Forces against central differences of the energy, along three random directions."""
    generator = np.random.default_rng(1)
    _, forces = energy_and_forces(atoms, method)
    worst = 0.0
    for _ in range(3):
        direction = generator.normal(size=forces.shape)
        direction /= np.linalg.norm(direction)
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * step * direction
            energies.append(energy_and_forces(moved, method)[0])
        slope = -(energies[0] - energies[1]) / (2 * step)
        worst = max(worst, abs(slope - float((forces * direction).sum())))
    return worst


def test_labels_are_the_calculators_and_notes_are_kept(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.xyz"
    seen: list[int] = []
    summary = label(source, output, EMT_METHOD, processes=2, done=seen.append)
    assert (summary.written, summary.resumed, summary.failures) == (7, 0, [])
    assert seen == list(range(1, 8))
    frames = read_frames(output)
    for number, (frame, conformation) in enumerate(zip(frames, iterate_conformations(output), strict=True)):
        atoms = Atoms(numbers=frame.numbers, positions=frame.positions, calculator=EMT())
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-7)
        assert frame.forces is not None
        assert np.abs(frame.forces - atoms.get_forces()).max() < 1e-7
        notes = conformation.notes
        assert notes["temperature"] == str(300.0 + number)
        assert notes["comment"] == f"frame {number}"
        assert notes["method"] == "ase.calculators.emt:EMT"
        assert notes["program"].startswith("ase ")
        assert "charge" not in notes  # which this calculator has for itself
        assert (notes["source"], notes["source_frame"]) == ("source.xyz", str(number))
        assert not {"dipole", "REF_energy", "energy"} & set(notes)


def test_a_kill_in_the_middle_of_a_frame_costs_that_frame_alone(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.xyz"
    label(source, output, EMT_METHOD)
    whole = output.read_bytes()
    frame = len(whole) // 7
    for kept, cut in ((3, 3 * frame + frame // 2), (0, frame // 3), (7, len(whole))):
        output.write_bytes(whole[:cut])
        summary = label(source, output, EMT_METHOD)
        assert summary.resumed == pytest.approx(kept, abs=1)
        assert summary.resumed + summary.written == 7
        assert output.read_bytes() == whole


def test_another_method_or_source_is_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.xyz"
    label(source, output, EMT_METHOD)
    before = output.read_bytes()
    with pytest.raises(ConfigurationError, match="was labelled with method ase"):
        label(source, output, Method("ase.calculators.lj:LennardJones"))
    for shifts in ([0.0] * 5, [0.0] * 6 + [1.0]):
        other = write_source(tmp_path / "other.xyz", shifts)
        with pytest.raises(ConfigurationError, match=r"does not hold frames of .*other.xyz as it is now"):
            label(other, output, EMT_METHOD)
    shorter = write_source(source, [0.0] * 3)
    with pytest.raises(ConfigurationError, match="does not hold frames of"):
        label(shorter, output, EMT_METHOD)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [
        b"my notes\n",
        b"3\n",
        b"3\nwater without an end of its line\nO 0 0 0\nH 0 0 1\nH 0 1 0",
        b"12 drummers drumming\n",
    ],
)
def test_a_file_of_somebody_else_is_left_alone(source: Path, tmp_path: Path, content: bytes) -> None:
    output = tmp_path / "out.xyz"
    output.write_bytes(content)
    if content == b"3\n":  # as far as a killed call may have come
        assert label(source, output, EMT_METHOD).written == 7
        return
    with pytest.raises(ConfigurationError, match="holds something else than labelled frames"):
        label(source, output, EMT_METHOD)
    assert output.read_bytes() == content


def test_a_second_process_on_the_same_output_is_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "labelled.xyz"
    with output.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ConfigurationError, match="being written by another process"):
            label(source, output, EMT_METHOD)


def test_failed_frames_are_reported_skipped_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing_calculator.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    source = write_source(tmp_path / "source.xyz", [0.0, -3.0, 0.0, 9.0, 0.0])
    output = tmp_path / "labelled.xyz"
    arguments = ["label", str(source), "-o", str(output), "--method", "failing_calculator:Failing"]
    for written, resumed in ((3, ""), (0, ", 3 more from an earlier call")):
        monkeypatch.setattr(sys, "argv", ["symmd", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == 0
        printed = capsys.readouterr()
        assert "skipped: frame 1: no convergence after 3 cycles" in printed.err
        assert "skipped: frame 3: the energy or a force is not finite" in printed.err
        assert f"{written} frames with failing_calculator:Failing{resumed}, 2 skipped" in printed.out.replace(
            "\n", " "
        )
    frames = [int(conformation.notes["source_frame"]) for conformation in iterate_conformations(output)]
    assert frames == [0, 2, 4]


def test_labels_of_no_frame_at_all_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing_calculator.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    source = write_source(tmp_path / "source.xyz", [-3.0, 9.0])
    output = tmp_path / "labelled.xyz"
    arguments = ["label", str(source), "-o", str(output), "--method", "failing_calculator:Failing"]
    monkeypatch.setattr(sys, "argv", ["symmd", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "none of 2 frames of" in said
    assert "the first one: frame 0: no convergence after 3 cycles" in said
    assert not output.exists()


def test_a_frame_that_ends_its_process_costs_that_frame_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_calculator.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    method = Method("failing_calculator:Failing")
    source = write_source(tmp_path / "source.xyz", [0.0, -9.0, 0.0, 0.0, -3.0, 0.0])
    output = tmp_path / "labelled.xyz"
    seen: list[int] = []
    summary = label(source, output, method, processes=2, done=seen.append)
    assert summary.written == 4
    assert [sentence.split(":")[0] for sentence in summary.failures] == ["frame 1", "frame 4"]
    assert "its process ended (killed" in summary.failures[0]
    assert seen == list(range(1, 7))
    frames = [int(conformation.notes["source_frame"]) for conformation in iterate_conformations(output)]
    assert frames == [0, 2, 3, 5]
    everyone = write_source(tmp_path / "everyone.xyz", [0.0] + [-9.0] * 6)
    with pytest.raises(SymmdError, match="3 worker processes in a row ended without a result"):
        label(everyone, tmp_path / "none.xyz", method)
    assert len(read_frames(tmp_path / "none.xyz")) == 1


@needs("tblite")
@pytest.mark.parametrize("key", ["charge", "multiplicity"])
def test_a_frame_of_another_charge_is_not_computed(tmp_path: Path, key: str) -> None:
    atoms = water()
    # 0.0 and 1.0 are the charge and the multiplicity of the call, written by another program.
    text = "".join(
        frame_text(atoms.numbers, atoms.positions, {key: value})
        for value in ({"charge": "0.0", "multiplicity": "1.0"}[key], "3", "unknown")
    )
    source, output = tmp_path / "source.xyz", tmp_path / "out.xyz"
    source.write_text(text)
    summary = label(source, output, Method("GFN2-xTB"))
    assert summary.written == 1
    computed = {"charge": 0, "multiplicity": 1}[key]
    for index, value in enumerate(("3", "unknown"), start=1):
        expected = f"frame {index}: the frame says {key}={value}, but this call computes with {computed}"
        assert expected in summary.failures[index - 1]
    with pytest.raises(SymmdError, match="none of 3 frames"):
        label(source, tmp_path / "other.xyz", Method("GFN2-xTB", charge=2, multiplicity=5))


def test_a_calculator_of_ones_own_leaves_the_charge_to_the_frame(tmp_path: Path) -> None:
    source, output = tmp_path / "source.xyz", tmp_path / "out.xyz"
    atoms = water()
    source.write_text(frame_text(atoms.numbers, atoms.positions, {"charge": 1}))
    assert label(source, output, EMT_METHOD).written == 1
    assert next(iterate_conformations(output)).notes["charge"] == "1"
    assert label(source, output, EMT_METHOD).resumed == 1


def test_workers_end_with_the_process_that_is_killed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "sleeping_calculator.py").write_text(SLEEPING)
    worker_file = tmp_path / "worker"
    arguments = ["label", str(source), "-o", str(tmp_path / "out.xyz"), "--method"]
    process = subprocess.Popen(
        [sys.executable, "-m", "symmd_md", *arguments, "sleeping_calculator:Sleeping"],
        env={**os.environ, "PYTHONPATH": str(tmp_path), "WORKER_FILE": str(worker_file)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: worker_file.exists() and worker_file.read_text() != "")
        worker = Path("/proc") / worker_file.read_text()
        assert worker.exists()
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not worker.exists() or "(zombie)" in (worker / "status").read_text())


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait, for at most two minutes."""
    for _ in range(1200):
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xtb", "the method must be GFN2-xTB, .* found 'xtb'"),
        ("PBE/", "the method must be"),
        ("no_such_module:Thing", "cannot be imported .*give module:callable"),
        ("ase.calculators.emt:Nothing", "cannot be imported"),
    ],
)
def test_an_unknown_method_is_refused(source: Path, tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        label(source, tmp_path / "out.xyz", Method(name))
    assert not (tmp_path / "out.xyz").exists()


@pytest.mark.parametrize(("name", "package"), [("gfn2-xtb", "tblite"), ("PBE/def2-SVP", "pyscf")])
def test_a_missing_package_is_named_with_the_command(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigurationError, match=rf"needs the package {package}.*pip install 'symmd-md\[label"
    ):
        label(source, tmp_path / "out.xyz", Method(name))


def test_charges_of_a_calculator_of_ones_own_are_its_own() -> None:
    with pytest.raises(ConfigurationError, match="unknown to a calculator of your own"):
        Method(EMT_METHOD.name, charge=1).require()
    with pytest.raises(ConfigurationError, match="at least 1; found 0"):
        Method("GFN2-xTB", multiplicity=0)


@needs("tblite")
def test_xtb_labels_are_tblites_and_its_forces_the_derivative(source: Path, tmp_path: Path) -> None:
    from tblite.ase import TBLite

    output = tmp_path / "labelled.xyz"
    summary = label(source, output, Method("gfn2-xtb"))
    assert summary.written == 7
    frame = read_frames(output)[2]
    atoms = Atoms(numbers=frame.numbers, positions=frame.positions)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0, accuracy=0.01)
    assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    assert frame.forces is not None
    assert np.abs(frame.forces - atoms.get_forces()).max() < 1e-4
    assert next(iterate_conformations(output)).notes["method"] == "GFN2-xTB"
    assert largest_force_error(water(), Method("GFN2-xTB"), 1e-3) < 2e-4


@needs("tblite")
def test_xtb_charge_and_multiplicity_count() -> None:
    neutral, _ = energy_and_forces(water(), Method("GFN2-xTB"))
    cation, _ = energy_and_forces(water(), Method("GFN2-xTB", charge=1, multiplicity=2))
    assert 10.0 < cation - neutral < 25.0  # the ionisation energy of water is 12.6 eV


@needs("pyscf")
def test_hartree_fock_of_hydrogen_is_the_textbooks() -> None:
    # Szabo and Ostlund, Modern Quantum Chemistry: −1.1167 hartree at 1.4 bohr in STO-3G.
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1.4 * units.Bohr]])
    text, failure = labelled_directly(atoms, Method("HF/STO-3G"))
    assert failure is None
    energy = float(text.split("energy=")[1].split()[0])
    assert energy / units.Hartree == pytest.approx(-1.1167, abs=1e-4)
    assert 'program="pyscf ' in text


@needs("pyscf")
@pytest.mark.parametrize(
    ("atoms", "method"),
    [
        (water(), Method("PBE/STO-3G")),
        (Atoms("OH", positions=[[0, 0, 0], [0, 0.1, 1.0]]), Method("B3LYP/STO-3G", multiplicity=2)),
        (water(), Method("HF/6-31G", charge=1, multiplicity=2)),
    ],
)
def test_forces_of_pyscf_are_the_derivative_of_its_energy(atoms: Atoms, method: Method) -> None:
    assert largest_force_error(atoms, method, 2e-3) < 1e-3


@needs("pyscf")
def test_a_self_consistency_that_fails_is_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyscf.scf.hf

    text, failure = labelled_directly(water(), Method("HF/STO-3G", multiplicity=2))
    assert text == ""
    assert failure is not None
    assert "frame 0: charge 0 and multiplicity 2 do not fit the electrons" in failure
    monkeypatch.setattr(pyscf.scf.hf.SCF, "max_cycle", 1)
    text, failure = labelled_directly(water(), Method("HF/STO-3G"))
    assert (text, failure) == ("", "frame 0: the self-consistency did not converge in 1 cycles")


@needs("pyscf")
def test_a_basis_for_the_valence_comes_with_its_core_potential() -> None:
    # Iodine is 1.61 Å from hydrogen; 54 electrons in the functions for 26 give hundreds of eV/Å there.
    atoms = Atoms("IH", positions=[[0, 0, 0], [0.2, 0.3, 1.57]])
    method = Method("HF/def2-SVP")
    text, failure = labelled_directly(atoms, method)
    assert failure is None
    assert 'core_potential="I 28 electrons"' in text
    _, forces = energy_and_forces(atoms, method)
    assert np.abs(forces).max() < 2.0
    assert largest_force_error(atoms, method, 2e-3) < 1e-3
    conformation = Conformation(
        atoms.numbers,
        atoms.positions,
        atoms.cell.array,
        atoms.pbc,
        {"core_potential": "old", "accuracy": "1"},
    )
    again = label_frame((0, conformation), Method("HF/STO-3G"), "here")
    assert again.failure is None
    assert "core_potential" not in again.text
    assert "accuracy" not in again.text


@needs("pyscf")
@pytest.mark.parametrize(
    ("formula", "basis", "element"), [("CO", "bfd-vdz", "C"), ("CO", "gth-dzvp", "C"), ("HI", "gth-x", "")]
)
def test_a_basis_without_its_core_potential_is_refused(formula: str, basis: str, element: str) -> None:
    text, failure = labelled_directly(
        Atoms(formula, positions=[[0, 0, 0], [0, 0, 1.2]]), Method(f"HF/{basis}")
    )
    assert text == ""
    assert failure is not None
    if element:
        assert f"has no functions for the core of {element}, and pyscf knows no core potential" in failure
    else:
        assert "pyscf has no basis 'gth-x' for an element of HI" in failure


@needs("pyscf")
@pytest.mark.parametrize("basis", ["STO-3G", "3-21G", "6-31G**", "def2-TZVP", "cc-pVDZ", "ano"])
def test_bases_of_all_electrons_are_taken(basis: str) -> None:
    atoms = Atoms("HLiCOFNaPSClBr", positions=[[0, 0, 4.0 * k] for k in range(10)])
    if basis == "6-31G**":
        del atoms[-1]
    calculator = Method(f"HF/{basis}", multiplicity=1 + int(atoms.numbers.sum()) % 2).calculator()
    calculator.atoms = atoms
    assert calculator._solver().mol.nelectron == atoms.numbers.sum()
