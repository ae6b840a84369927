"""Small models of every kind for engine_random: ``python tests/native/make_models.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from model_cases import make_config, make_network
from symmd_md.export import write_model_file

KINDS = {
    "scalars": {"max_degree": 0, "hidden_degree": 0, "heads": 16},
    "default": {"channels": 48, "heads": 3, "readout_hidden": 20},
    "degree-3": {"max_degree": 3, "hidden_degree": 3, "layers": 3},
    "convolution": {"max_degree": 3, "hidden_degree": 1, "aggregation": "convolution", "body_order": 2},
    "four-layers": {"layers": 4, "body_order": 1, "layer_cutoffs": (2.0, 3.5, 2.5, 3.0), "hidden_degree": 2},
    "one-layer": {"layers": 1, "channels": 32},
}


def main(folder: Path) -> None:
    """Write a model of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in KINDS.items():
        network = make_network(make_config(radial_knots=64, **settings))
        write_model_file(network, folder / f"{name}.safetensors", {"source": "a test"})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
