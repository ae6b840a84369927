"""The documentation: it agrees with the program, its links lead somewhere, and its site has no warning."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks" / "README.md",
        *DOCS.rglob("*.md"),
        *(ROOT / "examples").glob("*/README.md"),
    ]
)


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def without_code(markdown: str) -> str:
    """The text of a page without its blocks and spans of code."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "", text)


def code_of(markdown: str) -> list[str]:
    """Lines of blocks of code that are not Python or C, and spans of code."""
    blocks = re.findall(r"^```([a-z]*)\n(.*?)^```", markdown, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if kind in ("", "bash") for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", text)


def anchors(markdown: str) -> set[str]:
    """Anchors of a page's headings, as the repository's view makes them."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one) is not None for one in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The script that writes the pages which the code knows best."""
    specification = importlib.util.spec_from_file_location("reference", DOCS / "site" / "reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["reference"] = module
    specification.loader.exec_module(module)
    return module


def test_made_pages_are_those_of_the_program(reference: ModuleType) -> None:
    stale = [page_name(path) for path, text in reference.pages().items() if path.read_text("utf-8") != text]
    assert not stale, "write them anew with: make docs"


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", without_code(path.read_text(encoding="utf-8")))
    dead = []
    for target in targets:
        if "://" in target:
            continue
        name, fragment = urldefrag(target)
        file = path.parent / unquote(name) if name else path
        alive = file.is_file() and (not fragment or fragment in anchors(file.read_text(encoding="utf-8")))
        if not alive:
            dead.append(target)
    assert not dead


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_commands_and_options_exist(path: Path, reference: ModuleType) -> None:
    known = {
        tuple(words.split()[1:]): {name for parameter in parameters for name in parameter.names} | {"--help"}
        for words, (_, parameters) in reference.commands().items()
    }
    groups = {words[:1] for words in known if len(words) == 2}
    wrong = []
    for line in code_of(path.read_text(encoding="utf-8")):
        for call in re.finditer(
            r"(?<!pair_style )(?<!pair )(?<![\w/-])symmd +(?!needs )([a-z]+)( [^#;&|]*)?", line
        ):
            words = (call.group(1), *re.findall(r"^ ([a-z]+)\b", call.group(2) or ""))
            command = next((words[:n] for n in (2, 1) if words[:n] in known), None)
            if command is None and words[:1] not in groups:
                wrong.append(call.group())
            elif command is not None:
                options = re.findall(r"(?<![\w=-])(--?[a-z][\w-]*)", call.group(2) or "")
                wrong += [f"{call.group()}: {option}" for option in options if option not in known[command]]
    assert not wrong


def test_the_check_of_commands_sees_wrong_ones(tmp_path: Path, reference: ModuleType) -> None:
    page = tmp_path / "page.md"
    for text in (
        "`symmd trian config.yaml`",
        "```bash\nsymmd fes hills HILLS --cvs phi\n```\n",
        "`symmd info -x`",
    ):
        page.write_text(text, encoding="utf-8")
        with pytest.raises(AssertionError):
            test_commands_and_options_exist(page, reference)


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_make_targets_and_extras_exist(path: Path) -> None:
    code = "\n".join(code_of(path.read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^(?:\w+=\S+ )?make ([a-z-]+)", code, re.MULTILINE)) <= targets
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = ", section, re.MULTILINE))
    assert "train" in extras
    named = re.findall(r"(?:symmd-md|'\.)\[([\w,]+)\]", code)
    assert {extra for names in named for extra in names.split(",")} <= extras


def test_install_page_names_every_extra_and_no_other() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    table = (DOCS / "install.md").read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    named = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    assert named == set(re.findall(r"^(\w+) = ", section, re.MULTILINE))


class _Loader(yaml.SafeLoader):
    """Passes over what mkdocs.yml takes from Python."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def navigation(entry: object) -> Iterator[str]:
    if isinstance(entry, dict):
        for below in entry.values():
            yield from navigation(below)
    elif isinstance(entry, list):
        for below in entry:
            yield from navigation(below)
    else:
        yield str(entry)


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    assert sorted(navigation(settings["nav"])) == [page_name(path) for path in PAGES]


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_pages_open_with_what_they_are_for(path: Path) -> None:
    """One heading of the first order, then a sentence, before any list, table or code."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert re.match(r"[A-Z*`\[]", lines[2])
    assert not re.match(r"\* |```|\|", lines[2])
    assert sum(line.startswith("# ") for line in without_code("\n".join(lines)).splitlines()) == 1


# The site.


class Page(HTMLParser):
    """What a page of the site links to, and what its text looks like."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.ids: set[str] = set()
        self.formulas = 0
        self.text = ""
        self._hidden = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.ids.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in ("img", "script") and "src" in given:
            self.loaded.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(given["href"])
        if "arithmatex" in given.get("class", "").split():
            self.formulas += 1
        if tag in ("code", "script", "style"):
            self._hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in ("code", "script", "style"):
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs: pip install 'symmd-md[docs]'")
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def site_pages(site: Path) -> dict[str, Page]:
    return {
        path.relative_to(site).as_posix(): Page(path)
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"
    }


def test_site_has_a_page_for_each_of_ours(site_pages: dict[str, Page]) -> None:
    assert len(site_pages) == len(PAGES)
    assert "SymMD is a symmetry-equivariant transformer" in site_pages["index.html"].text


def test_site_has_none_of_its_own_sources(site: Path) -> None:
    assert not [*site.rglob("hooks.py"), *site.rglob("__pycache__")]


def test_links_of_the_site_lead_somewhere(site: Path, site_pages: dict[str, Page]) -> None:
    dead = []
    for name, page in site_pages.items():
        for link in page.links + page.loaded:
            target, fragment = urldefrag(unquote(link))
            if "://" in target or target.startswith("mailto:"):
                continue
            path = (site / name).parent / target if target else site / name
            if not path.is_file():
                dead.append(f"{name}: {link}")
            elif fragment and path.suffix == ".html":
                inside = path.resolve().relative_to(site.resolve()).as_posix()
                if fragment not in site_pages[inside].ids | {"__comments"}:
                    dead.append(f"{name}: {link}")
    assert not dead


def test_site_loads_nothing_from_elsewhere(site: Path, site_pages: dict[str, Page]) -> None:
    assert not [source for page in site_pages.values() for source in page.loaded if "://" in source]
    assert list((site / "mathjax").rglob("*.woff"))


def test_formulas_are_formulas(site_pages: dict[str, Page]) -> None:
    theory = (DOCS / "theory.md").read_text(encoding="utf-8")
    text = without_code(theory)
    displayed = text.count("\n$$\n") // 2
    lines = re.sub(r"\n\$\$\n.*?\n\$\$\n", "\n", text, flags=re.DOTALL)
    inline = len(re.findall(r"(?<!\$)\$(?!\$)[^$]+\$", lines))
    assert site_pages["theory.html"].formulas == displayed + inline
    assert displayed > 60
    for name, page in site_pages.items():
        assert "$" not in page.text, name


def test_lists_and_tables_are_lists_and_tables(site_pages: dict[str, Page]) -> None:
    """Markdown of the repository's view that the site's reads otherwise would stand in the text as it is."""
    for name, page in site_pages.items():
        raw = re.findall(r"^(?:\* |\d+\. |\|.*\|$|#+ |:::|--8<--).*", page.text, re.MULTILINE)
        assert not [line for line in raw if not line.endswith("¶")], name  # headings may have numbers


def test_interfaces_are_on_the_site(site: Path, site_pages: dict[str, Page]) -> None:
    identifiers = site_pages["api/python.html"].ids
    for module in ("free_energy", "data", "model", "train", "export"):
        names = importlib.import_module(f"symmd_md.{module}").__all__
        missing = [name for name in names if not any(one.endswith(f".{name}") for one in identifiers)]
        assert not missing, module
    assert "symmd_md.openmm.force.SymmdForce" in identifiers
    cpp = re.sub(r"<[^>]+>", "", (site / "api" / "cpp.html").read_text(encoding="utf-8"))
    for words in (
        "class SYMMD_API Engine",
        "void compute(const System",
        "symmd_compute_neighbourhood",
        "set_threads",
    ):
        assert words in cpp
