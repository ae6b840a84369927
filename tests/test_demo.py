"""``symmd demo`` in each engine that is installed: hills, rows and frames, the surface, what it refuses."""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest

from lammps_cases import reason_to_skip
from model_cases import make_config, make_network
from symmd_md import cli
from symmd_md.demo import LONG, DemoSettings, Result, command, lammps_run, run_demo
from symmd_md.demo.command import _earlier_results, conformer
from symmd_md.demo.settings import COLVAR, HILLS, TRAJECTORY
from symmd_md.engines.plumed import plumed_kernel
from symmd_md.errors import ConfigurationError, ModelFileError, SymmdError
from symmd_md.export.model_file import write_model_file
from symmd_md.free_energy import bias_at, read_hills, read_surface, read_table
from symmd_md.free_energy.report import Report
from symmd_md.model import ModelStatistics
from symmd_md.models import shipped_names
from symmd_md.molecules import PHI, PSI, alanine_dipeptide_positions

SHORT = DemoSettings(steps=800, stride=20, frame_stride=100, threads=1, most_seconds=None)


@functools.cache
def openmm_reason() -> str:
    """Why there is nothing to test with OpenMM; empty when there is."""
    if importlib.util.find_spec("openmm") is None:
        return "OpenMM is not installed; pip install 'symmd-md[openmm]' brings it"
    from symmd_md.openmm.library import load_library

    return load_library()


ENGINES = [
    pytest.param("openmm", marks=pytest.mark.skipif(bool(openmm_reason()), reason=openmm_reason() or "runs")),
    pytest.param(
        "lammps", marks=pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "runs")
    ),
]
needs_kernel = pytest.mark.skipif(
    plumed_kernel() is None,
    reason="no PLUMED kernel: PLUMED_KERNEL is not set and none is in the environment",
)


@pytest.fixture(scope="session")
def weak_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forces next to nothing: atoms fly freely, so that nothing hides what the bias does."""
    species = ("H", "C", "N", "O")
    statistics = ModelStatistics(dict.fromkeys(species, 0.0), energy_scale=1e-6, mean_neighbours=9.0)
    network = make_network(make_config(species=species, layers=1), statistics=statistics)
    path = tmp_path_factory.mktemp("model") / "weak.safetensors"
    write_model_file(network, path, {})
    return path


@functools.cache
def demonstrated(engine: str, folder: Path, model: Path) -> tuple[Result, Report]:
    """One short run for all tests of an engine."""
    return run_demo(folder, engine, SHORT, model)


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def without_plumed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in route, also on a machine with a kernel."""
    monkeypatch.setattr(command, "plumed_kernel", lambda: None)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.usefixtures("without_plumed")
class TestBuiltInRoute:
    def test_every_height_is_that_of_well_tempered_metadynamics(
        self, engine: str, session_folder: Path, weak_model: Path
    ) -> None:
        result, _ = demonstrated(engine, session_folder / engine, weak_model)
        assert (result.engine, result.steps) == (engine, 800)
        hills = read_hills([session_folder / engine / HILLS])
        assert hills.names == ("phi", "psi")
        assert hills.bias_factor == SHORT.bias_factor
        np.testing.assert_allclose(hills.times, np.arange(1, 41) * 0.02, atol=1e-6)
        np.testing.assert_allclose(hills.extents, SHORT.width, rtol=1e-6)
        deposited = hills.heights * hills.bias_scale
        for count in range(1, len(hills)):
            bias = float(bias_at(hills.first(count), hills.centres[count : count + 1])[0])
            expected = SHORT.height * math.exp(-bias / (0.00831446261815324 * SHORT.bias_temperature))
            # COLVARS takes the bias of a whole bin; the sum here cuts a hill where it is 0.002 of its height.
            assert deposited[count] == pytest.approx(expected, rel=0.01 if engine == "openmm" else 0.03)
        assert deposited[0] == pytest.approx(SHORT.height)

    def test_frames_and_rows_are_of_the_same_run(
        self, engine: str, session_folder: Path, weak_model: Path
    ) -> None:
        demonstrated(engine, session_folder / engine, weak_model)
        frames = ase.io.read(session_folder / engine / TRAJECTORY, ":", format="xyz")
        rows = read_table(session_folder / engine / COLVAR)
        assert len(frames) == 9
        assert frames[0].get_chemical_formula() == "C6H12N2O2"
        by_time = dict(zip(np.round(rows.column("time"), 6), range(len(rows.lines)), strict=True))
        for number, frame in enumerate(frames):
            row = by_time[round(number * 0.1, 6)]
            for name, atoms in (("phi", PHI), ("psi", PSI)):
                apart = math.radians(frame.get_dihedral(*atoms)) - rows.column(name)[row]
                assert math.remainder(apart, 2.0 * math.pi) == pytest.approx(0.0, abs=1e-4)

    def test_surface_is_written_with_its_record(
        self, engine: str, session_folder: Path, weak_model: Path
    ) -> None:
        folder = session_folder / engine
        _, report = demonstrated(engine, folder, weak_model)
        surface = read_surface(folder / "surface.dat")
        np.testing.assert_allclose(surface.energy, report.surface.energy, atol=1e-8)
        assert (folder / "surface.png").read_bytes().startswith(b"\x89PNG")
        minima = json.loads((folder / "surface.json").read_text())["minima"]
        assert minima[0]["name"] == "A"
        record = json.loads((folder / "demo.json").read_text())
        assert record["engine"] == engine
        assert record["steps"] == 800
        assert record["speed_ns_per_day"] > 0
        assert record["settings"]["steps"] == 800

    def test_time_that_is_over_ends_the_run(self, engine: str, tmp_path: Path, weak_model: Path) -> None:
        endless = DemoSettings(steps=10**9, stride=20, frame_stride=10**6, threads=1, most_seconds=1.0)
        result, _ = run_demo(tmp_path / "demo", engine, endless, weak_model)
        assert 100 <= result.steps < 10**6
        assert result.steps % 20 == 0

    def test_second_demo_replaces_the_first(
        self, engine: str, tmp_path: Path, weak_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for steps in (400, 4000):
            settings = DemoSettings(steps=steps, stride=20, frame_stride=100, threads=1, most_seconds=None)
            run_demo(tmp_path, engine, settings, weak_model)
        assert len(read_hills([tmp_path / HILLS])) == 200
        assert re.search(r": 4 of 4 ps, [1-9]\d* ns/day\n", capsys.readouterr().out)
        assert len(ase.io.read(tmp_path / TRAJECTORY, ":", format="xyz")) == 41
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ConfigurationError, match="holds a demo of 4000 steps, more than the 800 of this"):
            run_demo(tmp_path, engine, SHORT, weak_model)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        # Nothing of it stays beside a run of the other engine.
        assert set(before) == {path.name for path in [*_earlier_results(tmp_path, 4000)]}


@pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "runs")
@pytest.mark.usefixtures("without_plumed")
def test_lammps_has_the_temperature_of_its_thermostat(tmp_path: Path, weak_model: Path) -> None:
    """Random forces that are made to cancel (zero yes) would heat light atoms to 360 K."""
    settings = DemoSettings(steps=8000, friction=50.0, stride=20, threads=1, most_seconds=None, height=0.01)
    run_demo(tmp_path, "lammps", settings, weak_model)
    log = (tmp_path / "log.lammps").read_text()
    temperatures = [float(value) for value in re.findall(r"^progress=\d+ (\S+) ", log, re.MULTILINE)]
    # 80 samples of 63 degrees of freedom: 6 K of noise.
    assert len(temperatures) == 81
    assert np.mean(temperatures[1:]) == pytest.approx(300.0, abs=25.0)


def test_no_example_makes_random_forces_cancel() -> None:
    examples = Path(__file__).parents[1] / "examples"
    if not examples.exists():
        pytest.skip("examples are not part of a source distribution")
    baths = [
        line
        for path in examples.rglob("in.*")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"fix\s.*\slangevin\s", line)
    ]
    assert len(baths) >= 2
    assert not [line for line in baths if re.search(r"zero\s+yes", line)]


@pytest.mark.skipif("ala2" not in shipped_names(), reason="the model ala2 is not in this copy")
@pytest.mark.parametrize("engine", ENGINES)
def test_shipped_model_keeps_the_molecule_together(engine: str, tmp_path: Path) -> None:
    settings = DemoSettings(steps=3000, frame_stride=500, threads=1, most_seconds=None)
    run_demo(tmp_path, engine, settings)
    frames = ase.io.read(tmp_path / TRAJECTORY, ":", format="xyz")
    start = alanine_dipeptide_positions()
    lengths = np.linalg.norm(start[:, None] - start[None, :], axis=-1)
    bonds = np.argwhere(np.triu((lengths > 0.5) & (lengths < 1.6)))
    assert len(bonds) == 21
    for frame in frames:
        found = frame.get_all_distances()[tuple(bonds.T)]
        assert np.abs(found / lengths[tuple(bonds.T)] - 1.0).max() < 0.2
    rows = read_table(tmp_path / COLVAR)
    # Relaxed before the bias begins, it is at the minimum C7eq.
    assert conformer((rows.column("phi")[0], rows.column("psi")[0])) == "C7eq"


@needs_kernel
@pytest.mark.parametrize("engine", ENGINES)
def test_plumed_adds_the_bias_where_it_is(engine: str, tmp_path: Path, weak_model: Path) -> None:
    tmp_path /= "a folder of mine"
    result, _ = run_demo(tmp_path, engine, SHORT, weak_model)
    assert result.route == "PLUMED"
    hills = read_hills([tmp_path / HILLS])
    # In OpenMM, PLUMED takes up a step when the forces of the next one are asked for.
    count = 39 if engine == "openmm" else 40
    np.testing.assert_allclose(hills.times, np.arange(1, count + 1) * 0.02, atol=1e-6)
    assert hills.kernel == "stretched-gaussian"
    assert (tmp_path / "plumed.dat").read_text().startswith("# Written by symmd demo")
    rows = read_table(tmp_path / COLVAR)
    assert rows.column("metad.bias").max() > 0.0
    assert rows.column("metad.rbias").max() < rows.column("metad.bias").max()
    assert len(ase.io.read(tmp_path / TRAJECTORY, ":", format="xyz")) == 9


@pytest.mark.parametrize("name", [HILLS, "in.lammps", "demo.json", "colvars.colvars.traj"])
def test_folder_with_files_of_others_is_left_alone(name: str, tmp_path: Path, weak_model: Path) -> None:
    (tmp_path / name).write_text('{"settings": "mine"}')
    if name == "in.lammps":
        (tmp_path / "demo.json").write_text("[1, 2]")
        name = "demo.json"
    engine = "openmm" if not openmm_reason() else "lammps"
    if engine == "lammps" and reason_to_skip():
        pytest.skip(reason_to_skip())
    with pytest.raises(ConfigurationError, match=f"{name} exists but was not made by symmd demo"):
        run_demo(tmp_path, engine, SHORT, weak_model)
    assert len(list(tmp_path.iterdir())) == (2 if (tmp_path / "in.lammps").exists() else 1)


def test_unknown_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["symmd", "demo", "--engine", "gromacs"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "symmd: the engine must be openmm or lammps; found 'gromacs'\n"


def test_first_engine_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = {"_openmm_problem": "OpenMM is not installed", "_lammps_problem": "LAMMPS is not installed"}
    monkeypatch.setattr(command, "_openmm_problem", lambda: "")
    assert command.chosen_engine(None) == "openmm"
    for name, problem in problems.items():
        monkeypatch.setattr(command, name, lambda problem=problem: problem)
    with pytest.raises(SymmdError, match=r"OpenMM is not installed. LAMMPS is not installed."):
        command.chosen_engine(None)
    with pytest.raises(SymmdError, match="LAMMPS is not installed"):
        command.chosen_engine("lammps")
    monkeypatch.setattr(command, "_lammps_problem", lambda: "")
    assert command.chosen_engine(None) == "lammps"


def test_failure_of_lammps_is_one_sentence(
    tmp_path: Path, weak_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason_to_skip():
        pytest.skip(reason_to_skip())
    monkeypatch.setattr(lammps_run, "lammps_input", lambda *_: "units nonsense\n")
    monkeypatch.setattr(command, "plumed_kernel", lambda: None)
    with pytest.raises(SymmdError, match=r"LAMMPS ended with code \d+: ERROR.*; see .*log.lammps"):
        run_demo(tmp_path / "demo", "lammps", SHORT, weak_model)


@pytest.mark.skipif(bool(openmm_reason()), reason=openmm_reason() or "runs")
def test_failure_of_openmm_is_one_sentence(
    tmp_path: Path, weak_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "plumed_kernel", lambda: None)
    settings = replace(SHORT, time_step=0.001, temperature=-1.0)
    with pytest.raises(SymmdError, match=r"OpenMM ended with: "):
        run_demo(tmp_path / "demo", "openmm", settings, weak_model)


@pytest.mark.parametrize("engine", ENGINES)
def test_kernel_that_is_none_costs_no_earlier_results(
    engine: str, tmp_path: Path, weak_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demo.json").write_text('{"made by": "symmd demo", "steps": 100}')
    (tmp_path / HILLS).write_text("of an earlier demo")
    monkeypatch.chdir(tmp_path)
    for kernel in ("./absent.so", str(weak_model)):
        monkeypatch.setenv("PLUMED_KERNEL", kernel)
        with pytest.raises(
            ConfigurationError, match=r"kernel /.* cannot be loaded \(OSError: .*PLUMED_KERNEL"
        ):
            run_demo(tmp_path, engine, SHORT, weak_model)
        assert (tmp_path / HILLS).read_text() == "of an earlier demo"


def test_damaged_model_is_refused_before_anything_runs(tmp_path: Path, weak_model: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(weak_model.read_bytes()[:200])
    engine = "openmm" if not openmm_reason() else "lammps"
    if engine == "lammps" and reason_to_skip():
        pytest.skip(reason_to_skip())
    with pytest.raises(ModelFileError, match="it is cut short"):
        run_demo(tmp_path / "demo", engine, SHORT, bad)


def test_threads_are_one_or_those_that_were_offered(weak_model: Path) -> None:
    assert command.useful_threads(weak_model, 1) == 1
    assert command.useful_threads(weak_model, 2) in (1, 2)


def test_conformers_have_their_names() -> None:
    assert conformer((math.radians(-83), math.radians(73))) == "C7eq"
    assert conformer((math.radians(70), math.radians(-67))) == "C7ax"
    assert conformer((math.radians(-155), math.radians(-178))) == "C5"
    assert conformer((math.radians(0), math.radians(-120))) is None


def test_long_demo_has_no_end_by_time() -> None:
    assert LONG.most_seconds is None
    assert LONG.steps * LONG.time_step >= 10_000
