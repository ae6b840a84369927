"""The frame of the project agrees with itself: version, change log, README, Makefile, licence, style."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import yaml

import symmd_md
from symmd_md.train import run_config

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (".ci", "benchmarks", "csrc", "docs", "examples", "lammps_plugin", "python", "tests")
BINARY_SUFFIXES = {".png", ".pt", ".pyc", ".so"}


def project_files() -> list[Path]:
    """Files at the top of the project and in its folders of sources."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    return top + [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_installed_version_is_the_packages_version() -> None:
    assert importlib.metadata.version("symmd-md") == symmd_md.__version__


def test_change_log_names_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(symmd_md.__version__)}\]", text, re.MULTILINE)


def test_make_commands_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)(?=[`\s#]|$)", "\n".join(code_of(readme)), re.MULTILINE))
    assert {"test", "demo"} <= named
    assert named <= targets


def test_configuration_of_the_documentation_is_a_run() -> None:
    page = (ROOT / "docs" / "train.md").read_text(encoding="utf-8")
    found = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert found is not None
    mapping = yaml.safe_load(found.group(1))
    assert set(mapping) == {"data", "model", "training"}
    assert run_config(mapping).model.channels == 64


def code_of(markdown: str) -> list[str]:
    """Blocks and spans of code of a Markdown text."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", markdown, re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))
    return blocks + spans


def test_no_file_names_a_path_of_one_machine() -> None:
    # Written in pieces, so that this file does not name one either.
    pattern = re.compile("|".join(["/" + "work/", "/" + "home/[a-z]", "/" + "root/", "/" + "tmp/[a-z]"]))
    found = []
    for path in project_files():
        if path.suffix not in BINARY_SUFFIXES:
            for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
                if pattern.search(line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


def test_no_source_file_is_longer_than_one_subject() -> None:
    sources = [path for path in project_files() if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"}]
    long = {path.name: count for path in sources if (count := len(path.read_text().splitlines())) > 600}
    assert not long


def test_command_without_its_packages_says_how_to_install_them(tmp_path: Path) -> None:
    script = (
        "import sys, importlib.abc\n"
        "class Absent(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'typer', 'ase'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from symmd_md.__main__ import main\n"
        "sys.argv = ['symmd', 'train', 'config.yaml']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(
        r"symmd needs the Python package '(torch|typer|ase)', which is not installed; "
        r"install everything it needs with: pip install 'symmd-md\[train\]'\n",
        done.stderr,
    )
