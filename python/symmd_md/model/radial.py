"""Radial functions: Bessel features, envelope, and the radial network read through a spline (eq. 4-9)."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from symmd_md.model.constants import ConstantModule

SILU_GAIN = 1.6768
"""1 / root-mean-square of SiLU under a unit normal input: keeps the variance through a layer."""


def envelope(distance: Tensor, cutoff: float) -> Tensor:
    """f(r): 1 at 0, and 0 with zero first and second derivative from ``cutoff`` (Å) on (eq. 4)."""
    u = (distance / cutoff).clamp(max=1.0)
    return 1.0 - u**6 * (28.0 - 48.0 * u + 21.0 * u * u)


def bessel_features(distance: Tensor, cutoff: float, count: int) -> Tensor:
    """[..., count] features sin(nπu)/(nπu), u = r / cutoff: 1 at r = 0, 0 at the cutoff (eq. 5)."""
    order = torch.arange(1, count + 1, dtype=distance.dtype, device=distance.device)
    u = distance.unsqueeze(-1) / cutoff
    return torch.sinc(order * u)


def bessel_slopes(distance: Tensor, cutoff: float, count: int) -> Tensor:
    """[..., count] derivative of ``bessel_features`` with respect to r (1/Å, eq. 5)."""
    order = torch.arange(1, count + 1, dtype=distance.dtype, device=distance.device)
    u = distance.unsqueeze(-1) / cutoff
    x = order * math.pi * u
    safe = torch.where(x.abs() < 1e-3, torch.ones_like(x), x)
    exact = (torch.cos(safe) - torch.sin(safe) / safe) / safe
    series = -x / 3.0 + x**3 / 30.0
    slope = torch.where(x.abs() < 1e-3, series, exact)
    return order * math.pi / cutoff * slope


class RadialNetwork(ConstantModule):
    """R(r): one weight for each path and channel, a small network of the Bessel features (eq. 6).

    What the potential uses is the cubic Hermite spline through the network's values and slopes at equal
    knots (eq. 7-8): training costs one network call for each knot instead of each edge, and the function
    that was trained is the function that is exported.
    """

    knot_features: Tensor
    knot_slopes: Tensor

    def __init__(
        self, cutoff: float, feature_count: int, hidden: tuple[int, ...], outputs: int, knots: int
    ) -> None:
        super().__init__()
        self.cutoff, self.feature_count, self.knots = cutoff, feature_count, knots
        widths = (feature_count, *hidden, outputs)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(inner, outer) / math.sqrt(inner))
            for inner, outer in itertools.pairwise(widths)
        )
        position = torch.linspace(0.0, cutoff, knots + 1, dtype=torch.float64)
        spacing = cutoff / knots
        features = bessel_features(position, cutoff, feature_count)
        slopes = bessel_slopes(position, cutoff, feature_count) * spacing
        self.register_constant("knot_features", features)
        self.register_constant("knot_slopes", slopes)

    def forward(self, distance: Tensor) -> Tensor:
        """[E, outputs]: the network itself at each distance (Å), without the spline."""
        x = bessel_features(distance, self.cutoff, self.feature_count)
        for weight in self.weights[:-1]:
            x = SILU_GAIN * torch.nn.functional.silu(x @ weight)
        return x @ self.weights[-1]

    def table(self) -> Tensor:
        """[2 (knots + 1), outputs]: rows 2k and 2k+1 hold value and slope × spacing at knot k (eq. 7)."""
        x, slope = self.knot_features, self.knot_slopes
        for weight in self.weights[:-1]:
            x, slope = x @ weight, slope @ weight
            gate = torch.sigmoid(x)
            slope = SILU_GAIN * slope * gate * (1.0 + x * (1.0 - gate))
            x = SILU_GAIN * x * gate
        return torch.stack((x @ self.weights[-1], slope @ self.weights[-1]), dim=1).flatten(0, 1)


def evaluate_spline(table: Tensor, distance: Tensor, cutoff: float) -> Tensor:
    """[E, outputs]: Hermite spline of ``RadialNetwork.table`` at distances (Å) up to ``cutoff`` (eq. 8)."""
    knots = table.shape[0] // 2 - 1
    position = distance * (knots / cutoff)
    interval = position.detach().floor().long().clamp(0, knots - 1)
    t = position - interval
    weights = torch.stack(
        (
            (1.0 + 2.0 * t) * (1.0 - t) ** 2,
            t * (1.0 - t) ** 2,
            t * t * (3.0 - 2.0 * t),
            t * t * (t - 1.0),
        ),
        dim=-1,
    )
    rows = table[2 * interval.unsqueeze(-1) + torch.arange(4, device=table.device)]
    return torch.einsum("ek,eko->eo", weights, rows)
