"""Parameters and floating-point operations of a network, by layer and part (``symmd info``).

Operations are those of one atom in inference. A multiply-add is two, a division or a square root one, a
change of sign none; an exponential is the polynomial that the compiled kernels evaluate in fp32. The edge
pass and the node products are counted as docs/theory.md writes them (eq. 59-61), without couplings that are
zero; the kernels share factors and execute fewer (its §12).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from symmd_md.model.clebsch_gordan import Path, component_count, coupling_paths
from symmd_md.model.config import ModelConfig

EXPONENTIAL = 21
HYPERBOLIC_TANGENT = EXPONENTIAL + 4
SILU = EXPONENTIAL + 4
SILU_SLOPE = 5
"""SiLU'(x) from the sigmoid that the forward pass has."""
LANES = 16
"""Numbers of a pack that are summed at the end of an edge's backward pass."""

DISTANCE = 6
"""Length of a displacement; all that an edge beyond its layer's cutoff costs."""
GEOMETRY = 34
"""The rest of an edge, once for all channels: unit vector, envelope (eq. 4), four spline weights (eq. 8)."""
GEOMETRY_SLOPE = 29
"""Their derivatives with respect to the distance."""
HARMONICS = (0, 3, 18, 42)
"""Real spherical harmonics of a unit vector up to each degree (harmonics.h)."""
HARMONICS_PULL = (0, 6, 34, 120)
"""Their gradient with respect to the unit vector, contracted."""
VECTOR_PULL = 26
"""From the gradients by distance and direction to that by displacement (20), and onto both atoms (6)."""
SPLINE = 7
"""Four table rows times four weights, for each path and channel."""


@dataclass(frozen=True)
class Row:
    """One part of the network."""

    layer: str
    """``"embedding"``, the number of the layer counted from 1, or ``"readout"``."""
    part: str
    parameters: int
    flops_per_atom: float
    """For the energy."""
    force_flops_per_atom: float
    """What forces and virial add: the backward pass as the kernels run it, which recomputes the messages."""


def account(config: ModelConfig, neighbours: float, species_count: int) -> list[Row]:
    """Rows for every part; ``neighbours`` is the mean number of them within ``config.cutoff``.

    A layer with a shorter cutoff has fewer of them, by the ratio of the volumes. The radial network has
    parameters but no operations: it is evaluated once at the knots, and each edge reads that table through
    the spline, which belongs to the edge pass.
    """
    rows = [Row("embedding", "embedding", species_count * config.channels, 0.0, 0.0)]
    for layer in range(config.layers):
        rows += _layer_rows(config, layer, neighbours, species_count)
    return rows + list(_readout_rows(config))


def _layer_rows(config: ModelConfig, layer: int, neighbours: float, species_count: int) -> Iterator[Row]:
    name, channels = str(layer + 1), config.channels
    inputs, outputs = (
        component_count(config.input_degree(layer)),
        component_count(config.output_degree(layer)),
    )
    # Only the embedding enters the first layer, and it does not depend on where the atoms are.
    moving_input = layer > 0
    attends = config.aggregation == "attention"
    count = 2 if attends else 1
    projected = count * dense_flops(channels, inputs)
    parameters = count * (config.input_degree(layer) + 1) * channels**2
    yield Row(name, "projections", parameters, projected, projected if moving_input else 0.0)

    edges = _EdgeCounts(config, layer, neighbours)
    yield Row(name, "radial network", edges.radial_parameters(), 0.0, 0.0)
    energy, forces = edges.edge_pass()
    yield Row(name, "edge pass", 0, energy, energy + forces)
    if attends:
        energy, forces = edges.attention()
        yield Row(name, "attention", config.heads, energy, energy + forces)
    if config.body_order > 1:
        blended = dense_flops(channels, edges.outputs)
        parameters = (config.message_degree(layer) + 1) * channels**2
        yield Row(name, "blend", parameters, blended, blended)
        yield _product_row(config, layer, species_count)

    powers = config.body_order
    mixed = powers * dense_flops(channels, outputs)
    sums = (powers - 1) * outputs * channels
    parameters = powers * (config.output_degree(layer) + 1) * channels**2
    yield Row(name, "mixing", parameters, mixed + sums, mixed)

    degree = min(config.input_degree(layer), config.output_degree(layer))
    skipped = dense_flops(channels, component_count(degree))
    added = component_count(degree) * channels
    parameters = (degree + 1) * species_count * channels**2
    backward = skipped + added if moving_input else 0.0
    yield Row(name, "skip", parameters, skipped + added, backward)


def dense_flops(channels: int, components: int) -> float:
    """Mixing the channels of so many components, each by one matrix (of the atom's own species)."""
    return 2.0 * channels * channels * components


class _EdgeCounts:
    """Operations of one layer's edge pass and attention, each as (energy, more for the forces).

    The forces' backward pass begins with the whole forward pass of the atom, which the caller adds.
    """

    def __init__(self, config: ModelConfig, layer: int, neighbours: float) -> None:
        self.config, self.layer = config, layer
        l1, l2, l3 = config.input_degree(layer), config.max_degree, config.message_degree(layer)
        self.max_degree = l2
        self.inputs, self.harmonics, self.outputs = (component_count(degree) for degree in (l1, l2, l3))
        self.shared = min(self.inputs, self.outputs)
        paths = coupling_paths(l1, l2, l3)
        self.paths, self.terms, self.groups = len(paths), _terms(paths), _groups(paths)
        self.total = neighbours
        self.near = neighbours * (config.cutoff_of_layer(layer) / config.cutoff) ** 3
        self.moving_input = layer > 0

    def radial_parameters(self) -> int:
        config = self.config
        widths = (config.radial_functions, *config.radial_hidden, self.paths * config.channels)
        return sum(inner * outer for inner, outer in itertools.pairwise(widths))

    def edge_pass(self) -> tuple[float, float]:
        channels = self.config.channels
        scalar = GEOMETRY + HARMONICS[self.max_degree] + 2 * self.terms
        message = SPLINE * self.paths + 3 * self.groups
        edge = scalar + channels * (message + self.outputs)
        energy = self.total * DISTANCE + self.near * edge + self.outputs * channels

        pulls = self.outputs + 5 * self.groups + (SPLINE + 2) * self.paths + 2 * self.groups + 2 * self.terms
        if self.moving_input:
            pulls += self.inputs
        lanes = (LANES - 1) * (self.harmonics + 1)
        back = scalar + GEOMETRY_SLOPE + channels * (message + pulls) + lanes
        back += HARMONICS_PULL[self.max_degree] + VECTOR_PULL
        return energy, self.total * DISTANCE + self.near * back

    def attention(self) -> tuple[float, float]:
        channels, heads = self.config.channels, self.config.heads
        head_sum = channels - heads
        score = 1 + HYPERBOLIC_TANGENT + 1 + EXPONENTIAL + 2
        edge = (2 * self.shared - 1) * channels + head_sum + heads * score + self.outputs * channels
        energy = self.near * edge + heads * (EXPONENTIAL + 1)

        overlaps = (2 * self.shared - 1 + 2 * self.outputs - 1) * channels + 2 * head_sum
        pull_head = HYPERBOLIC_TANGENT + EXPONENTIAL + 16
        back = overlaps + heads * pull_head + 4 * self.shared * channels + (LANES - 1) + 2
        return energy, self.near * back + 2 * self.outputs * channels + head_sum


def _product_row(config: ModelConfig, layer: int, species_count: int) -> Row:
    degree, output = config.message_degree(layer), config.output_degree(layer)
    cubes = config.body_order > 2
    middle = degree if cubes else output
    square = coupling_paths(degree, degree, middle, symmetric=True)
    parts = [(_terms(square), len(square))]
    if cubes:
        cube = coupling_paths(degree, degree, output)
        parts.append((_terms(cube), len(cube)))
    parameters = species_count * config.channels * sum(paths for _, paths in parts)
    energy = 4 * sum(terms for terms, _ in parts) * config.channels
    # Each term: the weighted pull (2), onto both factors (4) and onto the weight (3), not used for forces.
    pulls = config.channels * (9 * sum(terms for terms, _ in parts) + component_count(output))
    return Row(str(layer + 1), "node products", parameters, energy, energy + pulls)


def _readout_rows(config: ModelConfig) -> Iterator[Row]:
    channels, hidden = config.channels, config.readout_hidden
    for layer in range(config.layers - 1):
        yield Row("readout", f"linear, layer {layer + 1}", channels, 2.0 * channels, channels)
    energy = 2.0 * channels * hidden + hidden * SILU + 2.0 * hidden + 2.0
    forces = 2.0 * channels * hidden + hidden * (SILU_SLOPE + 2)
    yield Row("readout", f"network, layer {config.layers}", (channels + 1) * hidden, energy, forces)


def _terms(paths: tuple[Path, ...]) -> int:
    return sum(len(path.terms) for path in paths)


def _groups(paths: tuple[Path, ...]) -> int:
    """Terms that share the first and the output component share one factor, a number of the edge alone."""
    return sum(len({(m1, m3) for m1, _, m3, _ in path.terms}) for path in paths)
