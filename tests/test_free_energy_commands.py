"""``symmd fes``: its commands from file to table, JSON and picture, and the files of COLVARS and OpenMM."""

from __future__ import annotations

import functools
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from free_energy_cases import KT, PERIOD, double_well, double_well_gradient, metadynamics, torus
from symmd_md import cli
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.free_energy import (
    Axis,
    Hills,
    Surface,
    read_hills,
    read_surface,
    sum_hills,
    write_hills,
    write_surface,
)
from symmd_md.free_energy.foreign import read_colvars_grid, read_colvars_hills, read_openmm_bias
from symmd_md.free_energy.hills import PLAIN
from symmd_md.free_energy.tables import FloatArray, read_table, write_table


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of ``symmd fes`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["symmd", "fes", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "160")
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@functools.cache
def simulated() -> tuple[Hills, FloatArray, FloatArray]:
    return metadynamics(double_well_gradient, np.array([-1.0]), False, 0.15, 1500, height=1.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with HILLS and COLVAR of a double well."""
    hills, points, biases = simulated()
    write_hills(hills, tmp_path / "HILLS")
    columns = {
        "time": np.arange(len(points)) * 0.1,
        "x": points[:, 0],
        "metad.bias": biases,
        "weight": np.exp(biases / KT),
    }
    write_table(tmp_path / "COLVAR", columns, {})
    return tmp_path


def torus_file(path: Path) -> Surface:
    axes = tuple(Axis(name, *PERIOD, 36, True) for name in ("phi", "psi"))
    mesh = np.stack(np.meshgrid(*(axis.points for axis in axes), indexing="ij"), axis=-1)
    surface = Surface(axes, torus(mesh))
    write_surface(surface, path)
    return surface


def test_hills_become_table_json_and_picture(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "out"
    options = ("--bins", "120", "--min", "-1.7", "--max", "1.7", "-o", output)
    assert run(monkeypatch, "hills", folder / "HILLS", *options) == 0
    printed = capsys.readouterr().out
    assert "minima at 300 K, kJ/mol" in printed
    assert "A–B" in printed
    assert "±" in printed
    surface = read_surface(output / "surface.dat")
    expected = sum_hills(read_hills([folder / "HILLS"]), surface.axes).at_zero()
    np.testing.assert_allclose(surface.energy, expected.energy, atol=1e-8)
    numbers = json.loads((output / "surface.json").read_text())
    assert numbers["hills_summed"] == 1500
    assert [minimum["name"] for minimum in numbers["minima"]] == ["A", "B"]
    assert numbers["minima"][0]["x"] == pytest.approx(-1.0, abs=0.15)
    assert 0.0 < numbers["barriers"][0]["error_kJ_per_mol"] < 5.0
    assert (output / "surface.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("weight", [("--bias", "metad.bias"), ("--weights", "weight"), ("--hills", "HILLS")])
def test_rows_become_a_surface(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weight: tuple[str, str],
) -> None:
    monkeypatch.chdir(folder)
    options = ("--cv", "x", "--bins", "30", "--min", "-1.4", "--max", "1.4", *weight)
    assert run(monkeypatch, "colvar", "COLVAR", *options) == 0
    assert "1200 rows count as" in capsys.readouterr().out
    surface = read_surface(Path("fes/surface.dat"))
    exact = double_well(surface.axes[0].points)
    low = exact - exact.min() < 8.0
    difference = (surface.energy - exact)[low]
    # The bias of the moment without its mean counts late rows too much, hence the wide tolerance.
    assert np.std(difference) < 2.5
    numbers = json.loads(Path("fes/surface.json").read_text())
    assert numbers["rows_outside_of_grid"] >= 0
    assert numbers["effective_samples"] < 1200


@pytest.mark.parametrize("ends", [(), ("--min", "0.2"), ("--max", "1.0")])
def test_ends_of_a_grid_that_follows_the_rows_are_not_higher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, ends: tuple[str, ...]
) -> None:
    rows = rng.uniform(0.2, 1.0, 40_000)
    write_table(tmp_path / "COLVAR", {"d": rows}, {})
    options = ("--cv", "d", "--bins", "20", "--skip", "0", *ends, "-o", tmp_path / "out")
    assert run(monkeypatch, "colvar", tmp_path / "COLVAR", *options) == 0
    energy = read_surface(tmp_path / "out" / "surface.dat").energy
    flat = energy[1 if "--min" in ends else 0 : -1 if "--max" in ends else None]
    assert len(flat) == 20
    # 2000 rows in a cell: 0.06 kJ/mol of noise; half a cell would be 1.7 higher.
    assert flat.max() < 0.35
    numbers = json.loads((tmp_path / "out" / "surface.json").read_text())
    assert numbers["rows_outside_of_grid"] == 0


@pytest.mark.parametrize(
    ("ends", "points"),
    [(("--min", "2", "--max", "4.2"), 12), (("--min", "0"), 11), (("--max", "-1"), 11), ((), 11)],
)
def test_rows_of_a_periodic_variable_are_on_any_grid(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rng: np.random.Generator,
    ends: tuple[str, ...],
    points: int,
) -> None:
    rows = rng.uniform(-math.pi, math.pi, 40_000)
    write_table(tmp_path / "COLVAR", {"phi": rows}, {"min_phi": "-pi", "max_phi": "pi"})
    options = ("--cv", "phi", "--bins", "11", *ends, "-o", tmp_path / "out")
    assert run(monkeypatch, "colvar", tmp_path / "COLVAR", *options) == 0
    surface = read_surface(tmp_path / "out" / "surface.dat")
    assert surface.energy.shape == (points,)
    assert surface.energy.max() < 0.5


def test_bias_that_grows_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wall = np.array([0.0, 1.0, 0.0, 2.0, 0.0])
    write_table(folder / "WALL", {"x": np.linspace(0, 1, 5), "wall.bias": wall}, {})
    for file, column, told in (("COLVAR", "metad.bias", True), ("WALL", "wall.bias", False)):
        options = ("--cv", "x", "--bins", "4", "--bias", column, "--blocks", "2", "-o", folder / "out")
        assert run(monkeypatch, "colvar", folder / file, *options) == 0
        assert ("grows with time" in capsys.readouterr().out) is told


def test_fewer_hills_than_blocks_give_a_surface_without_errors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (folder / "HILLS").read_text().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    (folder / "FEW").write_text("".join(lines[: first + 3]))
    assert run(monkeypatch, "hills", folder / "FEW", "-o", folder / "out", "--skip", "0") == 0
    assert "no errors: 3 hills are fewer than 5 blocks" in capsys.readouterr().out
    assert read_surface(folder / "out" / "surface.dat").error is None
    rows = (folder / "COLVAR").read_text().splitlines(keepends=True)
    (folder / "FEW").write_text("".join(rows[:4]))
    assert run(monkeypatch, "colvar", folder / "FEW", "--cv", "x", "--skip", "0") == 2
    assert "found 3 rows; wait for more, or ask for fewer --blocks" in capsys.readouterr().err


def test_a_line_that_is_being_written_is_left_out(folder: Path) -> None:
    text = (folder / "COLVAR").read_text()
    for cut in (1, 3, len(text.splitlines()[-1]) - 2):
        (folder / "CUT").write_text(text[:-cut])
        assert len(read_table(folder / "CUT").lines) == 1499
    text = (folder / "HILLS").read_text().rstrip("\n")
    (folder / "CUT").write_text(text)
    assert len(read_hills([folder / "CUT"])) == 1499
    surface = torus_file(folder / "torus.dat")
    # A surface is written at once, by hand perhaps.
    (folder / "torus.dat").write_text((folder / "torus.dat").read_text().rstrip("\n"))
    assert read_surface(folder / "torus.dat").energy.shape == surface.energy.shape


@pytest.mark.filterwarnings("error")
def test_flat_surface_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hills = read_hills([folder / "HILLS"])
    write_hills(replace(hills, heights=np.zeros(len(hills))), folder / "FLAT")
    assert run(monkeypatch, "hills", folder / "FLAT", "--blocks", "0", "-o", folder / "out") == 0
    assert (folder / "out" / "surface.png").stat().st_size > 1000


def test_plain_rows_count_the_same_and_weights_exclude_each_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, "colvar", "COLVAR", "--cv", "x", "--bins", "10", "--skip", "0") == 0
    assert "1500 rows count as 1500" in capsys.readouterr().out
    both = ("--bias", "metad.bias", "--weights", "weight")
    assert run(monkeypatch, "colvar", "COLVAR", "--cv", "x", *both) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_show_draws_the_path_and_integrates_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    surface = torus_file(tmp_path / "torus.dat")
    assert run(monkeypatch, "show", tmp_path / "torus.dat", "-o", tmp_path / "map") == 0
    assert "φ (deg)" in capsys.readouterr().out
    path = np.loadtxt(tmp_path / "map" / "path.dat", comments="#")
    assert path[:, 3].max() == pytest.approx(17.16, abs=0.2)
    assert (tmp_path / "map" / "surface.png").stat().st_size > 10_000
    assert run(monkeypatch, "show", tmp_path / "torus.dat", "--cv", "psi", "-o", tmp_path / "line") == 0
    line = read_surface(tmp_path / "line" / "surface.dat")
    np.testing.assert_allclose(line.energy, surface.marginal(["psi"], 300.0).at_zero().energy, atol=1e-6)
    assert run(monkeypatch, "show", tmp_path / "torus.dat", "--path", "A,Z", "-o", tmp_path / "m") == 2
    assert "expected a minimum out of A, B; found 'Z'" in capsys.readouterr().err


def test_compare_prints_and_writes_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    surface = torus_file(tmp_path / "one.dat")
    wave = np.cos(surface.axes[0].points * 3.0)[:, None]
    write_surface(Surface(surface.axes, surface.energy + wave + 7.0), tmp_path / "two.dat")
    options = ("--json", tmp_path / "c.json", "--picture", tmp_path / "c.png")
    assert run(monkeypatch, "compare", tmp_path / "one.dat", tmp_path / "two.dat", *options) == 0
    numbers = json.loads((tmp_path / "c.json").read_text())
    low = surface.at_zero().energy <= 20.0
    expected = np.broadcast_to(wave, low.shape)[low].std()
    assert numbers["rms_difference_kJ_per_mol"] == pytest.approx(expected, abs=1e-4)
    assert f"{expected:.3f} kJ/mol" in capsys.readouterr().out
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hills", "nothing"), "nothing: expected a file with a table, found none"),
        (("hills", "COLVAR"), "for COLVAR files use symmd fes colvar"),
        (("hills", "HILLS", "--bins", "10,10"), "--bins must have a number for each of 1 variables"),
        (("hills", "HILLS", "--bins", "1.5"), "--bins must be whole numbers"),
        (("hills", "HILLS", "--cv", "y"), "expected variables out of x; found 'y'"),
        (("hills", "HILLS", "--energy-unit", "J"), "the energy unit must be kJ/mol, kcal/mol, eV; found 'J'"),
        (("hills", "HILLS", "--bias-factor", "3"), "has the bias factor 8, --bias-factor says 3"),
        (("hills", "HILLS", "--path", "A"), "--path must be two minima such as A,B"),
        (("hills", "HILLS", "--bins", "99999999"), "is too large; give fewer --bins"),
        (("colvar", "COLVAR", "--cv", "y"), "expected a column 'y', found time, x, metad.bias, weight"),
        (("colvar", "COLVAR", "--cv", "x", "--min", "pie"), "--min: expected a number or a multiple of pi"),
        (("show", "COLVAR"), "expected a surface on a grid"),
        (("show", "nothing.npy"), "name each in order with --period"),
        (("show", "nothing.npy", "--range", "a=0:1", "--period", "b=0:1"), "periodic all or none"),
        (("hills", "a.hills.traj"), "names no variables"),
        (("show", "HILLS", "--period", "phi=3"), "--period must be NAME=LOW:HIGH"),
    ],
)
def test_what_a_user_may_get_wrong_is_one_sentence(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("symmd: ")
    assert error.count("\n") == 1


def test_negative_weights_are_refused_with_their_line(folder: Path) -> None:
    text = (folder / "COLVAR").read_text().splitlines()
    text[4] = " ".join([*text[4].split()[:3], "-1.0"])
    (folder / "COLVAR").write_text("\n".join(text) + "\n")
    done = subprocess.run(
        [sys.executable, "-m", "symmd_md", "fes", "colvar", "COLVAR", "--cv", "x", "--weights", "weight"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "COLVAR, line 5: expected a weight of at least 0, found -1" in done.stderr


def test_hills_of_colvars_are_scaled_to_a_free_energy(tmp_path: Path) -> None:
    path = tmp_path / "run.colvars.metad.hills.traj"
    path.write_text("  100  87.2 -10.0  20.0 25.0  0.0124\n  200 -170.0 0.0  20.0 25.0  0.0100\n")
    periods = {"phi": (-180.0, 180.0), "psi": (-180.0, 180.0)}
    hills = read_colvars_hills(path, ["phi", "psi"], periods, 8.0, 96.48533212331)
    np.testing.assert_allclose(hills.heights, np.array([0.0124, 0.01]) * 96.48533212331 * 8.0 / 7.0)
    np.testing.assert_array_equal(hills.extents, [[20.0, 25.0]] * 2)
    assert hills.kernel == PLAIN
    with pytest.raises(DataError, match="line 1: expected 4 values"):
        read_colvars_hills(path, ["phi"], periods, 8.0)


def test_grid_of_colvars_has_its_points_at_centres_of_bins(tmp_path: Path) -> None:
    path = tmp_path / "run.pmf"
    rows = [f"{x} {y} {x + 0.01 * y}" for x in (-120, 0, 120) for y in (0.5, 1.5)]
    path.write_text("# 2\n# -180 120 3 1\n# 0.0 1.0 2 0\n\n" + "\n".join(rows) + "\n")
    surface = read_colvars_grid(path, ["phi", "d"], 2.0)
    np.testing.assert_allclose(surface.axes[0].points, [-120, 0, 120])
    np.testing.assert_allclose(surface.axes[1].points, [0.5, 1.5])
    assert surface.axes[0].periodic
    assert surface.axes[0].unit == "deg"
    assert not surface.axes[1].periodic
    assert surface.energy[2, 1] == pytest.approx(2.0 * (120 + 0.015))
    with pytest.raises(ConfigurationError, match="has 2 variables; name as many with --cv, found 1"):
        read_colvars_grid(path, ["phi"])
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(DataError, match="expected 6 rows as its header says, found 5"):
        read_colvars_grid(path, None)


def test_bias_files_of_openmm_add_up_over_processes(tmp_path: Path, rng: np.random.Generator) -> None:
    old, new, other = rng.random((3, 5, 7))
    for name, values in (("bias_1_3", old), ("bias_1_12", new), ("bias_9_4", other)):
        np.save(tmp_path / f"{name}.npy", values)
    axes = (Axis("phi", *PERIOD, 2, True), Axis("psi", *PERIOD, 2, True))
    surface = read_openmm_bias(tmp_path, axes, 6.0)
    assert surface.energy.shape == (6, 4)
    np.testing.assert_allclose(surface.energy, -1.2 * (new + other).T[:-1, :-1])
    ends = (Axis("a", 0.0, 2.0, 2, False), Axis("b", 0.0, 2.0, 2, False))
    np.testing.assert_allclose(read_openmm_bias(tmp_path, ends, 6.0).energy, -1.2 * (new + other).T)
    with pytest.raises(DataError, match=r"expected files bias_ID_INDEX.npy"):
        read_openmm_bias(tmp_path / "nothing", axes, 6.0)
    np.save(tmp_path / "bias_4_1.npy", np.zeros((5, 6)))
    with pytest.raises(DataError, match=r"found shape \(5, 6\)"):
        read_openmm_bias(tmp_path, axes, 6.0)


def test_metadynamics_of_openmm_leaves_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openmm = pytest.importorskip("openmm", reason="OpenMM is not installed; pip install openmm brings it")
    from openmm import app, unit

    system = openmm.System()
    for _ in range(4):
        system.addParticle(12.0)
    bonds = openmm.HarmonicBondForce()
    angles = openmm.HarmonicAngleForce()
    for i in range(3):
        bonds.addBond(i, i + 1, 0.15, 1e5)
    for i in range(2):
        angles.addAngle(i, i + 1, i + 2, 1.9, 400.0)
    torsion = openmm.CustomTorsionForce("theta")
    torsion.addTorsion(0, 1, 2, 3)
    for force in (bonds, angles):
        system.addForce(force)
    variable = app.BiasVariable(torsion, -math.pi, math.pi, 0.35, True, 61)
    run_ = app.Metadynamics(
        system, [variable], 300 * unit.kelvin, 8.0, 1.5, 20, saveFrequency=20, biasDir=str(tmp_path)
    )
    integrator = openmm.LangevinMiddleIntegrator(300, 5.0, 0.002)
    integrator.setRandomNumberSeed(4)
    simulation = app.Simulation(app.Topology(), system, integrator, openmm.Platform.getPlatform("Reference"))
    positions = [[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0], [0.35, 0.14, 0.02]]
    simulation.context.setPositions(positions)
    run_.step(simulation, 800)
    expected = run_.getFreeEnergy().value_in_unit(unit.kilojoule_per_mole)
    assert np.ptp(expected) > 1.0
    np.save(tmp_path / "free_energy.npy", expected)
    axes = (Axis("phi", *PERIOD, 2, True),)
    np.testing.assert_allclose(read_openmm_bias(tmp_path, axes, 8.0).energy, expected[:-1], atol=1e-9)
    output = tmp_path / "out"
    options = ("--period", "phi=-pi:pi", "-o", output)
    assert run(monkeypatch, "show", tmp_path / "free_energy.npy", *options) == 0
    assert read_surface(output / "surface.dat").at_zero().energy.max() == pytest.approx(np.ptp(expected))


def test_free_energies_need_no_torch() -> None:
    code = (
        "import sys, symmd_md.free_energy, symmd_md.free_energy.command;"
        "print([name for name in ('torch', 'ase', 'e3nn', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
