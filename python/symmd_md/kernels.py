"""Compiled operators in place of the network's plain torch operations: same results, several times faster.

``use_fused(network)`` swaps the edge pass and the node products of every layer; parameters stay the same
objects, so optimisers and checkpoints do not notice. Compiled operators have first and second derivatives;
for higher ones keep the plain network.

Once ``available()`` was called, the operators are there by themselves, for networks of other people too:
``torch.ops.symmd.attention`` and ``node_products`` as the classes below call them, and the whole network of a
model file as ``torch.ops.symmd.potential`` (first derivatives only). torch.compile and torch.export see them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from symmd_md import operators
from symmd_md.model.layers import AttentionPass, ConvolutionPass, Edges, Layer, NodeProducts
from symmd_md.model.network import SymmdNetwork


def available() -> bool:
    """Whether the compiled operators can be used."""
    return operators.reason_not_loaded() is None


def instruction_set() -> str:
    """Name of the instruction set in use: baseline, avx2 or avx512."""
    require()
    return str(torch.ops.symmd.instruction_set())


def use_fused(network: SymmdNetwork) -> SymmdNetwork:
    """Swap the layers' parts for compiled ones, in place; a part that has no kernel stays plain."""
    require()
    for layer in network.layers:
        assert isinstance(layer, Layer)
        if isinstance(layer.edge_pass, (AttentionPass, ConvolutionPass)) and FusedEdgePass.supports(
            layer.edge_pass
        ):
            layer.edge_pass = FusedEdgePass(layer.edge_pass)
        if isinstance(layer.products, NodeProducts):
            layer.products = FusedNodeProducts(layer.products)
    return network


def require() -> None:
    """Refuse with the reason when the compiled operators cannot be used."""
    operators.require()


class FusedEdgePass(nn.Module):
    """AttentionPass or ConvolutionPass as one operator (csrc/core/edge_pass.h)."""

    def __init__(self, plain: AttentionPass | ConvolutionPass) -> None:
        super().__init__()
        self.cutoff = plain.messages.cutoff
        self.harmonic_degree = plain.messages.max_degree
        self.message_degree = plain.messages.message_degree
        self.gain = plain.gain
        self.sink = plain.sink if isinstance(plain, AttentionPass) else None

    @staticmethod
    def supports(plain: AttentionPass | ConvolutionPass) -> bool:
        """Whether a kernel was compiled for the degrees of this pass."""
        messages = plain.messages
        heads = plain.heads if isinstance(plain, AttentionPass) else 1
        degrees = (messages.input_degree, messages.max_degree, messages.message_degree)
        return heads <= 1024 and bool(torch.ops.symmd.attention_supported(*degrees))

    def forward(self, values: Tensor, queries: Tensor | None, table: Tensor, edges: Edges) -> Tensor:
        """[N, D1, C] twice, spline table, edges → [N, D3, C]."""
        return torch.ops.symmd.attention(
            edges.row_start, edges.sender, edges.vectors, values, queries, table, self.sink,
            self.cutoff, self.gain, self.harmonic_degree, self.message_degree,
        )  # fmt: skip


class FusedNodeProducts(nn.Module):
    """NodeProducts as one operator (csrc/core/node_products.h)."""

    def __init__(self, plain: NodeProducts) -> None:
        super().__init__()
        self.square, self.cube = plain.square, plain.cube
        self.output_degree = round(plain.output_count**0.5) - 1

    def forward(self, aggregated: Tensor, species: Tensor) -> list[Tensor]:
        """[N, D, C] → the products, each [N, D_out, C]."""
        cube = self.cube.weight if self.cube is not None else None
        products = torch.ops.symmd.node_products(
            species, aggregated, self.square.weight, cube, self.output_degree
        )
        return list(products.unbind(1))
