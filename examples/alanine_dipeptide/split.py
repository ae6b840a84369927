"""Leave the contacts out of a training set: ``python split.py train.xyz ordinary.xyz``."""

from __future__ import annotations

import argparse
from pathlib import Path

from symmd_md.files import write_atomically


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    lines = arguments.source.read_text(encoding="utf-8").splitlines(keepends=True)
    kept, first = [], 0
    while first < len(lines):
        end = first + int(lines[first]) + 2
        if " run=contacts " not in lines[first + 1]:
            kept.extend(lines[first:end])
        first = end
    write_atomically(arguments.output, "".join(kept).encode("utf-8"))


if __name__ == "__main__":
    main()
