"""What makes a site of the repository's own pages (hooks of mkdocs).

Every file of the site is known by its path in the repository: ``docs/lammps.md``,
``examples/openmm/README.md``. A relative link that works in the repository's view then works on the site, and
mkdocs itself finds dead ones.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]

PAGES = ("README.md", "CHANGELOG.md", "benchmarks/README.md", "examples/*/README.md")
"""Pages outside of docs/."""
FILES = ("LICENSE", "benchmarks/results/*.json", "csrc/include/symmd/*.h", "examples/*/*.*")
"""Files outside of docs/ that pages link to."""

MATHJAX_PACKAGE = "sphinx-mathjax-offline"
"""Carries the files of MathJax 3 as they are published; nothing of Sphinx is used."""
MATHJAX_SCRIPT = "tex-chtml-full.js"
MATHJAX_FONTS = "output/chtml/fonts/woff-v2"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Give the files of docs/ their path in the repository, and add those from elsewhere."""
    named = Files([])
    for file in files:
        inside = file.src_dir is not None and Path(file.src_dir) == Path(config.docs_dir)
        named.append(_repository_file(f"docs/{file.src_uri}", config, file.dest_uri) if inside else file)
    for pattern in PAGES + FILES:
        for path in sorted(ROOT.glob(pattern)):
            source = path.relative_to(ROOT).as_posix()
            if path.is_file() and named.get_file_from_path(source) is None:
                named.append(_repository_file(source, config))
    for source, path in _mathjax():
        named.append(File.generated(config, f"mathjax/{source}", abs_src_path=str(path)))
    return named


def _repository_file(source: str, config: MkDocsConfig, target: str | None = None) -> File:
    if target is None and source == "LICENSE":
        target = "license.txt"  # browsers show text, and would save a file without an ending
    return File(source, str(ROOT), config.site_dir, config.use_directory_urls, dest_uri=target)


def _mathjax() -> list[tuple[str, Path]]:
    """Path in MathJax's folder and on this machine of what the site carries."""
    try:
        package = importlib.metadata.distribution(MATHJAX_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise PluginError(
            f"formulas need the Python package '{MATHJAX_PACKAGE}', which is not installed; "
            "install what the site needs with: pip install 'symmd-md[docs]'"
        ) from None
    found = []
    for file in package.files or []:
        parts = PurePosixPath(file).parts
        if "mathjax" in parts:
            inside = PurePosixPath(*parts[parts.index("mathjax") + 1 :])
            if str(inside) == MATHJAX_SCRIPT or str(inside.parent) == MATHJAX_FONTS:
                found.append((inside.as_posix(), Path(str(package.locate_file(file)))))
    return found
