"""NequIP and Allegro as sides: compiled ahead of time by AOTInductor, as nequip-compile does it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import allegro.model
import numpy as np
import torch
from nequip.data import AtomicDataDict as Keys
from nequip.data._nl import compute_neighborlist_
from nequip.model import PresetNequIPGNNModel
from nequip.nn.compile import DictInputOutputWrapper
from nequip.scripts._compile_utils import PAIR_NEQUIP_INPUTS, single_frame_batch_map_settings
from nequip.utils.aot import aot_export_model
from nequip.utils.global_state import set_global_state
from serving import CUTOFF, SPECIES, Side, atom_types, command_line, count_operations, serve

OUTPUTS = [Keys.TOTAL_ENERGY_KEY, Keys.FORCE_KEY]
COMMON = {
    "seed": 0,
    "model_dtype": "float32",
    "r_max": CUTOFF,
    "type_names": list(SPECIES),
    "avg_num_neighbors": 50.0,
    "per_type_energy_scales": dict.fromkeys(SPECIES, 1.0),
    "per_type_energy_shifts": dict.fromkeys(SPECIES, 0.0),
}
SIZES: dict[str, tuple[Any, dict[str, Any]]] = {
    "nequip-s": (PresetNequIPGNNModel, {"preset": "S"}),
    "nequip-m": (PresetNequIPGNNModel, {"preset": "M"}),
    "allegro-l2": (
        allegro.model.AllegroModel,
        {
            "num_layers": 2,
            "l_max": 2,
            "parity": True,
            "num_scalar_features": 64,
            "num_tensor_features": 32,
            "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
            "scalar_embed_mlp_hidden_layers_depth": 1,
            "scalar_embed_mlp_hidden_layers_width": 64,
            "allegro_mlp_hidden_layers_depth": 1,
            "allegro_mlp_hidden_layers_width": 64,
            "readout_mlp_hidden_layers_depth": 1,
            "readout_mlp_hidden_layers_width": 32,
        },
    ),
}


class NequipSide(Side):
    """Given its list by matscipy, nequip's default."""

    def __init__(self, size: str, folder: Path) -> None:
        set_global_state()
        package = "nequip-allegro" if size.startswith("allegro") else "nequip"
        self.package = f"{package} {version(package)}"
        builder, options = SIZES[size]
        self.eager = builder(**COMMON, **options)
        self.eager.eval()
        self.parameters = sum(parameter.numel() for parameter in self.eager.parameters())
        self.path = folder / f"{size}_{version(package)}_{torch.__version__}.nequip.pt2"
        self.model: Any = None

    def load(self, numbers: np.ndarray, cell: np.ndarray | None) -> None:
        self.types = torch.from_numpy(atom_types(numbers))
        self.cell = cell

    def place(self, positions: np.ndarray) -> float | None:
        data = {
            Keys.POSITIONS_KEY: torch.from_numpy(positions),
            Keys.ATOM_TYPE_KEY: self.types,
            Keys.CELL_KEY: torch.from_numpy(np.zeros((3, 3)) if self.cell is None else self.cell).view(
                1, 3, 3
            ),
            Keys.PBC_KEY: torch.full((1, 3), self.cell is not None),
        }
        self.data = compute_neighborlist_(data, CUTOFF)
        return float(self.data[Keys.EDGE_INDEX_KEY].shape[1])

    def step(self) -> tuple[float, np.ndarray]:
        if self.model is None:
            self.model = self._compiled()
        return self._evaluate(self.model)

    def _evaluate(self, model: Any) -> tuple[float, np.ndarray]:
        found = model({name: self.data[name] for name in PAIR_NEQUIP_INPUTS})
        return found[Keys.TOTAL_ENERGY_KEY].item(), found[Keys.FORCE_KEY].detach().numpy()

    def _compiled(self) -> Any:
        """The compiled file, made with the first structure as its example unless it is there."""
        if not self.path.exists():
            names = {"graph": "num_frames", "node": "num_nodes", "edge": "num_edges"}
            dimensions = {
                kind: torch.export.dynamic_shapes.Dim(name, min=2, max=torch.inf)
                for kind, name in names.items()
            }
            partial = self.path.with_name("partial_" + self.path.name)
            aot_export_model(
                model=self.eager,
                device="cpu",
                input_fields=PAIR_NEQUIP_INPUTS,
                output_fields=OUTPUTS,
                data=self.data,
                batch_map=single_frame_batch_map_settings(dimensions),
                output_path=str(partial),
                # One file for any number of threads, instead of minutes of compiling for each.
                inductor_configs={"cpp.dynamic_threads": True},
            )
            partial.rename(self.path)
        package = torch._inductor.aoti_load_package(str(self.path))
        return DictInputOutputWrapper(package, PAIR_NEQUIP_INPUTS, OUTPUTS)

    def operations(self) -> dict[str, float]:
        return count_operations(lambda: self._evaluate(self.eager))


def main() -> None:
    """What run.py starts."""
    asked = command_line(__doc__, SIZES)
    torch.set_num_threads(asked.threads)
    serve(lambda: NequipSide(asked.variant, asked.folder), asked.replies)


if __name__ == "__main__":
    main()
