"""The equations and sections that the sources cite are those of docs/theory.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THEORY = ROOT / "docs" / "theory.md"
SOURCES = sorted(
    path
    for folder, suffixes in (("python", {".py"}), ("csrc", {".h", ".cpp", ".cu", ".cuh"}))
    for path in (ROOT / folder).rglob("*")
    if path.suffix in suffixes
)

RANGE = r"\d+(?:\s*[-–]\s*\d+)?"
LIST = rf"{RANGE}(?:(?:\s*,\s*|\s+and\s+){RANGE})*"


def cited(text: str, mark: str) -> Iterator[list[int]]:
    """Numbers of each citation that begins with ``mark``; an empty list where no number follows."""
    for found in re.finditer(rf"{mark}\s*({LIST})?", text):
        numbers: list[int] = []
        for part in re.findall(RANGE, found.group(1) or ""):
            first, *last = (int(number) for number in re.findall(r"\d+", part))
            numbers += range(first, (last[0] if last else first) + 1)
        yield numbers


def equations() -> list[int]:
    """Tags in the order of the document."""
    return [int(number) for number in re.findall(r"\\tag\{(\d+)\}", THEORY.read_text(encoding="utf-8"))]


def sections() -> list[int]:
    return [
        int(number)
        for number in re.findall(r"^## (\d+)\. ", THEORY.read_text(encoding="utf-8"), re.MULTILINE)
    ]


def test_equations_and_sections_are_numbered_consecutively() -> None:
    assert equations() == list(range(1, len(equations()) + 1))
    assert sections() == list(range(1, len(sections()) + 1))
    assert len(equations()) > 20


def test_every_displayed_formula_has_one_tag() -> None:
    blocks = THEORY.read_text(encoding="utf-8").split("\n$$\n")[1::2]
    assert len(blocks) == len(equations())
    assert all(block.count(r"\tag{") == 1 for block in blocks)


@pytest.mark.parametrize("path", [THEORY, *SOURCES], ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_equations_exist(path: Path) -> None:
    known = set(equations())
    text = path.read_text(encoding="utf-8")
    # The document's first lines show what a citation looks like, with a number that exists as well.
    for numbers in cited(text, r"\beqs?\."):
        assert numbers, f"{path.name} has 'eq.' without a number"
        assert set(numbers) <= known, f"{path.name} cites eq. {numbers}, docs/theory.md ends at {max(known)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cited_sections_exist(path: Path) -> None:
    for numbers in cited(path.read_text(encoding="utf-8"), r"theory\.md,?\s*§"):
        assert numbers
        assert set(numbers) <= set(sections())


def test_the_network_and_its_kernels_cite_equations() -> None:
    """The citations are found at all: the pattern fits how they are written."""
    for name in (
        "python/symmd_md/model/layers.py",
        "python/symmd_md/model/radial.py",
        "csrc/core/edge_pass.h",
        "csrc/core/node_products.h",
    ):
        assert list(cited((ROOT / name).read_text(encoding="utf-8"), r"\beqs?\."))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(eq. 4)", [[4]]),
        ("eq. 5-7: words", [[5, 6, 7]]),
        ("eq. 1, 2 and 8–9", [[1, 2, 8, 9]]),
        ("see eq. three", [[]]),
        ("no citation", []),
    ],
)
def test_citations_are_read(text: str, expected: list[list[int]]) -> None:
    assert list(cited(text, r"\beqs?\.")) == expected
