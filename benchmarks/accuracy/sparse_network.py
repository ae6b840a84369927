"""SymMD's network without most of its multiplications by zero, to count operations; its results are the same.

The plain network couples nodes by dense blocks and picks the matrix of a species by a product with one-hot
vectors, which torch runs fastest; the compiled kernels do neither. Here each coupling of the node products is
a list of its terms, and each atom meets the matrix of its own species alone. The edges stay as they are.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from symmd_md.model import SymmdNetwork
from symmd_md.model.clebsch_gordan import component_slice
from symmd_md.model.layers import ChannelProduct, NodeProducts, SpeciesLinear


class SparseProduct(nn.Module):
    """``ChannelProduct`` by its non-zero terms."""

    def __init__(self, dense: ChannelProduct) -> None:
        super().__init__()
        self.weight = dense.weight
        self.outputs = dense.coupling.shape[1]
        self.places = dense.coupling.nonzero().T.contiguous()
        self.values = dense.coupling[dense.coupling != 0]

    def forward(self, first: Tensor, second: Tensor, species: Tensor) -> Tensor:
        """[N, D, C] twice → [N, D_out, C]."""
        path, output, one, other = self.places
        # The weight of a term belongs to a species, not to an atom.
        weights = (self.weight.index_select(1, path) * self.values[:, None]).index_select(0, species)
        terms = first.index_select(1, one) * second.index_select(1, other) * weights
        total = terms.new_zeros(len(first), self.outputs, first.shape[-1])
        return total.index_add(1, output, terms)


class OwnSpeciesLinear(nn.Module):
    """``SpeciesLinear`` with the matrices of the atom's own species alone."""

    def __init__(self, dense: SpeciesLinear) -> None:
        super().__init__()
        self.weight = dense.weight

    def forward(self, features: Tensor, one_hot: Tensor) -> Tensor:
        """[N, components, C], [N, S] → [N, components, C]."""
        species = one_hot.argmax(-1)
        return torch.cat(
            [
                torch.bmm(features[:, component_slice(degree)], matrices.index_select(0, species))
                for degree, matrices in enumerate(self.weight)
            ],
            dim=1,
        )


def without_zeros(network: SymmdNetwork) -> SymmdNetwork:
    """A copy with the same weights and results."""
    sparse = copy.deepcopy(network)
    for layer in sparse.layers:
        layer.skip = OwnSpeciesLinear(layer.skip)
        if isinstance(layer.products, NodeProducts):
            layer.products.square = SparseProduct(layer.products.square)
            if layer.products.cube is not None:
                layer.products.cube = SparseProduct(layer.products.cube)
    return sparse
