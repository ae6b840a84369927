"""Small models of every kind as seeds of fuzz_model_file: ``python tests/fuzz/make_seeds.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from symmd_md.export import read_model_file, write_model_file
from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork

KINDS = {
    "smallest": {"layers": 1, "max_degree": 0, "hidden_degree": 0, "body_order": 1},
    "convolution": {"layers": 1, "max_degree": 1, "hidden_degree": 0, "aggregation": "convolution"},
    "two-layers": {"layers": 2, "max_degree": 1, "hidden_degree": 1, "body_order": 3},
}

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model_file_cases import Archive, Parts  # noqa: E402


class Nothing(torch.nn.Module):
    """The code of an archive in which only the model matters."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        """Its argument."""
        return positions


def main(folder: Path) -> None:
    """Write a bare model in each precision and one archive for each kind of network."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for name, settings in KINDS.items():
        config = ModelConfig(
            species=("H", "O"), cutoff=3.0, channels=16, heads=2, radial_knots=16, radial_hidden=(4,),
            readout_hidden=2, **settings,  # type: ignore[arg-type]
        )  # fmt: skip
        network = SymmdNetwork(config, ModelStatistics({"H": -13.6, "O": -432.1}, 1.5, 9.0))
        provenance = {
            "data": "none",
            "epochs": 3,
            "note": "Å \U0001f9ea",
            "nested": {"list": [1.5, None, True]},
        }
        for precision in (torch.float32, torch.float64):
            path = folder / f"{name}-{str(precision).removeprefix('torch.')}.safetensors"
            write_model_file(network.to(precision), path, provenance)
        extra = {"symmd.safetensors": path.read_bytes()}
        torch.jit.save(torch.jit.script(Nothing()), str(folder / f"{name}.pt"), _extra_files=extra)
    # What the writers leave out: escapes beyond ASCII, and zip64 records.
    model = read_model_file(folder / "smallest-float32.safetensors")
    header = model.header | {"validated_precisions": ["float32", "float64"]}
    tensors = {tensor_name: np.asarray(tensor) for tensor_name, tensor in model.tensors.items()}
    (folder / "zip64.pt").write_bytes(Archive(Parts(header, tensors).built(), wide=True).built())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
