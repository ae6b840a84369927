"""What pair_style symmd refuses, each time with one sentence and before the first step."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from lammps_cases import (
    lammps_binary,
    liquid,
    molecule,
    needs_lammps,
    refusal,
    setup,
    write_data,
    write_model,
)
from symmd_md.engines.lammps import PLUGIN, plugin_folder

pytestmark = needs_lammps

# What is replaced in a good input, and what the message must say.
REFUSED: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "newton off": ({"atom_style": "newton off\natom_style"}, ("newton on", "found newton off", "remove")),
    "units lj": ({"units metal": "units lj"}, ("units metal or real", "found units lj")),
    "units electron": ({"units metal": "units electron"}, ("units metal or real", "found units electron")),
    "unknown element": ({"H C O": "H C U"}, ("atom type 3", "H C O", "found 'U'", "use a model")),
    "too few elements": ({"H C O": "H C"}, ("each of the 3 atom types", "found 2")),
    "too many elements": ({"H C O": "H C O O"}, ("each of the 3 atom types", "found 4")),
    "one pair of types": ({"pair_coeff * *": "pair_coeff 1 1"}, ("must start with * *",)),
    "NULL without hybrid": ({"H C O": "H C NULL"}, ("atom type 3", "must have an element", "hybrid")),
    "nothing but NULL": (
        {
            "pair_style symmd": "pair_style hybrid symmd",
            "* * two": "* * symmd two",
            "H C O": "NULL NULL NULL",
        },
        ("at least one atom type",),
    ),
    "no such file": ({"two.safetensors": "absent.pt"}, ("absent.pt", "cannot be read", "LAMMPS_POTENTIALS")),
    "truncated file": ({"two.safetensors": "half.safetensors"}, ("half.safetensors",)),
    "other file": ({"two.safetensors": "liquid.data"}, ("liquid.data",)),
    "no model": ({"pair_coeff * * two.safetensors H C O": ""}, ("pair coeffs",)),
    "model before style": (
        {"neighbor 0.8 bin": "pair_style symmd precision single\nneighbor 0.8 bin"},
        ("has no model", "after pair_style"),
    ),
    "unknown keyword": ({"precision double": "accuracy double"}, ("precision and device", "'accuracy'")),
    "unknown precision": ({"precision double": "precision half"}, ("single or double", "'half'")),
    "no value": ({"precision double": "precision"}, ("value after the keyword precision",)),
    "unknown device": ({"precision double": "device gpu"}, ("cpu, cuda or cuda:K", "'gpu'")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("refusals")
    write_data(made, "liquid", liquid())
    write_model(made, "one")
    content = (made / write_model(made, "two")).read_bytes()
    (made / "half.safetensors").write_bytes(content[: len(content) // 2])
    return made


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_the_first_step(folder: Path, name: str) -> None:
    replaced, parts = REFUSED[name]
    script = setup("liquid.data", "two.safetensors") + "run 0\n"
    for old, new in replaced.items():
        assert old in script
        script = script.replace(old, new, 1)
    message = refusal(folder, script)
    for part in parts:
        assert part in message


def test_special_bonds_that_drop_neighbours_are_refused(folder: Path) -> None:
    # The default factors are 0; they matter as soon as there is a bond.
    begin = setup("liquid.data", "two.safetensors")
    begin = begin.replace("atom_style atomic", "atom_style bond\nbond_style zero").replace(
        "read_data liquid.data", "read_data bonded.data"
    )
    lines = (
        (folder / "liquid.data").read_text().replace("3 atom types", "3 atom types\n1 bonds\n1 bond types")
    )
    head, atoms = lines.split("Atoms # atomic\n\n")
    rows = [line.split() for line in atoms.splitlines() if line.strip()]
    atoms = "\n".join(" ".join([row[0], "1", *row[1:]]) for row in rows)
    (folder / "bonded.data").write_text(head + "Atoms # bond\n\n" + atoms + "\n\nBonds\n\n1 1 1 2\n")
    message = refusal(folder, begin + "bond_coeff *\nrun 0\n")
    assert "special_bonds lj/coul 1 1 1" in message
    message = refusal(folder, begin + "bond_coeff *\nspecial_bonds lj/coul 0 1 1\nrun 0\n", 2)
    assert "special_bonds lj/coul 1 1 1" in message


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("model", ["one", "two"])
def test_atoms_in_one_place_are_named(folder: Path, model: str, ranks: int) -> None:
    # In the last rank's corner of the box: rank 0, which alone writes messages, has nothing wrong.
    script = (
        setup("liquid.data", f"{model}.safetensors") + "set atom 7 x 7 y 7 z 8\nset atom 31 x 7 y 7 z 8\n"
    )
    message = refusal(folder, script + "run 0\n", ranks)
    assert "are in the same place" in message
    assert "atoms 7 and 31" in message or "atoms 31 and 7" in message


def test_another_release_of_lammps_is_refused(tmp_path: Path) -> None:
    write_data(tmp_path, "molecule", molecule())
    write_model(tmp_path, "one")
    plugin = (Path(plugin_folder()) / PLUGIN).read_bytes()
    built_for = b"pair_style symmd for LAMMPS "
    start = plugin.index(built_for) + len(built_for)
    (tmp_path / PLUGIN).write_bytes(plugin[:start] + b"20240829" + plugin[start + 8 :])
    (tmp_path / "in.lammps").write_text(setup("molecule.data", "one.safetensors", "s s s") + "run 0\n")
    program, environment = lammps_binary()
    done = subprocess.run(
        [program, "-in", "in.lammps", "-log", "none"],
        cwd=tmp_path,
        env=os.environ | environment | {"LAMMPS_PLUGIN_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "built for LAMMPS 29 Aug 2024 and this is LAMMPS" in done.stdout + done.stderr
