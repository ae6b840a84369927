"""Writes csrc/core/coupling_terms.h, the compiled kernels' copy of the coupling coefficients.

python csrc/core/write_coupling_terms.py > csrc/core/coupling_terms.h
"""

from __future__ import annotations

from symmd_md.model.clebsch_gordan import bare_terms

HEADER = """\
// Written by write_coupling_terms.py from e3nn's Wigner 3j symbols; do not edit.
// Real coupling coefficients times sqrt(2 l3 + 1), degrees to 3, parity kept; order l3, l1, l2, m1, m3, m2.
#pragma once

namespace symmd {

struct BareTerm {
    int l1, l2, l3, m1, m2, m3;
    double value;
};

// clang-format off
inline constexpr BareTerm bare_terms[] = {
"""

FOOTER = """\
};
// clang-format on

}  // namespace symmd
"""


def coupling_header(max_degree: int = 3) -> str:
    """The text of the header."""
    lines = []
    for l3 in range(max_degree + 1):
        for l1 in range(max_degree + 1):
            for l2 in range(max_degree + 1):
                if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0:
                    terms = sorted(bare_terms(l1, l2, l3), key=lambda term: (term[0], term[2], term[1]))
                    for m1, m2, m3, value in terms:
                        lines.append(f"    {{{l1}, {l2}, {l3}, {m1}, {m2}, {m3}, {value!r}}},\n")
    return HEADER + "".join(lines) + FOOTER


if __name__ == "__main__":
    print(coupling_header(), end="")
