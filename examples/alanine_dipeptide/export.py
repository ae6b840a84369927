"""Errors on the held-out sets, and the model file with its card.

``python export.py run/best.ckpt test.xyz ala2.pt``. ``symmd export`` writes the same file without the card.
Beside the model file lies NAME.errors.json.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from symmd_md.analysis.errors import Evaluation, evaluate
from symmd_md.data import Frame, read_frames
from symmd_md.export.command import Source, export_model, trained
from symmd_md.files import write_atomically
from symmd_md.sample.frames import iterate_conformations
from symmd_md.train.kernels import choose_kernels

SETS = {
    "300 K": ("langevin_300",),
    "450 K": ("langevin_450",),
    "600 K": ("langevin_600",),
    "300 to 600 K": ("langevin_300", "langevin_450", "langevin_600"),
    "whole (φ, ψ) plane": ("plane",),
}
"""What the card shows, and the runs that it comes from."""
TITLE = "alanine dipeptide (ACE-ALA-NME, 22 atoms) in vacuum, neutral singlet"
LIMITS = (
    "this one molecule, open boundaries, bonds intact, up to about 900 K; other molecules, ions, dimers, "
    "solution and broken bonds are outside; no better than GFN2-xTB, whose surface it learned"
)


def held_out(path: Path) -> dict[str, list[Frame]]:
    """Frames by the run that made them."""
    sets: dict[str, list[Frame]] = defaultdict(list)
    for frame, conformation in zip(read_frames(path), iterate_conformations(path), strict=True):
        sets[conformation.notes["run"]].append(frame)
    return dict(sets)


def errors_of(evaluation: Evaluation) -> dict[str, float]:
    """The numbers of the card."""
    return {
        "frames": evaluation.structures,
        "energy MAE (meV/atom)": float(f"{evaluation.energy_per_atom.mae:.3g}"),
        "energy RMSE (meV/atom)": float(f"{evaluation.energy_per_atom.rmse:.3g}"),
        "force MAE (meV/Å)": float(f"{evaluation.forces.mae:.3g}"),
        "force RMSE (meV/Å)": float(f"{evaluation.forces.rmse:.3g}"),
    }


def card(errors: dict[str, dict[str, float]], note: dict[str, str], train_frames: int) -> dict[str, Any]:
    """What the file says about itself, for ``symmd models`` and ``symmd info``."""
    return {
        "title": TITLE,
        "method": f"{note['method']} ({note['program']}, accuracy {note['accuracy']})",
        "train_frames": train_frames,
        "errors": errors,
        "limits": LIMITS,
        "made_by": "examples/alanine_dipeptide",
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("test", type=Path, help="labelled frames with the note 'run'")
    parser.add_argument("output", type=Path, help="model file, ending in .pt")
    parser.add_argument("--train", type=Path, default=Path("train.xyz"), help="the training set, to count it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    source = trained(arguments.checkpoint)
    network = source.network
    sets = held_out(arguments.test)
    choose_kernels(network, "auto", torch.device("cpu"))
    errors = {
        title: errors_of(evaluate(network, [frame for name in names for frame in sets[name]]))
        for title, names in SETS.items()
        if set(names) <= sets.keys()
    }
    note = next(iterate_conformations(arguments.test)).notes
    about = card(errors, note, len(read_frames(arguments.train)))
    # The comparison of the export wants the plain network.
    plain = trained(arguments.checkpoint)
    exported = export_model(
        Source(plain.network, {**plain.provenance, "card": about}, plain.path), arguments.output
    )
    content = {"sha256": exported.sha256, "training": plain.provenance["training"], **about}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_atomically(arguments.output.with_suffix(".errors.json"), text.encode("utf-8"))
    print(text)


if __name__ == "__main__":
    main()
