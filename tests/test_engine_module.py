"""The compiled module: what it says of its build, and its harmonics against e3nn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from e3nn import o3

from symmd_md import _engine


def test_build_information_is_complete() -> None:
    information = _engine.build_information()
    assert set(information) == {"compiler", "cxx_standard", "instruction_sets", "openmp"}
    assert any(name in information["compiler"] for name in ("g++", "clang"))
    assert information["cxx_standard"] >= 201703
    assert isinstance(information["openmp"], bool)


def test_portable_parts_use_no_instructions_of_one_machine() -> None:
    assert set(_engine.build_information()["instruction_sets"]) <= {"sse2", "neon"}


@pytest.mark.parametrize("max_degree", [0, 1, 2, 3])
def test_harmonics_are_those_of_e3nn(max_degree: int, rng: np.random.Generator) -> None:
    vectors = rng.standard_normal((50, 3)) * np.exp(rng.uniform(-20, 20, size=(50, 1)))
    vectors = np.concatenate([vectors, np.eye(3), -np.eye(3)])
    expected = o3.spherical_harmonics(
        list(range(max_degree + 1)), torch.from_numpy(vectors), normalize=True, normalization="component"
    )
    found = _engine.spherical_harmonics(vectors, max_degree)
    assert found.shape == (56, (max_degree + 1) ** 2)
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-13)


def test_harmonics_take_any_layout_and_number_type() -> None:
    vectors = np.arange(1, 13, dtype=np.float32).reshape(3, 4).T
    np.testing.assert_array_equal(
        _engine.spherical_harmonics(vectors, 2),
        _engine.spherical_harmonics(vectors.astype(np.float64).copy(), 2),
    )


def test_harmonics_of_no_vectors() -> None:
    assert _engine.spherical_harmonics(np.zeros((0, 3)), 3).shape == (0, 16)


@pytest.mark.parametrize("bad", [np.zeros(3), np.zeros((2, 2)), np.zeros((1, 3, 3))])
def test_harmonics_refuse_a_wrong_shape(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expects vectors of shape \[n, 3\]"):
        _engine.spherical_harmonics(bad, 2)


@pytest.mark.parametrize("degree", [-1, 4])
def test_harmonics_refuse_an_unknown_degree(degree: int) -> None:
    with pytest.raises(ValueError, match=f"max_degree 0 to 3; found {degree}"):
        _engine.spherical_harmonics(np.eye(3), degree)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_harmonics_refuse_a_vector_without_direction(value: float) -> None:
    vectors = np.array([[1.0, 0.0, 0.0], [value, 0.0, 0.0]])
    with pytest.raises(ValueError, match="finite vectors with a direction; row 1 has length"):
        _engine.spherical_harmonics(vectors, 1)
