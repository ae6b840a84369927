"""The ``symmd`` command, which also answers when only the compiled core is installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the packages it needs, say in one sentence how to install them."""
    try:
        from symmd_md.cli import main as run

        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "symmd_md"):
            raise
        sys.exit(
            f"symmd needs the Python package '{missing}', which is not installed; "
            "install everything it needs with: pip install 'symmd-md[train]'"
        )


if __name__ == "__main__":
    main()
