"""Building the operators for the torch at hand: what is there for it, and what is refused.

The whole build takes a minute; ``make test-torchforce`` does it, for another torch than this environment's.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import symmd_md
from symmd_md import build_operators
from symmd_md.errors import ConfigurationError
from symmd_md.operators import BUILD_COMMAND
from training_cases import child_environment

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_has_all_that_the_operators_are_built_of() -> None:
    package = build_operators._installed_package()
    assert (package / build_operators.ENGINE).stat().st_size > 1e6
    for folder in ("core", "torch", "include/symmd"):
        # pip compiles Python files where it puts them.
        there = {path.name for path in (package / "csrc" / folder).iterdir()} - {"__pycache__"}
        wanted = {path.name for path in (ROOT / "csrc" / folder).iterdir()} - {"__pycache__"}
        if folder == "core":
            wanted = {name for name in wanted if name.endswith(".h")}
        assert there == wanted


def test_without_the_compiled_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmd_md, "__path__", [str(tmp_path)])
    with pytest.raises(
        ConfigurationError,
        match=r"expected csrc.libsymmd_engine\.a in the installed package symmd_md, found it in",
    ):
        build_operators.build()


def test_without_cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_operators, "program", lambda name: None)
    with pytest.raises(ConfigurationError, match="needs cmake, which was not found; pip install cmake"):
        build_operators.build(tmp_path)


def test_a_build_that_fails_shows_why_and_keeps_the_old_library(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "csrc" / "torch").mkdir(parents=True)
    (tmp_path / "csrc" / "torch" / "CMakeLists.txt").write_text('message(FATAL_ERROR "no compiler today")')
    (tmp_path / build_operators.LIBRARY).write_text("the old one")
    with pytest.raises(ConfigurationError, match=rf"cmake ended with status 1; .* repeat {BUILD_COMMAND}"):
        build_operators.build(tmp_path)
    assert "no compiler today" in capfd.readouterr().err
    assert (tmp_path / build_operators.LIBRARY).read_text() == "the old one"


def test_the_engine_must_be_named_where_it_is_built_alone(tmp_path: Path) -> None:
    cmake = build_operators.program("cmake")
    if cmake is None:
        pytest.skip("cmake is not installed")
    command = [cmake, "-S", str(ROOT / "csrc" / "torch"), "-B", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "SYMMD_ENGINE must be the file libsymmd_engine.a, found ''" in done.stderr


def test_without_torch_the_command_says_so_in_one_line(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.util, runpy\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "runpy.run_module('symmd_md.build_operators', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, env=child_environment()
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"the operators need the Python package 'torch', which {sys.executable} does not have; install it, "
        "then build them again\n"
    )
