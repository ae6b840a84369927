"""What defines a network: its hyperparameters and the constants taken from its training set."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ase.data import atomic_numbers

from symmd_md.errors import ConfigurationError


@dataclass(frozen=True)
class ModelConfig:
    """Hyperparameters of the network (docs/theory.md §1-5). Lengths in Å."""

    species: tuple[str, ...] = ()
    """Element symbols that the model knows; empty: those of the training set, by atomic number."""
    cutoff: float = 5.0
    """Largest distance between interacting atoms within one layer, r_c (Å)."""
    layer_cutoffs: tuple[float, ...] | None = None
    """One cutoff ≤ r_c for each layer (Å); absent: r_c everywhere."""
    layers: int = 2
    """Number of layers, 1 to 4; messages reach layers × cutoff far."""
    channels: int = 64
    """C; a multiple of 16."""
    heads: int = 8
    """Attention heads; divides C."""
    max_degree: int = 2
    """L: highest degree of the harmonics and of the messages; 0 gives an invariant network."""
    hidden_degree: int = 1
    """Highest degree of the features passed between layers; at most L."""
    body_order: int = 3
    """Highest power of the aggregated message in the node products: 1 (products off), 2 or 3."""
    aggregation: Literal["attention", "convolution"] = "attention"
    """How messages are summed: sink-softmax attention, or a plain sum over n̄^½."""
    radial_functions: int = 8
    """Number of Bessel functions fed to the radial network."""
    radial_hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of the radial network."""
    radial_knots: int = 256
    """Intervals of the radial spline on [0, r_c]."""
    readout_hidden: int = 32
    """Width of the last layer's readout network."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "species", tuple(self.species))
        self._check_species()
        self._check_range("layers", 1, 4)
        self._check_range("max_degree", 0, 3)
        self._check_range("hidden_degree", 0, 3)
        self._check_range("body_order", 1, 3)
        self._check_range("radial_functions", 1, 32)
        self._check_range("radial_knots", 16, 4096)
        self._check_range("readout_hidden", 1, 4096)
        self._check_range("channels", 16, 1024)
        self._check_range("heads", 1, 1024)
        if self.channels % 16:
            raise ConfigurationError(f"'model.channels' must be a multiple of 16; found {self.channels}")
        if self.channels % self.heads:
            raise ConfigurationError(
                f"'model.heads' = {self.heads} must divide 'model.channels' = {self.channels}"
            )
        if self.hidden_degree > self.max_degree:
            raise ConfigurationError(
                f"'model.hidden_degree' = {self.hidden_degree} exceeds 'model.max_degree' = {self.max_degree}"
            )
        if not self.radial_hidden or min(self.radial_hidden) < 1:
            raise ConfigurationError(
                f"'model.radial_hidden' needs positive widths; found {self.radial_hidden}"
            )
        if not 0.5 <= self.cutoff <= 20.0:
            raise ConfigurationError(f"'model.cutoff' must lie between 0.5 and 20 Å; found {self.cutoff}")
        self._check_layer_cutoffs()

    def _check_species(self) -> None:
        for symbol in self.species:
            if symbol not in atomic_numbers or symbol == "X":
                raise ConfigurationError(f"'model.species' names {symbol!r}, which is not an element symbol")
        if len(set(self.species)) != len(self.species):
            raise ConfigurationError(f"'model.species' repeats an element: {', '.join(self.species)}")

    def _check_range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high:
            raise ConfigurationError(f"'model.{name}' must lie between {low} and {high}; found {value}")

    def _check_layer_cutoffs(self) -> None:
        if self.layer_cutoffs is None:
            return
        object.__setattr__(self, "layer_cutoffs", tuple(self.layer_cutoffs))
        if len(self.layer_cutoffs) != self.layers:
            raise ConfigurationError(
                f"'model.layer_cutoffs' needs one length for each of the {self.layers} layers; "
                f"found {len(self.layer_cutoffs)}"
            )
        for length in self.layer_cutoffs:
            if not 0.5 <= length <= self.cutoff:
                raise ConfigurationError(
                    f"'model.layer_cutoffs' must lie between 0.5 Å and 'model.cutoff' = {self.cutoff} Å; "
                    f"found {length}"
                )

    def cutoff_of_layer(self, layer: int) -> float:
        """Cutoff of one layer (Å), counted from 0."""
        return self.cutoff if self.layer_cutoffs is None else self.layer_cutoffs[layer]

    def input_degree(self, layer: int) -> int:
        """Highest degree of the features that enter a layer: scalars only in the first."""
        return 0 if layer == 0 else self.hidden_degree

    def output_degree(self, layer: int) -> int:
        """Highest degree of the features that leave a layer: scalars only from the last."""
        return 0 if layer == self.layers - 1 else self.hidden_degree

    def message_degree(self, layer: int) -> int:
        """Highest degree of the messages: L where node products use it, else what leaves the layer."""
        return self.max_degree if self.body_order > 1 else self.output_degree(layer)


@dataclass(frozen=True)
class ModelStatistics:
    """Constants of the training set that the network keeps."""

    reference_energies: dict[str, float] = field(default_factory=dict)
    """E0 of each element (eV); an element that is absent has 0."""
    energy_scale: float = 1.0
    """σ: unit of the learned energy (eV), the root-mean-square force component of the training set × 1 Å."""
    mean_neighbours: float = 20.0
    """n̄: mean number of neighbours within r_c."""
