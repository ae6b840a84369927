"""Print what the build needs of the torch that is installed: headers, libraries, release, C++ ABI.

CMake's own find_package(Torch) is not used: that of a CUDA build of torch demands a CUDA toolkit, of which
the operators need nothing.
"""

import sys
from pathlib import Path


def main() -> None:
    """Four lines on stdout, or the reason why there are none on stderr."""
    try:
        import torch
    except ImportError as error:
        sys.exit(f"torch cannot be imported: {error}")
    folder = Path(torch.__file__).resolve().parent
    headers, libraries = folder / "include", folder / "lib"
    if not (headers / "torch" / "library.h").is_file():
        sys.exit(f"torch {torch.__version__} has no headers in {headers}")
    print(headers, libraries, torch.__version__, int(torch.compiled_with_cxx11_abi()), sep="\n")


if __name__ == "__main__":
    main()
