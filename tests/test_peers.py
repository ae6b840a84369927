"""The comparison with the peers, as far as it goes without them: our own side, rows and picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"
MODULES = ("environments", "rounds", "pareto", "record", "flops", "run")


@pytest.fixture(scope="module")
def peers() -> Iterator[SimpleNamespace]:
    """The modules of the benchmark, which find each other by their folder."""
    if not FOLDER.exists():
        pytest.skip("benchmarks are not part of a source distribution")
    path, known = list(sys.path), {name: sys.modules.pop(name, None) for name in MODULES}
    sys.path.insert(0, str(FOLDER))
    try:
        import pareto
        import rounds
        import run

        yield SimpleNamespace(pareto=pareto, rounds=rounds, run=run)
    finally:
        sys.path[:] = path
        for name, module in known.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


@pytest.fixture(scope="module")
def rows(peers: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Two rounds of the engine, the matrix product and a peer that is not installed."""
    wanted = ("product", "default", "small-script")
    kinds = [kind for kind in peers.run.KINDS if kind.variant in wanted]
    timed = peers.run.structures(None, (22, 24))
    limits = peers.rounds.Limits(rounds=2, turn=0.02)
    found: list[dict[str, Any]] = peers.run.measure(
        kinds, timed, (1,), tmp_path_factory.mktemp("peers"), limits
    )
    return found


def of(rows: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["model"] == model]


def test_engine_takes_its_turns(rows: list[dict[str, Any]]) -> None:
    molecule, water = of(rows, "SymMD")
    assert (molecule["structure"], molecule["atoms"], water["atoms"]) == ("alanine dipeptide", 22, 24)
    for row in (molecule, water):
        assert row["problem"] is None
        assert row["steps"] >= 2
        assert 0 < row["best (ms)"] <= row["median (ms)"]
        assert row["with a new list (ms)"] > 0
        assert row["parameters"] > 1e5
    assert molecule["forces against energies"] == pytest.approx(1.0, abs=0.01)
    # 356 pairs within 5 Å in the molecule.
    assert molecule["pairs per atom"] == pytest.approx(356 / 22, abs=0.01)


def test_peer_that_is_not_installed_has_a_row_that_says_so(rows: list[dict[str, Any]]) -> None:
    found = of(rows, "MACE small")
    assert len(found) == 2
    assert all("run environments.py" in row["problem"] for row in found)
    assert all(row["median (ms)"] is None for row in found)


def test_tables_of_the_rows(peers: SimpleNamespace, rows: list[dict[str, Any]], tmp_path: Path) -> None:
    summary = peers.run.summary(rows)
    assert [line["model"] for line in summary] == ["matrix product", "SymMD", "MACE small"]
    column = "alanine dipeptide, 22 atoms, 1 thread (ms)"
    assert summary[0][column].endswith("GFLOP/s")
    assert float(summary[1][column]) > 0
    assert "run environments.py" in summary[2][column]
    path = peers.run.record.write_result("peers_summary", "A title", "a command", summary, tmp_path)
    table = peers.run.record.table(json.loads(path.read_text(encoding="utf-8")))
    assert table.count("\n") == 3 + len(summary)


def test_operations_of_the_engine_are_those_of_its_equations(
    peers: SimpleNamespace, rows: list[dict[str, Any]]
) -> None:
    molecule, _ = peers.run.operation_rows(rows)
    config = peers.run.ModelConfig(peers.run.SPECIES, peers.run.CUTOFF, channels=64)
    expected = sum(peers.run.step_flops(config, 16.18, 4).values())
    assert float(molecule["as the engine does it (MFLOP per atom)"]) == pytest.approx(
        1e-6 * expected, rel=0.01
    )
    # torch multiplies by the zeros of the couplings.
    assert float(molecule["matrix products (MFLOP per atom)"]) > 1e-6 * expected


def test_side_that_is_too_slow_or_ends_stops_no_other(peers: SimpleNamespace, tmp_path: Path) -> None:
    kind = next(kind for kind in peers.run.KINDS if kind.variant == "product")
    limits = peers.rounds.Limits(rounds=1, turn=0.01)
    sides = [peers.rounds.SideProcess(kind, 1, tmp_path, tmp_path / "log") for _ in range(2)]
    try:
        with pytest.raises(peers.rounds.SideError, match="more than 0 s"):
            sides[0].ask(0.0, do="describe")
        sides[0].process.wait()
        with pytest.raises(peers.rounds.SideError, match="has ended"):
            sides[0].ask(limits.load, do="describe")
        with pytest.raises(peers.rounds.SideError, match="KeyError"):
            sides[1].ask(limits.load, do="nothing of this name")
        assert sides[1].ask(limits.load, do="describe")["parameters"] == 0
    finally:
        for side in sides:
            side.close()


def test_problem_is_short_and_names_no_folder(peers: SimpleNamespace) -> None:
    problem = peers.rounds.problem_of
    assert (
        problem("OSError: cannot open /a/folder/of/this/file.pb: gone\nmore")
        == "OSError: cannot open file.pb: gone"
    )
    assert problem("RuntimeError: [enforce fail] you tried to allocate 9 bytes") == "not enough memory"
    assert len(problem("x" * 1000)) == 100


def speed_row(model: str, route: str, time: float | None, structure: str = "3BPA") -> dict[str, Any]:
    return {
        **{"model": model, "route": route, "structure": structure, "atoms": 27, "threads": 1},
        "median (ms)": time,
    }


def test_picture_has_the_models_of_which_time_and_error_are_known(
    peers: SimpleNamespace, tmp_path: Path
) -> None:
    speed = [
        *(speed_row("A", "slow", 9.0), speed_row("A", "fast", 3.0), speed_row("B", "only", 5.0)),
        *(speed_row("C", "only", None), speed_row("D", "only", 1.0), speed_row("A", "fast", 1.0, "water")),
    ]
    errors = [
        *(
            {"model": model, "test": "300K", "force_rmse": error}
            for model, error in (("A", 20), ("B", 30), ("C", 1))
        ),
        {"model": "D", "test": "600K", "force_rmse": 1.0},
    ]
    found = peers.pareto.points(speed, errors)
    assert found == [("A", 3.0, 20), ("B", 5.0, 30)]
    assert peers.pareto.front(found) == [(3.0, 20)]
    assert peers.pareto.draw(speed, errors, "a machine", tmp_path / "pareto.png") == tmp_path / "pareto.png"
    with Image.open(tmp_path / "pareto.png") as picture:
        assert picture.width > 600
    assert peers.pareto.draw(speed, [], "a machine", tmp_path / "none.png") is None
    assert not (tmp_path / "none.png").exists()


def test_published_models_are_timed_in_the_size_that_was_published(peers: SimpleNamespace) -> None:
    published = json.loads((FOLDER / "published.json").read_text(encoding="utf-8"))
    timed = {kind.model for kind in peers.run.KINDS}
    assert {row["model"] for row in published["rows"]} <= timed
    assert set(peers.run.SIZES) == timed - {peers.run.PRODUCT}
