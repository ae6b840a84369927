"""One layer in plain torch: projections, edge pass, node products, update (docs/theory.md, eq. 14-22).

Features are [atoms, components, channels], components in e3nn's (l, m) order. The edge pass and the node
products are objects of their own, because compiled operators with the same interface can take their place
(symmd_md.kernels).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from symmd_md.model.clebsch_gordan import (
    Path,
    component_count,
    component_slice,
    coupling_paths,
)
from symmd_md.model.config import ModelConfig
from symmd_md.model.constants import ConstantModule
from symmd_md.model.radial import RadialNetwork, envelope, evaluate_spline

SCORE_CAP = 5.0
"""Scores are bounded to ±5, so that the exponential needs no running maximum (eq. 16)."""

QUERY_GAIN = 0.01
"""Queries start small, so that training starts from nearly uniform attention (eq. 58)."""

PRODUCT_GAIN = 0.1
"""Product weights start small, so that squares and cubes of a message do not outgrow it at the start."""


@dataclass
class Edges:
    """Directed edges j→i, sorted by receiver: [E, 3] displacements r_j − r_i (Å) and the atoms they join."""

    vectors: Tensor
    receiver: Tensor
    sender: Tensor
    atom_count: int

    @functools.cached_property
    def row_start(self) -> Tensor:
        """[N + 1] int64: edges of atom i are row_start[i] to row_start[i + 1] − 1."""
        counts = torch.bincount(self.receiver, minlength=self.atom_count)
        return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


class DegreeLinear(nn.Module):
    """Channel mixing with one matrix for each degree (eq. 14, 22)."""

    def __init__(self, channels: int, max_degree: int, gain: float = 1.0) -> None:
        super().__init__()
        shape = (max_degree + 1, channels, channels)
        self.weight = nn.Parameter(gain * torch.randn(shape) / math.sqrt(channels))

    def forward(self, features: Tensor) -> Tensor:
        """[N, components, C] → [N, components, C]."""
        return torch.cat(
            [features[:, component_slice(degree)] @ matrix for degree, matrix in enumerate(self.weight)],
            dim=1,
        )


class SpeciesLinear(nn.Module):
    """Channel mixing with one matrix for each species and degree: W_skip(z) (eq. 22)."""

    def __init__(self, species_count: int, channels: int, max_degree: int) -> None:
        super().__init__()
        shape = (max_degree + 1, species_count, channels, channels)
        self.weight = nn.Parameter(torch.randn(shape) / math.sqrt(channels))

    def forward(self, features: Tensor, one_hot: Tensor) -> Tensor:
        """[N, components, C], [N, S] → [N, components, C]."""
        spread = (features.unsqueeze(2) * one_hot[:, None, :, None]).flatten(2)
        matrices = self.weight.flatten(1, 2)
        return torch.cat(
            [spread[:, component_slice(degree)] @ matrix for degree, matrix in enumerate(matrices)], dim=1
        )


def dense_coupling(paths: tuple[Path, ...], max_l2: int, max_l3: int) -> tuple[Tensor, list[int], list[int]]:
    """One dense block [(path, m1), m2, m3]; for each row the path and the first input's component."""
    rows = [(index, path, m1) for index, path in enumerate(paths) for m1 in range(2 * path.l1 + 1)]
    block = torch.zeros(len(rows), component_count(max_l2), component_count(max_l3), dtype=torch.float64)
    for row, (_, path, m1) in enumerate(rows):
        for first, m2, m3, value in path.terms:
            if first == m1:
                block[row, path.l2**2 + m2, path.l3**2 + m3] = value
    return block, [index for index, _, _ in rows], [path.l1**2 + m1 for _, path, m1 in rows]


class EdgeMessages(ConstantModule):
    """M_ij = f_ij Σ_p R_p(r_ij) · CG_p(v_j, Y(r̂_ij)), the same for every way of summing them (eq. 15)."""

    coupling: Tensor
    path_of_row: Tensor
    component_of_row: Tensor

    def __init__(self, input_degree: int, max_degree: int, message_degree: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.max_degree, self.input_degree, self.message_degree = max_degree, input_degree, message_degree
        paths = coupling_paths(input_degree, max_degree, message_degree)
        block, path_of_row, component_of_row = dense_coupling(paths, max_degree, message_degree)
        self.register_constant("coupling", block)
        # index_select, not square brackets: on a CPU its gradient is summed in the same order every time.
        self.register_buffer("path_of_row", torch.tensor(path_of_row), persistent=False)
        self.register_buffer("component_of_row", torch.tensor(component_of_row), persistent=False)
        self.path_count = len(paths)

    def forward(self, values: Tensor, table: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Edges]:
        """Messages [E', D3, C], envelope [E'] and the E' edges within this layer's cutoff."""
        within = torch.linalg.vector_norm(edges.vectors.detach(), dim=-1) < self.cutoff
        near = Edges(edges.vectors[within], edges.receiver[within], edges.sender[within], edges.atom_count)
        distance = torch.linalg.vector_norm(near.vectors, dim=-1)
        degrees = list(range(self.max_degree + 1))
        harmonics = o3.spherical_harmonics(degrees, near.vectors, normalize=True, normalization="component")
        fade = envelope(distance, self.cutoff)
        radial = evaluate_spline(table, distance, self.cutoff)
        radial = radial.unflatten(-1, (self.path_count, -1)) * fade[:, None, None]
        geometry = torch.einsum("ey,ryz->ezr", harmonics, self.coupling)
        sent = values.index_select(0, near.sender)
        weighted = radial.index_select(1, self.path_of_row) * sent.index_select(1, self.component_of_row)
        return torch.bmm(geometry, weighted), fade, near


class AttentionPass(nn.Module):
    """Sink-softmax attention over the neighbours: A_i = √n̄ Σ_j α_ij M_ij (eq. 16-18)."""

    def __init__(self, config: ModelConfig, layer: int, mean_neighbours: float) -> None:
        super().__init__()
        self.messages = _messages(config, layer)
        self.heads = config.heads
        self.gain = math.sqrt(mean_neighbours)
        self.sink = nn.Parameter(torch.full((config.heads,), math.log(max(mean_neighbours, 1.0))))

    def forward(self, values: Tensor, queries: Tensor | None, table: Tensor, edges: Edges) -> Tensor:
        """[N, D1, C] twice, spline table, edges → [N, D3, C]."""
        assert queries is not None
        messages, fade, near = self.messages(values, table, edges)
        width = values.shape[-1] // self.heads
        shared = min(queries.shape[1], messages.shape[1])
        overlap = (queries.index_select(0, near.receiver)[:, :shared] * messages[:, :shared]).sum(1)
        score = overlap.unflatten(-1, (self.heads, width)).sum(-1) / math.sqrt(width)
        score = SCORE_CAP * torch.tanh(score / SCORE_CAP)
        weight = fade.unsqueeze(-1) * torch.exp(score)
        total = torch.exp(self.sink).expand(edges.atom_count, -1)
        total = total.index_add(0, near.receiver, weight)
        attention = weight / total.index_select(0, near.receiver)
        spread = attention.repeat_interleave(width, dim=-1).unsqueeze(1)
        return self.gain * _sum_by_receiver(messages * spread, near)


class ConvolutionPass(nn.Module):
    """The ablation without attention: A_i = Σ_j M_ij / √n̄ (eq. 19)."""

    def __init__(self, config: ModelConfig, layer: int, mean_neighbours: float) -> None:
        super().__init__()
        self.messages = _messages(config, layer)
        self.gain = 1.0 / math.sqrt(mean_neighbours)

    def forward(self, values: Tensor, queries: Tensor | None, table: Tensor, edges: Edges) -> Tensor:
        """[N, D1, C], no queries, spline table, edges → [N, D3, C]."""
        messages, _, near = self.messages(values, table, edges)
        return self.gain * _sum_by_receiver(messages, near)


def _messages(config: ModelConfig, layer: int) -> EdgeMessages:
    return EdgeMessages(
        config.input_degree(layer),
        config.max_degree,
        config.message_degree(layer),
        config.cutoff_of_layer(layer),
    )


def _sum_by_receiver(messages: Tensor, edges: Edges) -> Tensor:
    total = messages.new_zeros(edges.atom_count, *messages.shape[1:])
    return total.index_add(0, edges.receiver, messages)


class ChannelProduct(ConstantModule):
    """Channelwise product of two features, path and channel weighted by the atom's species (eq. 20-21)."""

    coupling: Tensor

    def __init__(
        self, species_count: int, channels: int, input_degree: int, output_degree: int, symmetric: bool
    ) -> None:
        super().__init__()
        paths = coupling_paths(input_degree, input_degree, output_degree, symmetric)
        self.weight = nn.Parameter(PRODUCT_GAIN * torch.randn(species_count, len(paths), channels))
        size = component_count(input_degree)
        block = torch.zeros(len(paths), component_count(output_degree), size, size, dtype=torch.float64)
        for index, path in enumerate(paths):
            for m1, m2, m3, value in path.terms:
                block[index, path.l3**2 + m3, path.l1**2 + m1, path.l2**2 + m2] = value
        self.register_constant("coupling", block)

    def forward(self, first: Tensor, second: Tensor, species: Tensor) -> Tensor:
        """[N, D, C] twice → [N, D_out, C]."""
        pairs = first.unsqueeze(2) * second.unsqueeze(1)
        coupled = torch.einsum("pzxy,nxyc->nzpc", self.coupling, pairs)
        return torch.einsum("nzpc,npc->nzc", coupled, self.weight.index_select(0, species))


class NodeProducts(nn.Module):
    """Q = A ⊗ A on all degrees; at body order 3, X = Q ⊗ A on those that leave the layer (eq. 20-21)."""

    def __init__(
        self, species_count: int, channels: int, input_degree: int, output_degree: int, order: int
    ) -> None:
        super().__init__()
        self.output_count = component_count(output_degree)
        middle = input_degree if order > 2 else output_degree
        self.square = ChannelProduct(species_count, channels, input_degree, middle, symmetric=True)
        self.cube = (
            ChannelProduct(species_count, channels, input_degree, output_degree, symmetric=False)
            if order > 2
            else None
        )

    def forward(self, aggregated: Tensor, species: Tensor) -> list[Tensor]:
        """[N, D, C] → the products, each [N, D_out, C]."""
        square = self.square(aggregated, aggregated, species)
        products = [square[:, : self.output_count]]
        if self.cube is not None:
            products.append(self.cube(square, aggregated, species))
        return products


class Layer(nn.Module):
    """h → h' = W_1 B + W_2 (B⊗B) + W_3 ((B⊗B)⊗B) + W_skip(z) h, with the blend B = W_0 A (eq. 14-22)."""

    def __init__(self, config: ModelConfig, layer: int, mean_neighbours: float) -> None:
        super().__init__()
        channels, species_count = config.channels, len(config.species)
        self.input_degree = config.input_degree(layer)
        self.output_degree = config.output_degree(layer)
        message_degree = config.message_degree(layer)
        self.values = DegreeLinear(channels, self.input_degree)
        attends = config.aggregation == "attention"
        self.queries = DegreeLinear(channels, self.input_degree, QUERY_GAIN) if attends else None
        edge_pass = AttentionPass if attends else ConvolutionPass
        self.edge_pass: nn.Module = edge_pass(config, layer, mean_neighbours)
        paths = coupling_paths(self.input_degree, config.max_degree, message_degree)
        self.radial = RadialNetwork(
            config.cutoff_of_layer(layer),
            config.radial_functions,
            config.radial_hidden,
            len(paths) * channels,
            config.radial_knots,
        )
        multiplies = config.body_order > 1
        self.blend = DegreeLinear(channels, message_degree) if multiplies else None
        self.products: nn.Module | None = (
            NodeProducts(species_count, channels, message_degree, self.output_degree, config.body_order)
            if multiplies
            else None
        )
        self.mix = nn.ModuleList(DegreeLinear(channels, self.output_degree) for _ in range(config.body_order))
        self.skip_degree = min(self.input_degree, self.output_degree)
        self.skip = SpeciesLinear(species_count, channels, self.skip_degree)

    def forward(self, features: Tensor, edges: Edges, species: Tensor, one_hot: Tensor) -> Tensor:
        """[N, D_in, C] → [N, D_out, C]."""
        values = self.values(features)
        queries = self.queries(features) if self.queries is not None else None
        aggregated = self.edge_pass(values, queries, self.radial.table(), edges)
        if self.blend is not None:
            aggregated = self.blend(aggregated)
        powers = [aggregated[:, : component_count(self.output_degree)]]
        if self.products is not None:
            powers += self.products(aggregated, species)
        updated = sum(mix(power) for mix, power in zip(self.mix, powers, strict=True))
        assert isinstance(updated, Tensor)
        skipped = self.skip(features[:, : component_count(self.skip_degree)], one_hot)
        missing = updated.shape[1] - skipped.shape[1]
        return updated + torch.nn.functional.pad(skipped, (0, 0, 0, missing))
