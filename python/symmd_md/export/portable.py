"""The network in the operators of torch that TorchScript compiles (docs/theory.md, eq. 1-24).

The same function as symmd_md.model, for files that are run where SymMD is not installed: harmonics are
written out, couplings and spline tables are tensors, and neighbours are found by looking at all pairs and
images. Lengths in Å, energies in eV.
"""

# Without `from __future__ import annotations`: TorchScript wants those of buffers as types, not as text.

import math
from typing import Any

import torch
from ase.data import atomic_numbers as numbers_of_symbols
from torch import Tensor, nn

from symmd_md.model import ModelConfig, SymmdNetwork
from symmd_md.model.clebsch_gordan import component_count, coupling_paths
from symmd_md.model.layers import SCORE_CAP, ChannelProduct, dense_coupling
from symmd_md.model.radial import SILU_GAIN

ELEMENTS = 119
PAIRS_AT_ONCE = 1 << 22
"""Pairs and images whose distances are computed at a time: bounds the memory."""


def harmonics(direction: Tensor, max_degree: int) -> Tensor:
    """[E, (L + 1)²] real spherical harmonics of unit vectors [E, 3], L ≤ 3 (eq. 2)."""
    x, y, z = direction.unbind(-1)
    parts = [torch.ones_like(x)]
    if max_degree >= 1:
        root = math.sqrt(3.0)
        parts += [root * x, root * y, root * z]
    if max_degree >= 2:
        root = math.sqrt(15.0)
        parts += [
            root * x * z,
            root * x * y,
            math.sqrt(5.0) * (y * y - 0.5 * (x * x + z * z)),
            root * y * z,
            0.5 * root * (z * z - x * x),
        ]
    if max_degree >= 3:
        outer, inner = math.sqrt(70.0) / 4.0, math.sqrt(42.0) / 4.0
        root = math.sqrt(105.0)
        parts += [
            outer * x * (3.0 * z * z - x * x),
            root * x * y * z,
            inner * x * (4.0 * y * y - x * x - z * z),
            0.5 * math.sqrt(7.0) * y * (2.0 * y * y - 3.0 * x * x - 3.0 * z * z),
            inner * z * (4.0 * y * y - x * x - z * z),
            0.5 * root * y * (z * z - x * x),
            outer * z * (z * z - 3.0 * x * x),
        ]
    return torch.stack(parts, dim=-1)


def mix_by_degree(features: Tensor, matrices: Tensor) -> Tensor:
    """[N, D, C] with one [C, C] matrix for each degree."""
    parts: list[Tensor] = []
    for degree in range(matrices.size(0)):
        components = features[:, degree * degree : (degree + 1) * (degree + 1)]
        parts.append(torch.matmul(components, matrices[degree]))
    return torch.cat(parts, dim=1)


def couple(coupling: Tensor, weight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """[N, D, C] twice → [N, D_out, C], with weights [N, paths, C] (eq. 20-21)."""
    pairs = first.unsqueeze(2) * second.unsqueeze(1)
    coupled = torch.einsum("pzxy,nxyc->nzpc", coupling, pairs)
    return torch.einsum("nzpc,npc->nzc", coupled, weight)


class PortableLayer(nn.Module):
    """One layer (eq. 4, 8, 14-22).

    LibTorch's ``module.to(type)`` changes indices as well, so they are made whole where they are used.
    """

    values: Tensor
    queries: Tensor
    sink: Tensor
    table: Tensor
    coupling: Tensor
    path_of_row: Tensor
    component_of_row: Tensor
    blend: Tensor
    square: Tensor
    square_coupling: Tensor
    cube: Tensor
    cube_coupling: Tensor
    mix: Tensor
    skip: Tensor

    def __init__(self, layer: Any, config: ModelConfig, index: int, mean_neighbours: float) -> None:
        super().__init__()
        dtype = layer.values.weight.dtype
        self.cutoff = config.cutoff_of_layer(index)
        self.attends = config.aggregation == "attention"
        self.gain = math.sqrt(mean_neighbours) if self.attends else 1.0 / math.sqrt(mean_neighbours)
        self.score_cap = SCORE_CAP
        self.heads = config.heads
        self.body_order = config.body_order
        self.max_degree = config.max_degree
        self.output_components = component_count(config.output_degree(index))
        message_degree = config.message_degree(index)
        paths = coupling_paths(config.input_degree(index), config.max_degree, message_degree)
        block, path_of_row, component_of_row = dense_coupling(paths, config.max_degree, message_degree)
        absent = torch.zeros(0, dtype=dtype)
        products = layer.products
        tensors: dict[str, Tensor] = {
            "values": layer.values.weight,
            "queries": layer.queries.weight if self.attends else absent,
            "sink": layer.edge_pass.sink if self.attends else absent,
            "table": layer.radial.table().unflatten(1, (len(paths), -1)),
            "coupling": block.to(dtype),
            "path_of_row": torch.tensor(path_of_row),
            "component_of_row": torch.tensor(component_of_row),
            "blend": layer.blend.weight if layer.blend is not None else absent,
            "mix": torch.stack([mix.weight for mix in layer.mix]),
            "skip": layer.skip.weight,
        }
        for name in ("square", "cube"):
            product: ChannelProduct | None = getattr(products, name, None)
            tensors[name] = product.weight if product is not None else absent
            tensors[f"{name}_coupling"] = product.coupling if product is not None else absent
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone().contiguous())

    def messages(
        self, values: Tensor, vectors: Tensor, distance: Tensor, sender: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Messages [E, D3, C] and envelope [E] (eq. 4, 8, 15)."""
        u = (distance / self.cutoff).clamp(max=1.0)
        fade = 1.0 - u**6 * (28.0 - 48.0 * u + 21.0 * u * u)
        knots = self.table.size(0) // 2 - 1
        position = distance * (float(knots) / self.cutoff)
        interval = position.detach().floor().to(torch.int64).clamp(0, knots - 1)
        t = position - interval
        weights = [
            (1.0 + 2.0 * t) * (1.0 - t) ** 2,
            t * (1.0 - t) ** 2,
            t * t * (3.0 - 2.0 * t),
            t * t * (t - 1.0),
        ]
        radial = torch.zeros([], dtype=values.dtype, device=values.device)
        for row in range(4):
            radial = radial + self.table.index_select(0, 2 * interval + row) * weights[row][:, None, None]
        radial = radial * fade[:, None, None]
        shape = harmonics(vectors / distance.unsqueeze(-1), self.max_degree)
        geometry = torch.einsum("ey,ryz->ezr", shape, self.coupling)
        sent = values.index_select(0, sender).index_select(1, self.component_of_row.long())
        return torch.bmm(geometry, radial.index_select(1, self.path_of_row.long()) * sent), fade

    def aggregate(self, features: Tensor, vectors: Tensor, receiver: Tensor, sender: Tensor) -> Tensor:
        """[N, D1, C] → [N, D3, C] (eq. 14, 16-19)."""
        distance = torch.linalg.vector_norm(vectors, dim=-1)
        within = (distance.detach() < self.cutoff).nonzero().flatten()
        receiver, sender = receiver.index_select(0, within), sender.index_select(0, within)
        values = mix_by_degree(features, self.values)
        messages, fade = self.messages(
            values, vectors.index_select(0, within), distance.index_select(0, within), sender
        )
        atoms, channels = features.size(0), features.size(2)
        if self.attends:
            queries = mix_by_degree(features, self.queries).index_select(0, receiver)
            shared = min(queries.size(1), messages.size(1))
            overlap = (queries[:, :shared] * messages[:, :shared]).sum(1)
            width = channels // self.heads
            score = overlap.reshape(-1, self.heads, width).sum(-1) / math.sqrt(float(width))
            score = self.score_cap * torch.tanh(score / self.score_cap)
            weight = fade.unsqueeze(-1) * torch.exp(score)
            total = torch.exp(self.sink).expand(atoms, -1).index_add(0, receiver, weight)
            attention = weight / total.index_select(0, receiver)
            spread = attention.unsqueeze(-1).expand(-1, -1, width).reshape(-1, 1, channels)
            messages = messages * spread
        total = torch.zeros([atoms, messages.size(1), channels], dtype=features.dtype, device=features.device)
        return self.gain * total.index_add(0, receiver, messages)

    def forward(
        self, features: Tensor, vectors: Tensor, receiver: Tensor, sender: Tensor, species: Tensor
    ) -> Tensor:
        """[N, D_in, C] → [N, D_out, C]."""
        aggregated = self.aggregate(features, vectors, receiver, sender)
        if self.body_order > 1:
            aggregated = mix_by_degree(aggregated, self.blend)
        out = self.output_components
        updated = mix_by_degree(aggregated[:, :out], self.mix[0])
        if self.body_order > 1:
            weight = self.square.index_select(0, species)
            square = couple(self.square_coupling, weight, aggregated, aggregated)
            updated = updated + mix_by_degree(square[:, :out], self.mix[1])
            if self.body_order > 2:
                weight = self.cube.index_select(0, species)
                cube = couple(self.cube_coupling, weight, square, aggregated)
                updated = updated + mix_by_degree(cube, self.mix[2])
        parts: list[Tensor] = []
        for degree in range(self.skip.size(0)):
            components = features[:, degree * degree : (degree + 1) * (degree + 1)]
            parts.append(torch.bmm(components, self.skip[degree].index_select(0, species)))
        skipped = torch.cat(parts, dim=1)
        return updated + torch.nn.functional.pad(skipped, [0, 0, 0, out - skipped.size(1)])


class PortableNetwork(nn.Module):
    """Edges of a structure, and energies of its atoms."""

    species_of_number: Tensor
    reference_energies: Tensor
    embedding: Tensor
    readouts: Tensor
    readout_inner: Tensor
    readout_outer: Tensor

    def __init__(self, network: SymmdNetwork) -> None:
        super().__init__()
        config = network.config
        self.cutoff = max(config.cutoff_of_layer(layer) for layer in range(config.layers))
        self.energy_scale = float(network.energy_scale)
        self.silu_gain = SILU_GAIN
        self.pairs_at_once = PAIRS_AT_ONCE
        self.elements = ", ".join(config.species)
        self.layers = nn.ModuleList(
            PortableLayer(layer, config, index, network.statistics.mean_neighbours)
            for index, layer in enumerate(network.layers)
        )
        species_of_number = torch.full((ELEMENTS,), -1, dtype=torch.int64)
        for index, symbol in enumerate(config.species):
            species_of_number[numbers_of_symbols[symbol]] = index
        tensors: dict[str, Tensor] = {
            "species_of_number": species_of_number,
            "reference_energies": network.reference_energies,
            "embedding": network.embedding,
            # Zeros for the last layer, whose readout is a network of its own.
            "readouts": torch.stack([*network.readouts, torch.zeros_like(network.embedding[0])]),
            "readout_inner": network.readout_inner,
            "readout_outer": network.readout_outer,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor.detach().clone().contiguous())

    def edges(self, positions: Tensor, cell: Tensor | None, pbc: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        """Displacements [E, 3] of all directed edges (eq. 1), their receivers and senders."""
        if positions.dim() != 2 or positions.size(1) != 3:
            raise RuntimeError(f"positions must be of shape [atoms, 3], found {positions.shape}")
        if not bool(torch.isfinite(positions).all()):
            raise RuntimeError("coordinates must be finite: the simulation has most likely blown up")
        positions = positions.double()
        atoms = positions.size(0)
        axes = torch.tensor(pbc, dtype=torch.bool, device=positions.device).nonzero().flatten()
        rows = torch.zeros([0, 3], dtype=positions.dtype, device=positions.device)
        if axes.size(0) > 0:
            if cell is None:
                raise RuntimeError("a periodic structure needs a cell, found None")
            if cell.dim() != 2 or cell.size(0) != 3 or cell.size(1) != 3:
                raise RuntimeError(f"cell must be of shape [3, 3], found {cell.shape}")
            rows = cell.double().index_select(0, axes)
        with torch.no_grad():
            shifts, wraps = self.images(positions, rows)
            wrapped = positions - torch.matmul(wraps, rows)
            images = torch.matmul(shifts, rows)[:, None, :] + wrapped
            atom = torch.arange(atoms, device=positions.device)
            unshifted = (shifts == 0.0).all(dim=1).unsqueeze(1)
            # Receiver, image and sender in this order: edges come out sorted by receiver.
            found: list[Tensor] = []
            block = max(1, self.pairs_at_once // max(1, images.size(0) * atoms))
            for first in range(0, atoms, block):
                last = min(first + block, atoms)
                difference = images - wrapped[first:last, None, None, :]
                distance = torch.linalg.vector_norm(difference, dim=-1)
                itself = unshifted & (atom[first:last, None, None] == atom)
                near = (distance < self.cutoff) & ~itself
                if bool((near & (distance == 0.0)).any()):
                    raise RuntimeError(
                        "expected atoms and images in different places, found two that coincide; "
                        "remove one of them or correct the cell"
                    )
                pairs = near.nonzero()
                pairs[:, 0] += first
                found.append(pairs)
            if len(found) == 0:
                found.append(torch.zeros([0, 3], dtype=torch.int64, device=positions.device))
            receiver, image, sender = torch.cat(found).unbind(1)
            crossed = shifts.index_select(0, image) + wraps.index_select(0, receiver)
            crossed = crossed - wraps.index_select(0, sender)
        vectors = positions.index_select(0, sender) - positions.index_select(0, receiver)
        return vectors + torch.matmul(crossed, rows), receiver, sender

    def images(self, positions: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Shifts [S, P] that may bring an atom within the cutoff, along P periodic [P, 3] cell vectors.

        And how often [N, P] each atom is to be taken back to have it between 0 and 1.
        """
        periodic = rows.size(0)
        shifts = torch.zeros([1, 0], dtype=positions.dtype, device=positions.device)
        if periodic == 0:
            return shifts, torch.zeros([positions.size(0), 0], dtype=positions.dtype, device=positions.device)
        gram = torch.matmul(rows, rows.t())
        volume = torch.linalg.det(gram).clamp(min=0.0).sqrt()
        lengths = torch.linalg.vector_norm(rows, dim=1)
        if not bool(volume > 1e-12 * lengths.prod()):
            raise RuntimeError(
                "periodic cell vectors must span a volume, found vectors that depend on each other"
            )
        inverse = torch.matmul(rows.t(), torch.linalg.inv(gram))
        # 1 / length of a column is the distance between the planes that atoms and their images lie on.
        reach = torch.ceil(self.cutoff * torch.linalg.vector_norm(inverse, dim=0))
        for axis in range(periodic):
            most = int(reach[axis].item())
            steps = torch.arange(-most, most + 1, device=positions.device).to(positions.dtype)
            before = shifts.repeat_interleave(steps.size(0), dim=0)
            shifts = torch.cat([before, steps.repeat(shifts.size(0)).unsqueeze(1)], dim=1)
        return shifts, torch.floor(torch.matmul(positions, inverse))

    def atom_energies(
        self, atomic_numbers: Tensor, vectors: Tensor, receiver: Tensor, sender: Tensor
    ) -> tuple[Tensor, Tensor]:
        """[N] learned energies in the module's precision, [N] reference energies (eq. 13, 23-24)."""
        numbers = atomic_numbers.to(dtype=torch.int64, device=self.species_of_number.device)
        last = self.species_of_number.size(0) - 1
        species = self.species_of_number.long().index_select(0, numbers.clamp(0, last))
        unknown = (species < 0) | (numbers != numbers.clamp(0, last))
        if bool(unknown.any()):
            found = int(numbers[unknown][0].item())
            raise RuntimeError(
                f"the model knows {self.elements}, found an atom with atomic number {found}; use a model "
                "that was trained with this element"
            )
        vectors = vectors.to(self.embedding.dtype)
        features = self.embedding.index_select(0, species).unsqueeze(1)
        total = torch.zeros([species.size(0)], dtype=vectors.dtype, device=vectors.device)
        for index, layer in enumerate(self.layers):
            features = layer(features, vectors, receiver, sender, species)
            total = total + torch.mv(features[:, 0], self.readouts[index])
        inner = self.silu_gain * torch.nn.functional.silu(torch.matmul(features[:, 0], self.readout_inner))
        total = total + torch.mv(inner, self.readout_outer)
        return self.energy_scale * total, self.reference_energies.double().index_select(0, species)
