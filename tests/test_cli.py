"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from symmd_md import __version__, cli
from training_cases import child_environment, make_frames, run_mapping, symmd_command, write_frames


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "data.xyz", make_frames())


@pytest.fixture
def configuration(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(run_mapping(data, max_epochs=1)))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of ``symmd`` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["symmd", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"symmd {__version__}\n"


@pytest.mark.parametrize(
    ("command", "units"),
    [
        ("train", "meV/atom"),
        ("eval", "meV/structure"),
        ("info", "FLOPs per atom"),
        ("demo", "kJ/mol"),
        ("tour", "-o"),
        ("label", "eV/Å"),
        ("models", "pair_coeff"),
        ("sample", "(Å)"),
        ("data convert", "eV"),
        ("data summary", "eV/atom"),
        ("fes hills", "kJ/mol"),
        ("fes colvar", "kJ/mol"),
        ("fes show", "kJ/mol"),
        ("fes compare", "kJ/mol"),
    ],
)
def test_every_command_explains_itself_with_units(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, units: str
) -> None:
    assert run(monkeypatch, *command.split(), "--help") == 0
    assert units in " ".join(capsys.readouterr().out.split())


def test_help_imports_no_heavy_package() -> None:
    heavy = ("torch", "e3nn", "ase", "matplotlib")
    code = f"import sys, symmd_md.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=child_environment(), check=True
    )
    assert done.stdout.strip() == "[]"


def test_train_eval_info_and_summary(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    configuration: Path,
    data: Path,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    output = tmp_path / "run"
    assert run(monkeypatch, "train", configuration, "-o", output) == 0
    printed = capsys.readouterr().out
    assert "epoch 1/1 | train RMSE E" in printed
    assert "meV/Å" in printed
    assert run(monkeypatch, "eval", output / "best.ckpt", data, "-o", tmp_path / "report") == 0
    printed = capsys.readouterr().out
    assert "forces on H" in printed
    assert json.loads((tmp_path / "report" / "errors.json").read_text())["structures"] == 10
    for path in (output / "best.ckpt", configuration):
        assert run(monkeypatch, "info", path) == 0
        printed = capsys.readouterr().out
        assert "FLOPs per atom" in printed
        assert "channels" in printed
    for path in (data, configuration):
        assert run(monkeypatch, "data", "summary", path) == 0
        assert "energy per atom (eV)" in capsys.readouterr().out


def test_info_of_a_checkpoint_names_its_constants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    run(monkeypatch, "train", configuration, "-o", tmp_path / "run")
    capsys.readouterr()
    assert run(monkeypatch, "info", tmp_path / "run" / "last.ckpt", "--neighbours", "12") == 0
    printed = capsys.readouterr().out
    for part in ("E0 of H", "energy scale σ", "mean neighbours n̄", "12.0 neighbours", "torch_version"):
        assert part in printed


def test_the_default_folder_is_named_after_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", configuration) == 0
    assert (tmp_path / "runs" / "small" / "best.ckpt").exists()


def test_convert_writes_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    assert run(monkeypatch, "data", "convert", data, tmp_path / "data.h5") == 0
    assert "10 structures" in capsys.readouterr().out
    assert run(monkeypatch, "data", "summary", tmp_path / "data.h5") == 0
    assert "structures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "absent.yaml"], "configuration file absent.yaml does not exist"),
        (["eval", "absent.ckpt", "absent.xyz"], "checkpoint absent.ckpt does not exist"),
        (["info", "absent.ckpt"], "checkpoint absent.ckpt does not exist"),
        (["info", "absent.yaml"], "configuration file absent.yaml does not exist"),
        (["data", "summary", "absent.xyz"], "absent.xyz"),
        (["data", "convert", "absent.xyz", "x.h5"], "absent.xyz"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("symmd: ")
    assert message in error
    assert error.count("\n") == 1


def test_an_error_of_a_child_process_has_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("data: {train: x.xyz}\ntraining: {lerning_rate: 0.1}\n")
    done = subprocess.run(
        symmd_command("train", str(path)),
        capture_output=True,
        text=True,
        env=child_environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("symmd: unknown key 'training.lerning_rate'; did you mean 'learning_rate'?")
    assert "Traceback" not in done.stderr


def test_a_path_of_the_wrong_kind_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    taken = tmp_path / "taken"
    taken.write_text("")
    assert run(monkeypatch, "train", configuration, "-o", tmp_path / "run") == 0
    capsys.readouterr()
    for arguments, message in (
        (["train", "."], "configuration file . cannot be read: Is a directory"),
        (["train", configuration, "-o", taken], f"{taken}"),
        (["eval", "run/best.ckpt", "data.xyz", "-o", taken], f"{taken}"),
    ):
        assert run(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("symmd: ")
        assert message in error
        assert error.count("\n") == 1


def test_a_full_disk_is_one_line(tmp_path: Path, configuration: Path) -> None:
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
    limited += "from symmd_md import cli; cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", limited, "train", str(configuration), "-o", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=child_environment(),
    )
    assert done.returncode == 2
    assert done.stderr == "symmd: File too large\n"
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_eval_writes_beside_the_checkpoint_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    assert run(monkeypatch, "train", configuration, "-o", tmp_path / "run") == 0
    assert run(monkeypatch, "eval", tmp_path / "run" / "best.ckpt", tmp_path / "data.xyz") == 0
    folder = tmp_path / "run" / "eval_data"
    assert {path.name for path in folder.iterdir()} == {"errors.json", "parity.png"}
    assert f"written: {folder / 'errors.json'}" in capsys.readouterr().out


def test_info_with_no_neighbours_counts_none_and_shows_forces(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert run(monkeypatch, "info", configuration, "--neighbours", "0") == 0
    printed = capsys.readouterr().out
    assert "(0.0 neighbours" in printed
    assert "for the energy" in printed
    assert "for forces, more" in printed


def test_summary_takes_label_names_and_counts_unlabelled_frames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configuration: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    frames = make_frames()
    for atoms in frames:
        energy, atoms.calc = atoms.get_potential_energy(), None
        atoms.info["dft"] = energy
    del frames[0].info["dft"]
    path = write_frames(tmp_path / "named.xyz", frames)
    for arguments, unlabelled in (([], 10), (["--energy-key", "dft"], 1)):
        assert run(monkeypatch, "data", "summary", path, *arguments) == 0
        cells = [line.split("│") for line in capsys.readouterr().out.splitlines()]
        rows = {row[1].strip(): row[2].strip() for row in cells if len(row) > 2}
        assert rows["structures without a label"] == str(unlabelled)
        assert rows["energy labels"] == str(10 - unlabelled)
    assert run(monkeypatch, "data", "summary", configuration, "--energy-key", "dft") == 2
    assert "names its labels itself; remove --energy-key" in capsys.readouterr().err
