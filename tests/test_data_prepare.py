"""From the configuration to the data: splits, reference energies, statistics, and their refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from symmd_md.configuration import from_mapping, to_mapping
from symmd_md.data import DataConfig, PreparedData, convert, prepare
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.model.config import ModelConfig

E0 = {"H": -13.5, "C": -1029.25, "O": -2042.0}
ATOMS = "".join(f'1\nenergy={energy} pbc="F F F"\n{symbol} 0 0 0\n' for symbol, energy in E0.items())
MODEL = ModelConfig(cutoff=3.0)


def molecules(
    path: Path, count: int = 30, forces: bool = True, energies: bool = True, atoms: bool = False
) -> Path:
    """Random open molecules whose energy is the sum of E0 exactly."""
    generator = np.random.default_rng(7)
    text = ATOMS if atoms else ""
    for _ in range(count):
        symbols = generator.choice(["H", "C", "O"], size=int(generator.integers(2, 7)))
        header = "Properties=species:S:1:pos:R:3" + (":forces:R:3" if forces else "")
        if energies:
            header += f" energy={sum(E0[symbol] for symbol in symbols)}"
        text += f"{len(symbols)}\n{header}\n"
        for index, symbol in enumerate(symbols):
            row = np.array([1.2 * index, 0, 0]) + 0.1 * generator.random(3)
            row = np.concatenate([row, 2.0 * generator.normal(size=3)]) if forces else row
            text += f"{symbol} " + " ".join(f"{value:.8f}" for value in row) + "\n"
    path.write_text(text)
    return path


def sources(prepared: PreparedData) -> tuple[set[str], set[str]]:
    train, valid = (
        {dataset.frame(index).source for index in range(len(dataset))}
        for dataset in (prepared.train, prepared.valid)
    )
    return train, valid


def test_split_is_disjoint_seeded_and_of_the_sizes_asked_for(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    config = DataConfig(train=path, train_size=20, valid_size=5)
    train, valid = sources(prepare(config, MODEL))
    assert (len(train), len(valid)) == (20, 5)
    assert not train & valid
    assert sources(prepare(config, MODEL)) == (train, valid)
    assert sources(prepare(dataclasses.replace(config, seed=1), MODEL)) != (train, valid)
    by_default = prepare(DataConfig(train=path), MODEL)
    assert (len(by_default.train), len(by_default.valid)) == (27, 3)


def test_saved_split_is_used_again_and_refused_when_anything_changed(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    config = DataConfig(train=path, train_size=20, valid_size=5, seed=3)
    first = sources(prepare(config, MODEL, tmp_path / "run"))
    split_file = tmp_path / "run" / "split.json"
    saved = json.loads(split_file.read_text())
    assert saved["seed"] == 3
    assert saved["train_files"] == [str(path)]
    assert len(saved["sha256"][0]) == 64
    assert sources(prepare(config, MODEL, tmp_path / "run")) == first

    (tmp_path / "run" / "last.ckpt").touch()  # training has begun
    saved["train"], saved["valid"] = saved["train"][1:], saved["train"][:1]
    split_file.write_text(json.dumps(saved))
    assert len(prepare(config, MODEL, tmp_path / "run").train) == 19  # the file decides, not the seed

    with pytest.raises(ConfigurationError, match=r"'data\.seed' = 4 differs from 3 in .*split\.json"):
        prepare(dataclasses.replace(config, seed=4), MODEL, tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"'data\.train_size' = 21 differs from 20"):
        prepare(dataclasses.replace(config, train_size=21), MODEL, tmp_path / "run")
    path.write_text(path.read_text().replace("0.0", "0.1", 1))
    with pytest.raises(DataError, match=r"split\.json: .* found a changed .*set\.xyz; restore the data"):
        prepare(config, MODEL, tmp_path / "run")
    split_file.write_text("{")
    with pytest.raises(DataError, match=r"split\.json: expected a saved split, found a damaged file"):
        prepare(config, MODEL, tmp_path / "run")


def test_failed_start_leaves_no_split_and_a_corrected_one_succeeds(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    whole = path.read_text()
    path.write_text(whole + '1\nenergy=-13.5 Lattice="4 0 0 0 4 0 0 0 4"\nH 0 0 0\n')
    config = DataConfig(train=path, train_size=25, valid_size=6)
    with pytest.raises(DataError, match=r"set\.xyz, frame 30: expected forces"):
        prepare(config, MODEL, tmp_path / "run")
    assert not (tmp_path / "run" / "split.json").exists()
    path.write_text(whole)
    assert len(prepare(DataConfig(train=path), MODEL, tmp_path / "run").train) == 27


def test_split_of_a_folder_without_training_is_drawn_again(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    prepare(DataConfig(train=path), MODEL, tmp_path)
    molecules(path, 20)
    assert len(prepare(DataConfig(train=path, seed=1, train_size=4), MODEL, tmp_path).train) == 4
    assert json.loads((tmp_path / "split.json").read_text())["seed"] == 1


@pytest.mark.parametrize(
    ("name", "indices", "message"),
    [
        ("train", [3, 30], r"expected 'train' to list, each once, .* found 30"),
        ("train", [3, -1], r"expected 'train' .* found -1"),
        ("train", [3, 1.5], r"expected 'train' .* found 1\.5"),
        ("train", [3, 4, 3], r"expected 'train' .* found 3 twice"),
        ("valid", [], r"expected 'valid' .* found \(\)"),
        ("valid", 3, r"expected 'valid' .* found 3"),
        ("valid", [30], r"expected 'valid' .* found 30"),
        ("train", [7, 5], r"expected different frames in 'train' and 'valid', found frame 7 in both"),
    ],
)
def test_edited_split_must_name_different_frames_of_the_data(
    tmp_path: Path, name: str, indices: Any, message: str
) -> None:
    config = DataConfig(train=molecules(tmp_path / "set.xyz"))
    prepare(config, MODEL, tmp_path)
    (tmp_path / "last.ckpt").touch()
    saved = json.loads((tmp_path / "split.json").read_text()) | {"train": [3, 4], "valid": [7]}
    (tmp_path / "split.json").write_text(json.dumps(saved | {name: indices}))
    with pytest.raises(DataError, match=r"split\.json: " + message):
        prepare(config, MODEL, tmp_path)


def test_isolated_atoms_cannot_be_put_into_a_split(tmp_path: Path) -> None:
    config = DataConfig(train=molecules(tmp_path / "set.xyz", atoms=True))
    prepare(config, MODEL, tmp_path)
    (tmp_path / "last.ckpt").touch()
    saved = json.loads((tmp_path / "split.json").read_text()) | {"train": [0, 5], "valid": [7]}
    (tmp_path / "split.json").write_text(json.dumps(saved))
    with pytest.raises(DataError, match=r"'train' to list, .* that are not isolated atoms, found 0"):
        prepare(config, MODEL, tmp_path)


def test_file_given_twice_is_refused_and_shared_structures_are_counted(tmp_path: Path) -> None:
    path, folder = molecules(tmp_path / "set.xyz", 8), tmp_path / "folder"
    folder.mkdir()
    (folder / "link.xyz").symlink_to(path)
    for config in (
        DataConfig(train=path, valid=path),
        DataConfig(train=path, valid=folder),
        DataConfig(train=folder, valid=(path,)),
    ):
        with pytest.raises(
            ConfigurationError, match=r"\.xyz is given twice, in 'data\.train' and in 'data\.valid'; remove"
        ):
            prepare(config, MODEL)
    with pytest.raises(ConfigurationError, match=r"twice, in 'data\.train' and in 'data\.train'"):
        prepare(DataConfig(train=(path, path)), MODEL)
    valid = molecules(tmp_path / "valid.xyz", 5)  # the first five of the same molecules
    valid.write_text(valid.read_text().replace("energy=-", "energy=-1"))
    summary = prepare(DataConfig(train=path, valid=valid), MODEL).summary
    assert summary.shared_structures == 5
    row = list(summary.table().columns[0].cells).index("identical to a training structure")
    assert list(summary.table().columns[2].cells)[row] == "5"
    assert prepare(DataConfig(train=path), MODEL).summary.shared_structures == 0


def test_kept_graphs_of_both_sets_stay_within_the_bound(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz", 2000)
    prepared = prepare(DataConfig(train=path, cache_megabytes=1), MODEL)
    kept = [dataset._cached_bytes for dataset in (prepared.train, prepared.valid)]
    assert all(kept)
    assert sum(kept) <= 2**20 < len(prepared.train) * 1000


def test_separate_validation_file_and_several_training_files(tmp_path: Path) -> None:
    paths = tuple(molecules(tmp_path / f"{name}.xyz", 8) for name in "ab")
    valid = molecules(tmp_path / "valid.xyz", 6, atoms=True)
    prepared = prepare(DataConfig(train=paths, valid=valid), MODEL, tmp_path)
    assert (len(prepared.train), len(prepared.valid)) == (16, 6)
    assert all("valid.xyz" in source for source in sources(prepared)[1])
    saved = json.loads((tmp_path / "split.json").read_text())
    assert (len(saved["train_files"]), len(saved["valid_files"]), len(saved["sha256"])) == (2, 1, 3)
    fewer = prepare(DataConfig(train=paths, valid=valid, train_size=4, valid_size=2), MODEL)
    assert (len(fewer.train), len(fewer.valid)) == (4, 2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_size": 28, "valid_size": 5}, r"expected at least 28 \+ 5 frames .* found 30"),
        ({"train_size": 30}, r"expected at least 30 \+ 1 frames .* found 30"),
        ({"valid_size": 30}, r"expected at least 1 \+ 30 frames .* found 30"),
    ],
)
def test_more_frames_than_there_are(tmp_path: Path, sizes: dict[str, int], message: str) -> None:
    path = molecules(tmp_path / "set.xyz")
    with pytest.raises(DataError, match=message):
        prepare(DataConfig(train=path, **sizes), MODEL)


def test_more_frames_than_the_validation_file_has(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz", 4)
    valid = molecules(tmp_path / "valid.xyz", 4)
    with pytest.raises(DataError, match=r"expected at least 5 frames for 'data\.valid_size', found 4"):
        prepare(DataConfig(train=path, valid=valid, valid_size=5), MODEL)


@pytest.mark.parametrize(
    ("options", "origin"),
    [
        ({}, "least squares"),
        ({"reference_energies": "least_squares"}, "least squares"),
        ({"reference_energies": {**E0, "N": 1.0}}, "given"),
        ({"isolated_atoms": "atoms.xyz"}, "isolated atoms"),
        ({"reference_energies": "isolated_atoms", "isolated_atoms": "atoms.xyz"}, "isolated atoms"),
    ],
)
def test_reference_energies_from_every_source(tmp_path: Path, options: dict[str, Any], origin: str) -> None:
    path = molecules(tmp_path / "set.xyz")
    (tmp_path / "atoms.xyz").write_text(ATOMS)
    if "isolated_atoms" in options:
        options = {**options, "isolated_atoms": tmp_path / options["isolated_atoms"]}
    prepared = prepare(DataConfig(train=path, **options), MODEL)
    assert prepared.species == ("H", "C", "O")
    assert prepared.statistics.reference_energies == pytest.approx(E0, rel=1e-9)
    assert prepared.summary.reference_energies_from == origin


def test_isolated_atoms_among_the_data_are_references_and_not_training_frames(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz", 10, atoms=True)
    prepared = prepare(DataConfig(train=path), MODEL)
    assert len(prepared.train) + len(prepared.valid) == 10
    assert prepared.summary.reference_energies_from == "isolated atoms"
    assert prepared.statistics.reference_energies == E0


def test_atom_in_a_wide_box_is_isolated_and_one_in_a_crystal_is_not(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    atoms = tmp_path / "atoms.xyz"
    atoms.write_text(ATOMS.replace('pbc="F F F"', 'Lattice="10 0 0 0 11 0 0 0 12"'))
    prepared = prepare(DataConfig(train=path, isolated_atoms=atoms), MODEL)
    assert prepared.statistics.reference_energies == E0
    atoms.write_text(ATOMS.replace('pbc="F F F"', 'Lattice="10 0 0 0 11 0 0 0 3"'))
    with pytest.raises(DataError, match=r"atoms\.xyz, frame 0: .* found 1 atoms or a narrow cell"):
        prepare(DataConfig(train=path, isolated_atoms=atoms), MODEL)


def test_least_norm_where_compositions_do_not_determine_the_references(tmp_path: Path) -> None:
    path = tmp_path / "water.xyz"
    frame = "3\nenergy=-30\nO 0 0 0\nH 0 0 1\nH 0 1 0\n"
    path.write_text(frame * 4)
    prepared = prepare(DataConfig(train=path, require_forces=False), MODEL)
    # Of all e with e_O + 2 e_H = −30 the shortest is −30 (1, 2) / 5.
    assert prepared.statistics.reference_energies == pytest.approx({"H": -12.0, "O": -6.0})
    assert prepared.statistics.energy_scale == 1e-3  # the floor: nothing is left to learn


def test_references_of_validation_frames_do_not_leak_into_the_fit(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    valid = molecules(tmp_path / "valid.xyz", 5)
    valid.write_text(valid.read_text().replace("energy=-", "energy=-9"))
    prepared = prepare(DataConfig(train=path, valid=valid), MODEL)
    assert prepared.statistics.reference_energies == pytest.approx(E0, rel=1e-9)


def test_refused_references(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    atoms = tmp_path / "atoms.xyz"

    def refused(error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            prepare(DataConfig(train=path, **options), MODEL)

    refused(
        ConfigurationError,
        "must give an energy in eV for each of H, C, O; O is missing",
        reference_energies={"H": 1.0, "C": 2.0},
    )
    refused(ConfigurationError, "names 'Xx', which is not an element", reference_energies={**E0, "Xx": 1.0})
    refused(DataError, r"set\.xyz: .* found none of H, C, O", reference_energies="isolated_atoms")
    atoms.write_text("1\nenergy=-1\nH 0 0 0\n")
    refused(DataError, r"atoms\.xyz: .* found none of C, O", isolated_atoms=atoms)
    atoms.write_text(ATOMS + "1\nenergy=-1\nH 0 0 0\n")
    refused(DataError, r"atoms\.xyz, frame 3: expected one energy for an isolated H", isolated_atoms=atoms)
    atoms.write_text(ATOMS + "1\n\nH 0 0 0\n")
    refused(DataError, r"atoms\.xyz, frame 3: expected the energy of an isolated atom", isolated_atoms=atoms)
    atoms.write_text(ATOMS + "2\n\nH 0 0 0\nH 0 0 1\n")
    refused(DataError, r"atoms\.xyz, frame 3: expected an isolated atom, found 2 atoms", isolated_atoms=atoms)


def test_statistics_of_the_training_frames(tmp_path: Path) -> None:
    prepared = prepare(DataConfig(train=molecules(tmp_path / "set.xyz"), train_size=20), MODEL)
    frames = [prepared.train.frame(index) for index in range(20)]
    forces = np.concatenate([frame.forces for frame in frames])
    assert prepared.statistics.energy_scale == pytest.approx(np.sqrt((forces**2).mean()))
    neighbours = []
    for frame in frames:
        distances = np.linalg.norm(frame.positions[:, None] - frame.positions, axis=-1)
        neighbours += ((distances < 3.0).sum(axis=1) - 1).tolist()
    assert prepared.statistics.mean_neighbours == pytest.approx(np.mean(neighbours))
    train = prepared.summary.train
    assert train.neighbours == (min(neighbours), pytest.approx(np.mean(neighbours)), max(neighbours))
    assert train.atoms == len(neighbours) == sum(train.element_counts.values())
    assert (train.energy_labels, train.force_labels, train.stress_labels) == (20, 20, 0)
    assert train.force_max == np.abs(forces).max()


def test_energy_only_data_take_their_scale_from_the_energies(tmp_path: Path) -> None:
    path = tmp_path / "helium.xyz"
    path.write_text("".join(f"2\nenergy={2 * k}\nHe 0 0 0\nHe 0 0 1\n" for k in range(6)))
    valid = tmp_path / "valid.xyz"
    valid.write_text(path.read_text())
    config = DataConfig(train=path, valid=valid, require_forces=False)
    assert prepare(config, MODEL).statistics.energy_scale == pytest.approx(np.std(np.arange(6)))
    with pytest.raises(
        DataError, match=r"helium\.xyz, frame 0: expected forces under the key 'forces', found none"
    ):
        prepare(dataclasses.replace(config, require_forces=True), MODEL)


def test_force_only_data_have_zero_references(tmp_path: Path) -> None:
    prepared = prepare(DataConfig(train=molecules(tmp_path / "set.xyz", energies=False)), MODEL)
    assert prepared.statistics.reference_energies == {"H": 0.0, "C": 0.0, "O": 0.0}


def test_frames_without_any_label_are_refused(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz", forces=False, energies=False)
    with pytest.raises(DataError, match=r"set\.xyz, frame \d+: .* found no label; set 'data\.energy_key'"):
        prepare(DataConfig(train=path, require_forces=False), MODEL)


def test_species_of_the_model_come_first(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz")
    more = ModelConfig(cutoff=3.0, species=("O", "N", "C", "H"))
    assert prepare(DataConfig(train=path), more).species == ("O", "N", "C", "H")
    with pytest.raises(DataError, match=r"set\.xyz, frame \d+: .*elements of the model \(H, C\), found O"):
        prepare(DataConfig(train=path), ModelConfig(species=("H", "C")))


def test_store_prepares_like_the_file_it_was_made_from(tmp_path: Path) -> None:
    path = molecules(tmp_path / "set.xyz", atoms=True)
    convert(path, tmp_path / "set.h5")
    from_file = prepare(DataConfig(train=path), MODEL)
    from_store = prepare(DataConfig(train=tmp_path / "set.h5", cache_megabytes=0), MODEL, tmp_path)
    assert from_store.statistics == from_file.statistics
    assert from_store.species == from_file.species
    assert from_store.train.indices == from_file.train.indices
    np.testing.assert_array_equal(from_store.train[4].positions, from_file.train[4].positions)
    (tmp_path / "last.ckpt").touch()
    assert sources(prepare(DataConfig(train=tmp_path / "set.h5"), MODEL, tmp_path)) == sources(from_store)
    molecules(path, 31, atoms=True)
    convert(path, tmp_path / "set.h5")
    with pytest.raises(DataError, match=r"found a changed .*set\.h5"):
        prepare(DataConfig(train=tmp_path / "set.h5"), MODEL, tmp_path)


def test_summary_prints_counts_with_units(tmp_path: Path) -> None:
    prepared = prepare(DataConfig(train=molecules(tmp_path / "set.xyz")), MODEL)
    console = Console(width=120, record=True, quiet=True, file=None)
    with console.capture() as capture:
        console.quiet = False
        console.print(prepared.summary.table())
    text = capture.get()
    for words in ("training", "validation", "E0 of O (eV)", "-2042.000000", "RMS (eV/Å)", "neighbours"):
        assert words in text


def test_configuration_survives_yaml_and_refuses_contradictions(tmp_path: Path) -> None:
    config = from_mapping(
        DataConfig,
        {"train": ["a.xyz", "b.xyz"], "valid": "c.xyz", "reference_energies": {"H": -13.5}, "train_size": 4},
        "data",
    )
    assert config.train == (Path("a.xyz"), Path("b.xyz"))
    assert config.valid == Path("c.xyz")
    assert from_mapping(DataConfig, to_mapping(config), "data") == config
    for options, message in (
        ({"train_size": 0}, r"'data\.train_size' must be at least 1; found 0"),
        ({"valid_size": -1}, r"'data\.valid_size' must be at least 1; found -1"),
        ({"seed": -1}, r"'data\.seed' must not be negative"),
        ({"cache_megabytes": -1}, r"'data\.cache_megabytes' must not be negative"),
        (
            {"isolated_atoms": "x.xyz", "reference_energies": "least_squares"},
            r"'data\.isolated_atoms' contradicts 'data\.reference_energies'",
        ),
        ({"trian_size": 3}, r"unknown key 'data\.trian_size'; did you mean 'train_size'"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            from_mapping(DataConfig, {"train": "a.xyz", **options}, "data")
