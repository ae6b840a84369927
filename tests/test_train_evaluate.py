"""Evaluation: the numbers against a direct computation, the report, and the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from symmd_md.analysis.errors import Evaluation, evaluate
from symmd_md.analysis.plots import draw_learning_curve
from symmd_md.analysis.report import evaluate_checkpoint, report_folder, write_report
from symmd_md.data import build_graph, read_frames
from symmd_md.errors import ConfigurationError, DataError
from symmd_md.model import ModelStatistics, SymmdNetwork
from symmd_md.train import load_network, run_config, train
from symmd_md.train.logs import COLUMNS
from training_cases import make_frames, run_mapping, write_frames


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_frames(tmp_path / "data.xyz", make_frames())


@pytest.fixture
def checkpoint(tmp_path: Path, data: Path) -> Path:
    train(run_config(run_mapping(data, max_epochs=2)), tmp_path / "run")
    return tmp_path / "run" / "best.ckpt"


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_errors_equal_a_direct_computation(checkpoint: Path, data: Path, batch_size: int) -> None:
    network = load_network(checkpoint)
    energy, energy_per_atom, forces, elements = [], [], [], []
    frames = read_frames(data)
    for frame in frames:
        prediction = network(build_graph(frame, network.config.species, network.config.cutoff))
        assert frame.energy is not None
        energy.append(float(prediction.energy) - frame.energy)
        energy_per_atom.append(energy[-1] / len(frame.numbers))
        forces.append(prediction.forces.numpy() - frame.forces)
        elements.append(frame.numbers)
    found = evaluate_checkpoint(checkpoint, data, batch_size).as_mapping()
    assert found["structures"] == len(frames)
    for key, errors in (("meV", energy), ("meV_per_atom", energy_per_atom)):
        assert found["energy"][f"mae_{key}"] == pytest.approx(1e3 * np.mean(np.abs(errors)), rel=1e-9)
        assert found["energy"][f"rmse_{key}"] == pytest.approx(
            1e3 * np.sqrt(np.mean(np.square(errors))), rel=1e-9
        )
    all_forces, all_elements = np.concatenate(forces), np.concatenate(elements)
    assert found["forces"]["labels"] == all_forces.size
    assert found["forces"]["mae_meV_per_A"] == pytest.approx(1e3 * np.abs(all_forces).mean(), rel=1e-9)
    assert found["forces"]["rmse_meV_per_A"] == pytest.approx(1e3 * np.sqrt((all_forces**2).mean()), rel=1e-9)
    assert list(found["forces_by_element"]) == ["C", "H", "O"]
    for symbol, number in (("H", 1), ("C", 6), ("O", 8)):
        mine = all_forces[all_elements == number]
        entry = found["forces_by_element"][symbol]
        assert entry["labels"] == mine.size
        assert entry["mae_meV_per_A"] == pytest.approx(1e3 * np.abs(mine).mean(), rel=1e-9)
        assert entry["rmse_meV_per_A"] == pytest.approx(1e3 * np.sqrt((mine**2).mean()), rel=1e-9)
    assert "stress" not in found


def crystals(path: Path) -> Path:
    """Two cells, the second without a stress label."""
    frames = []
    for index in range(2):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=index)
        labels = {"energy": -1.0, "forces": np.full((4, 3), 0.1)}
        if index == 0:
            labels["stress"] = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    return write_frames(path, frames)


def copper_evaluation(tmp_path: Path) -> tuple[SymmdNetwork, Path, Evaluation]:
    mapping = run_mapping(tmp_path / "none.xyz")
    mapping["model"]["species"] = ["Cu"]
    network = SymmdNetwork(run_config(mapping).model, ModelStatistics()).double().eval()
    path = crystals(tmp_path / "copper.xyz")
    return network, path, evaluate(network, read_frames(path), batch_size=2)


def test_stress_errors_count_labelled_structures_only(tmp_path: Path) -> None:
    network, path, evaluation = copper_evaluation(tmp_path)
    frame = read_frames(path)[0]
    graph = build_graph(frame, ("Cu",), network.config.cutoff)
    error = (network(graph, stress=True).stress - graph.stress).numpy()
    found = evaluation.as_mapping()["stress"]
    assert found["labels"] == 9
    assert found["mae_meV_per_A3"] == pytest.approx(1e3 * np.abs(error).mean(), rel=1e-9)
    assert found["rmse_meV_per_A3"] == pytest.approx(1e3 * np.sqrt((error**2).mean()), rel=1e-9)


def test_report_holds_numbers_and_a_picture(tmp_path: Path) -> None:
    _, path, evaluation = copper_evaluation(tmp_path)
    written = write_report(evaluation, Path("model.ckpt"), path, tmp_path / "report")
    assert [file.name for file in written] == ["errors.json", "parity.png"]
    content = json.loads(written[0].read_text())
    assert content["model"] == "model.ckpt"
    assert content["forces"] == evaluation.as_mapping()["forces"]
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_energies_include_the_reference_energies_at_single_precision(tmp_path: Path, data: Path) -> None:
    mapping = run_mapping(data, max_epochs=2, precision="float32")
    train(run_config(mapping), tmp_path / "run")
    single = load_network(tmp_path / "run" / "best.ckpt")
    double = load_network(tmp_path / "run" / "best.ckpt").double()
    frames = read_frames(data)
    energies = [evaluate(network, frames).energy for network in (single, double)]
    # Totals are near −1000 eV, where a float32 has steps of 6·10⁻⁵ eV.
    assert np.abs(energies[0].prediction - energies[1].prediction).max() < 1e-5
    assert np.array_equal(energies[0].label, energies[1].label)
    assert energies[0].label == pytest.approx([frame.energy for frame in frames], abs=1e-12)


def test_progress_is_told(checkpoint: Path, data: Path) -> None:
    seen: list[int] = []
    evaluate(load_network(checkpoint), read_frames(data), 4, seen.append)
    assert seen == [4, 8, 10]


def test_other_label_names(tmp_path: Path, checkpoint: Path) -> None:
    frames = make_frames()
    for atoms in frames:
        atoms.info["dft_energy"] = atoms.get_potential_energy()
        atoms.arrays["dft_forces"] = atoms.get_forces()
        atoms.calc = None
    path = write_frames(tmp_path / "named.xyz", frames)
    keys: dict[str, str | None] = {"energy_key": "dft_energy", "forces_key": "dft_forces", "stress_key": None}
    found = evaluate_checkpoint(checkpoint, path, keys=keys)
    assert (found.energy.count, found.forces.count) == (10, 90)


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path, checkpoint: Path, data: Path) -> None:
    network = load_network(checkpoint)
    with pytest.raises(DataError, match="hold no structure to evaluate"):
        evaluate(network, [])
    with pytest.raises(DataError, match=r"expected only the elements of the model \(H, C, O\), found Cu"):
        evaluate_checkpoint(checkpoint, crystals(tmp_path / "copper.xyz"))
    with pytest.raises(ConfigurationError, match="the device must be auto, cpu or cuda; found 'tpu'"):
        evaluate_checkpoint(checkpoint, data, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigurationError, match="the device is cuda but torch finds no GPU"):
            evaluate_checkpoint(checkpoint, data, device="cuda")


def test_predictions_that_are_not_finite_are_refused_by_structure(checkpoint: Path, data: Path) -> None:
    network, frames = load_network(checkpoint), read_frames(data)
    for parameter in network.parameters():
        parameter.mul_(float("nan"))
    with pytest.raises(DataError, match=r"data.xyz, frame 3: expected finite predictions, found NaN or inf"):
        evaluate(network, frames[3:])


def test_a_file_without_the_labels_asked_for_is_refused(tmp_path: Path, checkpoint: Path, data: Path) -> None:
    frames = make_frames()
    for atoms in frames:
        energy, atoms.calc = atoms.get_potential_energy(), None
        atoms.info["dft"] = energy
    path = write_frames(tmp_path / "named.xyz", frames)
    with pytest.raises(
        DataError, match=r"the energy key 'energy'; found dft; name the label by --energy-key"
    ):
        evaluate_checkpoint(checkpoint, path)
    with pytest.raises(DataError, match=r"the forces key 'dft_forces'; found .*; name the label by --forces"):
        evaluate_checkpoint(checkpoint, data, keys={"forces_key": "dft_forces"})


def test_energies_are_drawn_above_their_composition(checkpoint: Path, data: Path) -> None:
    found = evaluate_checkpoint(checkpoint, data)
    above = found.energy_per_atom.label - found.energy_offset
    assert abs(above.mean()) < 1e-9  # totals are near −1000 eV
    assert 0.0 < np.abs(above).max() < 1.0


def test_a_learning_curve_has_a_panel_of_stress_where_it_is_there(tmp_path: Path) -> None:
    stress = [column for column in COLUMNS if "stress" in column]
    rows = [{**dict.fromkeys(COLUMNS, 1.0), "epoch": float(epoch)} for epoch in range(1, 40)]
    without = [row | dict.fromkeys(stress, float("nan")) for row in rows]
    widths = []
    for name, shown in (("with.png", rows), ("without.png", without)):
        draw_learning_curve(shown, tmp_path / name)
        widths.append(int.from_bytes((tmp_path / name).read_bytes()[16:20], "big"))
    assert widths[0] * 2 == widths[1] * 3


@pytest.mark.parametrize(
    ("name", "folder"), [("test.xyz", "eval_test"), ("a.b.xyz.gz", "eval_a.b"), ("folder", "eval_folder")]
)
def test_the_report_folder_is_named_after_the_data(name: str, folder: str) -> None:
    assert report_folder(Path("run/best.ckpt"), Path("data") / name) == Path("run") / folder
