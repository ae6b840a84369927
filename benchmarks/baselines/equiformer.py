"""An Equiformer to compare with: equivariant graph attention after Liao and Smidt, arXiv 2206.11990.

Of that paper: features of decreasing width by degree, an edge-degree embedding, and blocks of equivariant
layer norm, graph attention and feed-forward network with residual connections. The attention has depth-wise
tensor products with radial weights of each edge, a linear mixing of channels on each edge, scores by a small
network over the scalars of the message (not a dot product), a gate, and a second tensor product for the
values.

As in SymMD and unlike the paper: parity is kept, eight Bessel functions and the polynomial envelope, E0 and
energy scale. Messages fade with the envelope, so that forces are continuous. What cannot reach the energy
(the last block's components of degree above 0) is not computed.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from e3nn import o3
from torch import Tensor, nn

from symmd_md.model import ModelConfig, ModelStatistics, SymmdNetwork
from symmd_md.model.clebsch_gordan import component_count, coupling_paths
from symmd_md.model.constants import ConstantModule
from symmd_md.model.layers import Edges
from symmd_md.model.radial import SILU_GAIN, bessel_features, envelope

Features = list[Tensor]
"""By degree l: [rows, 2l + 1, channels of l]; rows are atoms or edges."""

LEAK = 0.2
"""Slope of the scores' activation far below zero."""
NORM_EPSILON = 1e-5
SUM_EPSILON = 1e-9


@dataclass(frozen=True)
class EquiformerConfig:
    """Widths; the default has about as many parameters as SymMD's default network."""

    blocks: int = 2
    channels: tuple[int, ...] = (52, 28, 12)
    """Channels of the features by degree; its length less one is the highest degree of all features."""
    heads: int = 4
    """Attention heads; divides every number of channels."""
    score_channels: int = 16
    """Scalars of each head from which its score is made."""
    feed_forward: int = 2
    """Width of the feed-forward network in units of that of the features."""
    radial_functions: int = 8
    radial_hidden: tuple[int, ...] = (64, 64)


class Mixing(nn.Module):
    """Linear mixing of channels by degree, with a bias for scalars if asked."""

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool = False) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(before, after) / math.sqrt(before))
            for before, after in zip(inputs, outputs, strict=False)
        )
        self.bias = nn.Parameter(torch.zeros(outputs[0])) if bias else None

    def forward(self, features: Features) -> Features:
        """[rows, 2l + 1, inputs of l] → [rows, 2l + 1, outputs of l], for the degrees that have a matrix."""
        mixed = [part @ weight for part, weight in zip(features, self.weights, strict=False)]
        if self.bias is not None:
            mixed[0] = mixed[0] + self.bias
        return mixed


class Norm(nn.Module):
    """Equivariant layer norm: scalars as usual, other degrees by their root-mean-square length."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.scalars = nn.LayerNorm(channels[0], NORM_EPSILON)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(width)) for width in channels[1:])

    def forward(self, features: Features) -> Features:
        """Same shapes."""
        normed = [self.scalars(features[0])]
        for part, scale in zip(features[1:], self.scales, strict=True):
            square = part.square().mean(dim=(1, 2), keepdim=True)
            normed.append(part * torch.rsqrt(square + NORM_EPSILON) * scale)
        return normed


def gated_widths(channels: tuple[int, ...]) -> tuple[int, ...]:
    """Widths before ``gate``: one more scalar for each channel of degree above 0."""
    return (sum(channels), *channels[1:])


def gate(features: Features, channels: tuple[int, ...]) -> Features:
    """SiLU on the first scalars, and each other channel times the sigmoid of a scalar of its own."""
    scalars, *gates = features[0].split(list(channels), dim=-1)
    opened = [part * torch.sigmoid(by) for part, by in zip(features[1:], gates, strict=True)]
    return [SILU_GAIN * torch.nn.functional.silu(scalars), *opened]


class Geometry(ConstantModule):
    """What a depth-wise tensor product needs of an edge, once for all blocks and channels."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        paths = coupling_paths(degree, degree, degree)
        self.targets = [[path.l3 for path in paths if path.l1 == l1] for l1 in range(degree + 1)]
        """By input degree: the output degree of each path, ascending."""
        for l1 in range(degree + 1):
            rows = sum(2 * l3 + 1 for l3 in self.targets[l1])
            block = torch.zeros(component_count(degree), rows, 2 * l1 + 1, dtype=torch.float64)
            start = 0
            for path in (path for path in paths if path.l1 == l1):
                for m1, m2, m3, value in path.terms:
                    block[path.l2**2 + m2, start + m3, m1] = value
                start += 2 * path.l3 + 1
            self.register_constant(f"coupling{l1}", block)

    def forward(self, vectors: Tensor) -> list[Tensor]:
        """[E, 3] → by input degree l1: [E, components of all paths from l1, 2 l1 + 1]."""
        degrees = list(range(self.degree + 1))
        harmonics = o3.spherical_harmonics(degrees, vectors, normalize=True, normalization="component")
        return [
            (harmonics @ getattr(self, f"coupling{l1}").flatten(1)).unflatten(-1, (-1, 2 * l1 + 1))
            for l1 in degrees
        ]


class DepthwiseProduct:
    """x ⊗ Y by channel and path, without mixing channels; paths to one degree are laid side by side.

    The harmonics meet the couplings first, once for all channels: the order with the fewest operations.
    """

    def __init__(self, geometry: Geometry, channels: tuple[int, ...], output_degree: int) -> None:
        # Output degrees ascend, so what is kept comes first.
        self.targets = [[l3 for l3 in targets if l3 <= output_degree] for targets in geometry.targets]
        self.weight_counts = [
            len(targets) * width for targets, width in zip(self.targets, channels, strict=True)
        ]
        self.widths = tuple(
            sum(width * targets.count(l3) for targets, width in zip(self.targets, channels, strict=True))
            for l3 in range(output_degree + 1)
        )

    def __call__(self, features: Features, geometry: list[Tensor], weights: Tensor) -> Features:
        """[E, 2l + 1, C_l], geometry, [E or 1, sum of weight_counts] → [E, 2l + 1, widths of l]."""
        outputs: list[Features] = [[] for _ in self.widths]
        shares = weights.split(self.weight_counts, dim=-1)
        for part, coupling, share, targets in zip(features, geometry, shares, self.targets, strict=True):
            sizes = [2 * l3 + 1 for l3 in targets]
            product = torch.bmm(coupling[:, : sum(sizes)], part).split(sizes, dim=1)
            scales = share.unflatten(-1, (len(targets), -1)).split(1, dim=1)
            for l3, block, scale in zip(targets, product, scales, strict=True):
                outputs[l3].append(block * scale)
        return [torch.cat(parts, dim=-1) for parts in outputs]


class Radial(nn.Module):
    """Weights of an edge's tensor product: a network of the Bessel features, times the envelope."""

    def __init__(self, config: EquiformerConfig, outputs: int) -> None:
        super().__init__()
        widths = (config.radial_functions, *config.radial_hidden, outputs)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(before, after) / math.sqrt(before))
            for before, after in itertools.pairwise(widths)
        )

    def forward(self, radial: Tensor, fade: Tensor) -> Tensor:
        """[E, radial functions], [E, 1] → [E, outputs]."""
        for weight in self.weights[:-1]:
            radial = SILU_GAIN * torch.nn.functional.silu(radial @ weight)
        return fade * (radial @ self.weights[-1])


@dataclass
class EdgeInputs:
    """What all blocks know of the edges: geometry, Bessel features [E, R], envelope [E, 1], atoms [E]."""

    geometry: list[Tensor]
    radial: Tensor
    fade: Tensor
    edges: Edges

    def sum_by_receiver(self, messages: Tensor) -> Tensor:
        """[E, ...] → [N, ...]."""
        total = messages.new_zeros(self.edges.atom_count, *messages.shape[1:])
        return total.index_add(0, self.edges.receiver, messages)


class GraphAttention(nn.Module):
    """Messages and scores from one tensor product, values from a second one after a gate."""

    def __init__(self, config: EquiformerConfig, geometry: Geometry, output_degree: int) -> None:
        super().__init__()
        channels = config.channels
        self.heads, self.score_count = config.heads, config.heads * config.score_channels
        self.channels = channels
        self.from_sender, self.from_receiver = Mixing(channels, channels), Mixing(channels, channels)
        self.product = DepthwiseProduct(geometry, channels, len(channels) - 1)
        self.radial = Radial(config, sum(self.product.weight_counts))
        gated = gated_widths(channels)
        self.message = Mixing(self.product.widths, (self.score_count + gated[0], *gated[1:]))
        self.score = nn.Parameter(torch.randn(config.heads, config.score_channels))
        self.value_product = DepthwiseProduct(geometry, channels, output_degree)
        self.value_weights = nn.Parameter(torch.randn(1, sum(self.value_product.weight_counts)))
        self.value = Mixing(self.value_product.widths, channels)
        self.out = Mixing(channels[: output_degree + 1], channels)

    def forward(self, features: Features, inputs: EdgeInputs) -> Features:
        """[N, 2l + 1, C_l] → the same up to the output degree."""
        edges = inputs.edges
        sent, received = self.from_sender(features), self.from_receiver(features)
        joined = [
            a.index_select(0, edges.sender) + b.index_select(0, edges.receiver)
            for a, b in zip(sent, received, strict=True)
        ]
        product = self.product(joined, inputs.geometry, self.radial(inputs.radial, inputs.fade))
        message = self.message(product)
        scores, scalars = message[0].split([self.score_count, message[0].shape[-1] - self.score_count], -1)
        attention = self._attention(scores.squeeze(1), inputs)
        value = gate([scalars, *message[1:]], self.channels)
        value = self.value(self.value_product(value, inputs.geometry, self.value_weights))
        summed = []
        for part in value:
            spread = attention.repeat_interleave(part.shape[-1] // self.heads, dim=-1).unsqueeze(1)
            summed.append(inputs.sum_by_receiver(part * spread))
        return self.out(summed)

    def _attention(self, scalars: Tensor, inputs: EdgeInputs) -> Tensor:
        """[E, heads · score channels] → [E, heads], summing to 1 over the neighbours of an atom."""
        receiver = inputs.edges.receiver
        x = scalars.unflatten(-1, (self.heads, -1))
        # A smooth leaky ReLU: LEAK·x far below zero, x far above.
        bent = 0.5 * (1.0 + LEAK) * x + 0.5 * (1.0 - LEAK) * x * (2.0 * torch.sigmoid(x) - 1.0)
        score = (bent * self.score).sum(-1) / math.sqrt(x.shape[-1])
        index = receiver.unsqueeze(-1).expand_as(score)
        lowest = score.new_full((inputs.edges.atom_count, self.heads), -math.inf)
        largest = lowest.scatter_reduce(0, index, score.detach(), "amax")
        weight = inputs.fade * torch.exp(score - largest.index_select(0, receiver))
        total = inputs.sum_by_receiver(weight) + SUM_EPSILON
        return weight / total.index_select(0, receiver)


class FeedForward(nn.Module):
    """Mixing, gate, mixing, at each atom."""

    def __init__(self, channels: tuple[int, ...], factor: int) -> None:
        super().__init__()
        self.hidden = tuple(factor * width for width in channels)
        self.inner = Mixing(channels, gated_widths(self.hidden), bias=True)
        self.outer = Mixing(self.hidden, channels, bias=True)

    def forward(self, features: Features) -> Features:
        """Same shapes."""
        return self.outer(gate(self.inner(features), self.hidden))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: EquiformerConfig, geometry: Geometry, output_degree: int) -> None:
        super().__init__()
        kept = config.channels[: output_degree + 1]
        self.norm, self.attention = Norm(config.channels), GraphAttention(config, geometry, output_degree)
        self.norm_again, self.feed_forward = Norm(kept), FeedForward(kept, config.feed_forward)

    def forward(self, features: Features, inputs: EdgeInputs) -> Features:
        """[N, 2l + 1, C_l] → the same up to the output degree."""
        update = self.attention(self.norm(features), inputs)
        features = [part + change for part, change in zip(features, update, strict=False)]
        update = self.feed_forward(self.norm_again(features))
        return [part + change for part, change in zip(features, update, strict=True)]


class Equiformer(SymmdNetwork):
    """The baseline in place of SymMD's network: same input, statistics, derivatives and training."""

    def __init__(self, shape: EquiformerConfig, config: ModelConfig, statistics: ModelStatistics) -> None:
        """``config``: its species and cutoff are used."""
        # Only E0, scale and derivatives are shared with SymMD's network, none of its layers.
        ConstantModule.__init__(self)
        self.shape, self.config, self.statistics = shape, config, statistics
        energies = [statistics.reference_energies.get(symbol, 0.0) for symbol in config.species]
        table = torch.tensor(energies, dtype=torch.float64)
        self.register_constant("reference_energies", table, always_double=True)
        self.energy_scale = statistics.energy_scale
        self.mean_neighbours = statistics.mean_neighbours
        channels, degree = shape.channels, len(shape.channels) - 1
        self.embedding = nn.Parameter(torch.randn(len(config.species), channels[0]))
        self.geometry = Geometry(degree)
        self.degree_radial = Radial(shape, (degree + 1) * channels[0])
        self.degree_mixing = Mixing((channels[0],) * (degree + 1), channels)
        self.blocks = nn.ModuleList(
            Block(shape, self.geometry, degree if block < shape.blocks - 1 else 0)
            for block in range(shape.blocks)
        )
        self.norm = Norm(channels[:1])
        self.readout = nn.Sequential(
            nn.Linear(channels[0], channels[0]), nn.SiLU(), nn.Linear(channels[0], 1)
        )

    def learned_atom_energy(self, species: Tensor, edges: Edges) -> Tensor:
        """[N] energy of each atom beyond its E0, in units of the energy scale."""
        within = torch.linalg.vector_norm(edges.vectors.detach(), dim=-1) < self.config.cutoff
        near = Edges(edges.vectors[within], edges.receiver[within], edges.sender[within], edges.atom_count)
        distance = torch.linalg.vector_norm(near.vectors, dim=-1)
        inputs = EdgeInputs(
            geometry=self.geometry(near.vectors),
            radial=bessel_features(distance, self.config.cutoff, self.shape.radial_functions),
            fade=envelope(distance, self.config.cutoff).unsqueeze(-1),
            edges=near,
        )
        features = self._embedded(species, inputs)
        for block in self.blocks:
            features = block(features, inputs)
        energy: Tensor = self.readout(self.norm(features)[0].squeeze(1)).squeeze(-1)
        return energy

    def _embedded(self, species: Tensor, inputs: EdgeInputs) -> Features:
        """[N, 2l + 1, C_l]: the species, and the sum over the neighbours of R_l(r) Y_l."""
        degrees = range(len(self.shape.channels))
        weights = self.degree_radial(inputs.radial, inputs.fade).unflatten(-1, (len(degrees), -1))
        # The paths from a scalar are its products with each Y_l, in order.
        harmonics = inputs.geometry[0].split([2 * degree + 1 for degree in degrees], dim=1)
        around = [
            inputs.sum_by_receiver(harmonic * weights[:, degree : degree + 1])
            for degree, harmonic in zip(degrees, harmonics, strict=True)
        ]
        features = [part / math.sqrt(self.mean_neighbours) for part in self.degree_mixing(around)]
        one_hot = torch.nn.functional.one_hot(species, len(self.config.species)).to(self.embedding.dtype)
        features[0] = features[0] + (one_hot @ self.embedding).unsqueeze(1)
        return features
