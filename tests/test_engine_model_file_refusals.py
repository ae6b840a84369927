"""Files put together wrong but with a right SHA-256: the reader refuses each with its reason."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from model_file_cases import Parts, assert_refused, read, small_parts, with_header

Change = Callable[[Parts], object]


@pytest.fixture
def parts() -> Parts:
    """A valid model in pieces that may be changed."""
    return small_parts()


def named(value: object) -> str | None:
    """Cases are called by their reasons."""
    return value if isinstance(value, str) else ""


# The container


def test_files_that_are_too_short_are_refused() -> None:
    assert_refused(b"", "it is cut short: 8 bytes are expected from byte 0 on, and there are 0")
    assert_refused(b"\x02\0\0", "it is cut short: 8 bytes are expected from byte 0 on, and there are 3")
    assert_refused(
        with_header("{}")[:-1], "it is cut short: 2 bytes are expected from byte 8 on, and there are 9"
    )


def test_files_of_other_kinds_are_refused() -> None:
    neither = "it is neither a safetensors file nor a zip archive: its first 8 bytes give {} as .*"
    assert_refused(b"\xff" * 64, neither.format(2**64 - 1))
    assert_refused(with_header(" " * (2**20 + 1)), neither.format(2**20 + 1))
    assert_refused(with_header("") + bytes(64), neither.format(0))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "its safetensors header must be an object, found an array"),
        (
            "{}",
            "it is a safetensors file without the format 'symmd' in its __metadata__, so not a SymMD model",
        ),
        ('{"__metadata__":[]}', "its __metadata__ must be an object"),
        ('{"__metadata__":{"format":1}}', "its __metadata__ must hold strings, found a number at 'format'"),
        ('{"t":7}', "tensor 't' must be described by dtype, shape and data_offsets alone"),
        ('{"t":{"dtype":"F64","shape":[2]}}', "tensor 't' must be described by dtype, shape and .*"),
    ],
    ids=named,
)
def test_wrong_containers_are_refused(text: str, reason: str) -> None:
    assert_refused(with_header(text), reason)


@pytest.mark.parametrize(
    ("entry", "data", "reason"),
    [
        ({"extra": 1}, 8, "tensor 't' must be described by dtype, shape and data_offsets alone"),
        ({"dtype": "F16"}, 4, "tensor 't' must have the dtype F32 or F64, found 'F16'"),
        ({"dtype": 8}, 8, "tensor 't' must have the dtype F32 or F64, found a number"),
        ({"shape": 2}, 8, "the shape of tensor 't' must be an array of at most 8 sizes"),
        ({"shape": [1] * 9}, 4, "the shape of tensor 't' must be an array of at most 8 sizes"),
        ({"shape": [-2]}, 8, r"the sizes of tensor 't' must be whole numbers from 0 to 2\^53"),
        ({"shape": [2.0]}, 8, "the sizes of tensor 't' must be whole numbers .*"),
        ({"shape": ["2"]}, 8, "the sizes of tensor 't' must be whole numbers .*"),
        ({"shape": [2**53 + 2]}, 8, "the sizes of tensor 't' must be whole numbers .*"),
        ({"shape": [0], "data_offsets": [0, 0]}, 0, "tensor 't' has a size of 0"),
        ({"shape": [2**48 + 1]}, 8, r"tensor 't' has more than 2\^48 numbers"),
        ({"shape": [2**32, 2**32], "data_offsets": [0, 0]}, 0, r"tensor 't' has more than 2\^48 numbers"),
        ({"shape": [2**32, 2**32, 0], "data_offsets": [0, 0]}, 0, r"tensor 't' has more than 2\^48 numbers"),
        ({"data_offsets": [8]}, 8, "the data_offsets of tensor 't' must be two numbers"),
        ({"data_offsets": {"0": 8}}, 8, "the data_offsets of tensor 't' must be two numbers"),
        ({"data_offsets": [0, -8]}, 8, "the data_offsets of tensor 't' must be whole numbers .*"),
        ({"data_offsets": [8, 0]}, 8, r"tensor 't' has data_offsets \[8, 0\], but its shape needs 8 bytes"),
        ({"data_offsets": [0, 9]}, 9, r"tensor 't' has data_offsets \[0, 9\], but its shape needs 8 bytes"),
        ({"data_offsets": [4, 12]}, 12, "tensor 't' follows a gap"),
        ({"data_offsets": [2**53 - 8, 2**53]}, 8, "tensor 't' follows a gap"),
        ({}, 7, r"it is cut short: its tensors end at byte \d+, and there are \d+"),
        ({}, 10, "2 bytes follow its last tensor, which belong to none"),
        ({"shape": [2**48], "data_offsets": [0, 2**50]}, 8, "it is cut short: its tensors end at byte .*"),
    ],
    ids=named,
)
def test_wrong_tensors_are_refused(entry: dict[str, object], data: int, reason: str) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry
    assert_refused(with_header(json.dumps({"t": entry}), bytes(data)), reason)


@pytest.mark.parametrize("begin", [0, 4])
def test_tensors_that_share_bytes_are_refused(begin: int) -> None:
    first = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    second = first | {"data_offsets": [begin, begin + 8]}
    content = with_header(json.dumps({"t": first, "u": second}), bytes(begin + 8))
    assert_refused(content, "tensor '[tu]' overlaps another")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a":1,"b":2,"a":3}', "the key 'a' is there twice"),
        (b'{"\\u0061":1,"a":3}', "the key 'a' is there twice"),
        (b"[" * 33 + b"]" * 33, "it is nested more than 32 deep"),
        (b'{"a":' * 200000, "it is nested more than 32 deep"),
        (b"{} {}", "something follows its end"),
        (b"{}\0", "something follows its end"),
        (b'{"a":1,}', "a key in double quotes is expected"),
        (b"{'a':1}", "a key in double quotes is expected"),
        (b'{"a" 1}', "':' is expected"),
        (b'{"a":1 "b":2}', "',' or '}' is expected"),
        (b"[1 2]", "',' or ']' is expected"),
        (b"[1,]", "a value is expected"),
        (b"[ ", "it ends where a value is expected"),
        (b"[nul]", "a value is expected"),
        (b"[NaN]", "a value is expected"),
        (b"[-Infinity]", "a value is expected"),
        (b"[+1]", "a value is expected"),
        (b"[.5]", "a value is expected"),
        (b"[1.]", "a digit is expected"),
        (b"[1e]", "a digit is expected"),
        (b"[01]", "a number starts with 0"),
        (b"[1e999]", "fp64 cannot hold the number '1e999'"),
        (b"[-1e999]", "fp64 cannot hold the number '-1e999'"),
        (b"[" + b"1" * 65 + b"]", "a number has 65 characters"),
        (b'["a', "it ends within a string"),
        (b'["a\\', "it ends within a string"),
        (b'["a\nb"]', "a string holds a control character"),
        (b'["\\x41"]', "a string holds an unknown escape"),
        (b'["\\u12g4"]', "four hexadecimal digits are expected"),
        (b'["\\ud800"]', "half of a surrogate pair stands alone"),
        (b'["\\udc00"]', "half of a surrogate pair stands alone"),
        (b'["\\ud800\\u0041"]', "half of a surrogate pair stands alone"),
        (b'["\xff"]', "a string is not UTF-8"),
        (b'["\x80"]', "a string is not UTF-8"),
        (b'["\xc0\xaf"]', "a string is not UTF-8"),
        (b'["\xe0\x80\xaf"]', "a string is not UTF-8"),
        (b'["\xed\xa0\x80"]', "a string is not UTF-8"),
        (b'["\xf4\x90\x80\x80"]', "a string is not UTF-8"),
        (b'["\xc3', "a string is not UTF-8"),
        (b"\xef\xbb\xbf{}", "a value is expected"),
    ],
    ids=named,
)
def test_what_is_not_json_is_refused(text: bytes, reason: str) -> None:
    assert_refused(
        with_header(text), rf"its safetensors header is not valid JSON at byte \d+: {re.escape(reason)}"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[0, -0.0, 1e-400, 2E+5]",
        '"\\ud83e\\uddea \\u00c5 \\" \\/ \\b\\f\\n\\r\\t"',
        "[[], {}, null, true, false]",
    ],
)
def test_all_of_json_is_read(text: str, parts: Parts) -> None:
    parts.header = json.dumps(parts.header | {"provenance": {"any": "HERE"}}).replace('"HERE"', text)
    assert read(parts.built())["header"]["provenance"]["any"] == json.loads(text)


def test_names_from_a_file_cannot_disturb_a_message() -> None:
    entry = {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}
    content = with_header(json.dumps({"\x1b[31m\n" + "é" * 100: entry}, ensure_ascii=False))
    assert_refused(content, r"tensor '\?\[31m\?\?{54}\.\.\.' must have the dtype F32 or F64, found 'F16'")


# The metadata


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": "pt"}, "it is a safetensors file without the format 'symmd' .*"),
        ({"format_version": "2"}, "it has the format version 2, and this version of SymMD reads up to 1"),
        ({"format_version": "999999999"}, "it has the format version 999999999, and .*"),
        (
            {"format_version": "9999999999"},
            "its format_version must be a whole number .*, found '9999999999'",
        ),
        ({"format_version": "0"}, "its format_version must be a whole number from 1 on, found '0'"),
        ({"format_version": "01"}, "its format_version must be .*, found '01'"),
        ({"format_version": "1.0"}, "its format_version must be .*, found '1.0'"),
        ({"format_version": None}, "its format_version must be .*, found ''"),
        ({"sha256": None}, "its __metadata__ lacks 'sha256'"),
        ({"header": None}, "its __metadata__ lacks 'header'"),
        ({"author": "me"}, "its __metadata__ has the unknown key 'author'"),
        (
            {"sha256": "ab"},
            "it is damaged: the SHA-256 of its content is not the one that it was written with",
        ),
    ],
    ids=named,
)
def test_wrong_metadata_are_refused(changes: dict[str, str | None], reason: str, parts: Parts) -> None:
    parts.metadata = changes
    assert_refused(parts.built(), reason)


def test_a_newer_format_need_not_have_our_metadata(parts: Parts) -> None:
    parts.metadata = {"format_version": "3", "header": None, "sha256": None, "weights": "elsewhere"}
    assert_refused(parts.built(), "it has the format version 3, and this version of SymMD reads up to 1")


# The model's header


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "its model header must be an object, found an array"),
        ("{", "its model header is not valid JSON at byte 1: a key in double quotes is expected"),
        ("{}", "its model header lacks 'species'"),
    ],
)
def test_wrong_header_texts_are_refused(text: str, reason: str, parts: Parts) -> None:
    parts.header = text
    assert_refused(parts.built(), reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extra": 1}, "its model header has the unknown key 'extra'"),
        ({"species": []}, "'species' in its header is empty"),
        ({"species": "HCO"}, "'species' in its header must be an array, found 'HCO'"),
        ({"species": ["H", "C", "Xx"]}, "'species' in its header must hold element symbols, found 'Xx'"),
        ({"species": ["H", "C", 8]}, "'species' in its header must hold element symbols, found 8"),
        ({"species": ["H", "C", "H"]}, "'species' in its header repeats 'H'"),
        ({"cutoff": "5"}, "'cutoff' in its header must be a number, found '5'"),
        ({"cutoff": 0.25}, "'cutoff' in its header must lie between 0.5 and 20 Å, found 0.25"),
        ({"cutoff": 1e6}, "'cutoff' in its header must lie between 0.5 and 20 Å, found 1000000"),
        ({"layer_cutoffs": [3.5]}, "'layer_cutoffs' .* one length for each of its 2 layers, found 1"),
        ({"layer_cutoffs": [3.5, 4.0]}, "'layer_cutoffs' .* must lie between 0.5 and 3.5 Å, found 4"),
        ({"layer_cutoffs": None}, "'layer_cutoffs' in its header must be an array, found null"),
        ({"units": 1}, "'units' in its header must be an object, found 1"),
        ({"units": {"length": "angstrom"}}, "'units' in its header lacks 'energy'"),
        (
            {"units": {"length": "bohr", "energy": "eV"}},
            "the unit of length in its header must be 'angstrom', found 'bohr'",
        ),
        (
            {"units": {"length": "angstrom", "energy": 1}},
            "the unit of energy in its header must be 'eV', found 1",
        ),
        ({"reference_energies": [1]}, "'reference_energies' in its header must be an object, found an array"),
        ({"reference_energies": {"H": 1, "C": 2}}, "'reference_energies' in its header lacks 'O'"),
        (
            {"reference_energies": {"H": 1, "C": 2, "O": True}},
            "'reference_energies' in its header must be a number, found a boolean",
        ),
        (
            {"reference_energies": {"H": 1, "C": 2, "O": 3, "N": 4}},
            "'reference_energies' in its header must name the elements of 'species' alone",
        ),
        ({"energy_scale": 0}, "'energy_scale' in its header must be positive, found 0"),
        ({"energy_scale": None}, "'energy_scale' in its header must be a number, found null"),
        ({"mean_neighbours": -1.5}, "'mean_neighbours' in its header must be positive, found -1.5"),
        (
            {"mean_neighbours": float("nan")},
            "its model header is not valid JSON at byte .*: a value is expected",
        ),
        (
            {"validated_precisions": ["float16"]},
            "'validated_precisions' in its header must hold 'float32' or 'float64', found 'float16'",
        ),
        (
            {"validated_precisions": {}},
            "'validated_precisions' in its header must be an array, found an object",
        ),
        ({"provenance": "me"}, "'provenance' in its header must be an object, found 'me'"),
        ({"hyperparameters": 3}, "'hyperparameters' in its header must be an object, found 3"),
    ],
    ids=named,
)
def test_wrong_headers_are_refused(changes: dict[str, object], reason: str, parts: Parts) -> None:
    parts.header.update(changes)
    assert_refused(parts.built(), reason)


@pytest.mark.parametrize("group", [[], ["hyperparameters"], ["units"]])
def test_a_missing_key_is_named(group: list[str], parts: Parts) -> None:
    for key in list(parts.header[group[0]] if group else parts.header):
        changed = small_parts()
        (changed.header[group[0]] if group else changed.header).pop(key)
        assert_refused(changed.built(), f".*header lacks '{key}'")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dropout": 0.1}, "'hyperparameters' in its header has the unknown key 'dropout'"),
        ({"layers": 0}, "'layers' in its header must be a whole number from 1 to 4, found 0"),
        ({"layers": 2.0}, "'layers' in its header must be a whole number from 1 to 4, found 2"),
        ({"layers": 10**18}, r"'layers' in its header must be a whole number from 1 to 4, found 1e\+18"),
        ({"layers": -1}, "'layers' in its header must be a whole number from 1 to 4, found -1"),
        ({"channels": 2048}, "'channels' in its header must be a whole number from 16 to 1024, found 2048"),
        ({"channels": 24}, "'channels' in its header must be a multiple of 16, found 24"),
        ({"heads": 3}, "'heads' in its header must divide its 16 channels, found 3"),
        ({"max_degree": 4}, "'max_degree' in its header must be a whole number from 0 to 3, found 4"),
        ({"hidden_degree": 2}, "'hidden_degree' in its header must be at most 'max_degree' = 1, found 2"),
        ({"body_order": 4}, "'body_order' in its header must be a whole number from 1 to 3, found 4"),
        ({"aggregation": "mean"}, "'aggregation' .* 'attention' or 'convolution', found 'mean'"),
        ({"aggregation": None}, "'aggregation' .* 'attention' or 'convolution', found null"),
        (
            {"radial_knots": 15},
            "'radial_knots' in its header must be a whole number from 16 to 4096, found 15",
        ),
        ({"radial_functions": 33}, "'radial_functions' .* a whole number from 1 to 32, found 33"),
        ({"radial_hidden": []}, "'radial_hidden' in its header is empty"),
        ({"radial_hidden": [0]}, "'radial_hidden' .* a whole number from 1 to 1048576, found 0"),
        ({"readout_hidden": "8"}, "'readout_hidden' .* a whole number from 1 to 4096, found '8'"),
        # Possible values that ask for other tensors than those that are there.
        (
            {"readout_hidden": 9},
            r"tensor 'readout_inner' must have the shape \[16, 9\] by its hyperparameters, found \[16, 8\]",
        ),
        ({"radial_knots": 32}, r"tensor 'layers.0.radial_table' .* \[66, 2, 16\] .*, found \[34, 2, 16\]"),
        ({"heads": 8}, r"tensor 'layers.0.sink' must have the shape \[8\] .*, found \[4\]"),
        ({"body_order": 2}, "tensor 'layers.0.cube' has no place in a network with its hyperparameters"),
        ({"aggregation": "convolution"}, "tensor 'layers.0.queries' has no place .*"),
        ({"max_degree": 2}, "tensor 'layers.0.blend' must have the shape .*"),
        ({"hidden_degree": 0}, "tensor 'layers.0.cube' must have the shape .*"),
        ({"channels": 32}, "tensor 'embedding' must have the shape .*"),
    ],
    ids=named,
)
def test_wrong_hyperparameters_are_refused(changes: dict[str, object], reason: str, parts: Parts) -> None:
    parts.header["hyperparameters"].update(changes)
    assert_refused(parts.built(), reason)


# The tensors


def poisoned(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Copies of a tensor in which number 3 is ``value``."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[3] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("embedding", np.transpose, r"tensor 'embedding' must have the shape .*, found \[16, 3\]"),
        (
            "layers.0.sink",
            np.atleast_2d,
            r"tensor 'layers.0.sink' must have the shape \[4\] .*, found \[1, 4\]",
        ),
        (
            "layers.1.sink",
            np.float32,
            "its tensors must all have one dtype, found F64 in 'embedding' and F32 in 'layers.1.sink'",
        ),
        (
            "layers.0.cube",
            poisoned(np.nan),
            "tensor 'layers.0.cube' holds NaN or infinity at number 3: the training diverged",
        ),
        ("readout_outer", poisoned(-np.inf), "tensor 'readout_outer' holds NaN or infinity at number 3.*"),
    ],
    ids=named,
)
def test_wrong_weights_are_refused(
    name: str, change: Callable[[np.ndarray], np.ndarray], reason: str, parts: Parts
) -> None:
    parts.tensors[name] = np.ascontiguousarray(change(parts.tensors[name]))
    assert_refused(parts.built(), reason)


def test_an_infinity_of_single_precision_is_refused(parts: Parts) -> None:
    parts.tensors = {name: array.astype(np.float32) for name, array in parts.tensors.items()}
    assert read(parts.built())["dtype"] == "float32"
    parts.tensors["embedding"][2, 15] = np.inf
    assert_refused(parts.built(), "tensor 'embedding' holds NaN or infinity at number 47.*")


def test_a_missing_tensor_is_named() -> None:
    for name in small_parts().tensors:
        parts = small_parts()
        del parts.tensors[name]
        assert_refused(parts.built(), f"tensor '{name}' is missing, which its hyperparameters require")


@pytest.mark.parametrize("name", ["alpha", "layers.1.sinks", "zeta"])
def test_a_tensor_too_many_is_named(name: str, parts: Parts) -> None:
    parts.tensors[name] = np.ones(3)
    assert_refused(parts.built(), f"tensor '{name}' has no place in a network with its hyperparameters")


def test_a_model_without_tensors_is_refused(parts: Parts) -> None:
    parts.tensors = {}
    assert_refused(parts.built(), "tensor 'embedding' is missing, which its hyperparameters require")


def test_bytes_after_the_tensors_are_refused(parts: Parts) -> None:
    parts.tail = b"\0" * 8
    assert_refused(parts.built(), "8 bytes follow its last tensor, which belong to none")
