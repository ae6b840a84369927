"""Exported models for the tests of TorchForce: ``python tests/torchforce/make_models.py FOLDER``.

Run where models are trained and exported, with the torch of that environment: TorchForce's own is older, and
has to read what the newer one wrote.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model_cases import make_config, make_network
from symmd_md.export.command import Source, export_model

KINDS = {
    "default": {"channels": 32},
    "degree-3": {"max_degree": 3, "hidden_degree": 2, "body_order": 2, "layer_cutoffs": (3.5, 3.0)},
}


def main(folder: Path) -> None:
    """Write ``KIND.pt`` and ``KIND_portable.pt`` of each kind, in float64."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in KINDS.items():
        network = make_network(make_config(**settings)).eval()
        network.requires_grad_(False)
        path = folder / f"{name}.pt"
        export_model(Source(network, {"origin": "a test"}, path), path, portable=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
