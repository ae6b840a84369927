"""Metadynamics that costs little: overdamped Langevin dynamics on known surfaces, in numpy. kJ/mol, 300 K."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from symmd_md.free_energy.hills import CUTOFF, STRETCH, STRETCHED, Hills
from symmd_md.free_energy.tables import FloatArray

KT = 0.00831446261815324 * 300.0
Gradient = Callable[[FloatArray], FloatArray]
PERIOD = (-math.pi, math.pi)


def double_well(x: FloatArray) -> FloatArray:
    """Two minima near ±1, the left one lower, a barrier of about 14 kJ/mol."""
    return 12.0 * (x**2 - 1.0) ** 2 + 2.0 * x


def double_well_gradient(x: FloatArray) -> FloatArray:
    return 48.0 * x * (x**2 - 1.0) + 2.0


def torus(point: FloatArray) -> FloatArray:
    """A periodic surface of two angles [..., 2] (rad) with two minima of different depth."""
    phi, psi = point[..., 0], point[..., 1]
    return 7.0 * np.cos(2.0 * phi) + 3.0 * np.sin(phi) + 5.0 * np.cos(psi)


def torus_gradient(point: FloatArray) -> FloatArray:
    phi, psi = point[..., 0], point[..., 1]
    return np.stack([-14.0 * np.sin(2.0 * phi) + 3.0 * np.cos(phi), -5.0 * np.sin(psi)], axis=-1)


def metadynamics(
    gradient: Gradient,
    start: FloatArray,
    periodic: bool,
    width: float,
    hills: int,
    stride: int = 25,
    step: float = 0.004,
    height: float = 1.0,
    bias_factor: float = 8.0,
    seed: int = 1,
) -> tuple[Hills, FloatArray, FloatArray]:
    """Well-tempered metadynamics: hills, points [rows, variables] and the bias at each of them (kJ/mol).

    ``step``: time step times mobility (mol/kJ). The sum is direct, hill by hill, and shares no code with the
    one that is tested.
    """
    generator = np.random.default_rng(seed)
    point = start.astype(np.float64).copy()
    dimension = len(point)
    centres, heights = np.zeros((hills, dimension)), np.zeros(hills)
    points, biases = [], []
    noise = math.sqrt(2.0 * KT * step)
    count = 0
    for number in range(hills * stride):
        force = -gradient(point)
        offset = point - centres[:count]
        if periodic:
            offset -= 2.0 * math.pi * np.round(offset / (2.0 * math.pi))
        exponent = 0.5 * np.square(offset / width).sum(axis=1)
        near = exponent < CUTOFF
        gaussians = np.where(near, heights[:count] * np.exp(-exponent), 0.0)
        force += STRETCH * (gaussians[:, None] * offset).sum(axis=0) / width**2
        if number % stride == 0:
            bias = float(np.where(near, STRETCH * gaussians + (1.0 - STRETCH) * heights[:count], 0.0).sum())
            points.append(point.copy())
            biases.append(bias)
            centres[count] = point
            heights[count] = height * math.exp(-bias / ((bias_factor - 1.0) * KT))
            count += 1
        point = point + step * force + noise * generator.standard_normal(dimension)
        if periodic:
            point -= 2.0 * math.pi * np.round(point / (2.0 * math.pi))
    names = ("x",) if dimension == 1 else ("phi", "psi")
    widths = np.tile(width * np.eye(dimension), (hills, 1, 1))
    record = Hills(
        names,
        tuple(PERIOD if periodic else None for _ in names),
        np.arange(1, hills + 1) * 0.1,
        centres,
        widths,
        heights * bias_factor / (bias_factor - 1.0),
        bias_factor,
        STRETCHED,
    )
    return record, np.array(points), np.array(biases)
