"""Write the parts of the pages that the code knows best, so that nothing is typed twice.

``python docs/site/reference.py`` writes docs/commands.md anew from the command line itself, the table of keys
in docs/train.md from the dataclasses that read a configuration, and the compiled class in docs/api/python.md
from its own documentation.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from symmd_md._engine import Engine
from symmd_md.cli import application
from symmd_md.data import DataConfig
from symmd_md.files import write_atomically
from symmd_md.model import ModelConfig
from symmd_md.train import TrainingConfig

DOCS = Path(__file__).resolve().parents[1]

COMMANDS_OPENING = """# Commands

Every command of `symmd` with its arguments and options; `symmd COMMAND --help` says the same. Made from the
program by `make docs`.

An error that the user can cause is one sentence on stderr and exit code 2. Units are eV, Å, eV/Å and eV/Å³
unless an option says otherwise. Where a command takes a model file, the name of a model that ships, such as
`ala2`, does as well.
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or an option as a user writes it."""

    names: tuple[str, ...]
    value: str
    """Placeholder of the value; empty for a flag."""
    sentence: str
    default: str
    option: bool
    required: bool


def commands() -> dict[str, tuple[str, list[Parameter]]]:
    """Sentences and parameters of each command by its words, such as ``symmd fes hills``."""
    return dict(_commands("symmd", application))


def _commands(words: str, group: typer.Typer) -> Iterator[tuple[str, tuple[str, list[Parameter]]]]:
    for command in group.registered_commands:
        function = command.callback
        assert function is not None
        yield f"{words} {command.name}", (inspect.getdoc(function) or "", _parameters(function))
    for below in group.registered_groups:
        assert below.typer_instance is not None
        yield from _commands(f"{words} {below.name}", below.typer_instance)


def _parameters(command: Callable[..., Any]) -> list[Parameter]:
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    return [_parameter(parameter, hints[name]) for name, parameter in parameters.items()]


def _parameter(parameter: inspect.Parameter, hint: Any) -> Parameter:
    kind, about = typing.get_args(hint)
    option = isinstance(about, typer.models.OptionInfo)
    # Beside Annotated the first name stands where a default would.
    given = [about.default] if isinstance(about.default, str) else []
    names = (*given, *(about.param_decls or ()))
    if not names:
        names = (f"--{parameter.name.replace('_', '-')}",) if option else (parameter.name.upper(),)
    kinds = {part for part in (typing.get_args(kind) or (kind,)) if part is not type(None)}
    value = {bool: "", int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(next(iter(kinds)), "TEXT")
    required = parameter.default is inspect.Parameter.empty
    shown = not required and parameter.default is not None and parameter.default is not False
    default = str(parameter.default) if shown else ""
    return Parameter(names, about.metavar or value, about.help or "", default, option, required)


def commands_page() -> str:
    """docs/commands.md: a section for each command."""
    lines = [COMMANDS_OPENING]
    for words, (sentences, parameters) in commands().items():
        lines += [f"## {words}\n", _paragraphs(sentences), f"```\n{_usage(words, parameters)}\n```\n"]
        if parameters:
            rows = "\n".join(_row(parameter) for parameter in parameters)
            lines += [f"| name | meaning | default |\n|---|---|---|\n{rows}\n"]
    return "\n".join(lines)


def _paragraphs(text: str) -> str:
    parts = re.split(r"\n\s*\n", text)
    return "\n\n".join(" ".join(part.split()) for part in parts) + "\n"


def _usage(words: str, parameters: list[Parameter]) -> str:
    parts = [words]
    for parameter in parameters:
        if not parameter.option:
            parts.append(parameter.names[0] if parameter.required else f"[{parameter.names[0]}]")
        elif parameter.required:
            parts.append(f"{parameter.names[0]} {parameter.value}")
    if any(parameter.option and not parameter.required for parameter in parameters):
        parts.append("[OPTIONS]")
    return " ".join(parts)


def _row(parameter: Parameter) -> str:
    value = f" {parameter.value}" if parameter.option and parameter.value else ""
    names = ", ".join(f"`{name}{value}`" for name in parameter.names)
    default = "must be given" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    return f"| {names} | {_cell(parameter.sentence)} | {default} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def configuration_tables() -> str:
    """Tables of every key of a configuration."""
    parts = []
    for section, kind in (("data", DataConfig), ("model", ModelConfig), ("training", TrainingConfig)):
        sentences, hints = _field_sentences(kind), typing.get_type_hints(kind)
        meanings = {name: _cell(text + _choices(hints[name])) for name, text in sentences.items()}
        rows = [
            f"| `{field.name}` | {_default_of(field)} | {meanings[field.name]} |"
            for field in dataclasses.fields(kind)
        ]
        parts.append(f"### {section}\n\n| key | default | meaning |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _choices(hint: Any) -> str:
    """The words that a key takes, where it takes words of a list."""
    literals = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is typing.Literal]
    words = [f"`{word}`" for literal in literals for word in typing.get_args(literal)]
    return f" ({', '.join(words)})" if words else ""


def _field_sentences(kind: type) -> dict[str, str]:
    """The text that stands below each field of a dataclass."""
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    found = {}
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = following.value if isinstance(following, ast.Expr) else None
            found[statement.target.id] = str(text.value) if isinstance(text, ast.Constant) else ""
    return {name: re.sub(r"``([^`]+)``", r"`\1`", text) for name, text in found.items()}


def _default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "" if field.default_factory is dataclasses.MISSING else f"`{field.default_factory()}`"
    value = field.default
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(str(item) for item in value)}]`" if value else "`[]`"
    return f"`{value}`"


def compiled_engine() -> str:
    """The class Engine of the compiled module, without the types that pybind11 writes."""
    parts = [_sentence(Engine.__doc__)]
    for name in ("__init__", "from_bytes", "compute", "compute_neighbourhood", "species_of"):
        signature, _, text = (getattr(Engine, name).__doc__ or "").partition("\n")
        call = {"__init__": "Engine", "from_bytes": "Engine.from_bytes"}.get(name, f"engine.{name}")
        parts.append(f"```python\n{_call(call, _arguments(signature))}\n```")
        if text.strip():
            parts.append(_sentence(text))
    properties = (name for name, value in vars(Engine).items() if isinstance(value, property))
    told = []
    for name in sorted(properties):
        text = _sentence(vars(Engine)[name].__doc__).rstrip(".")
        told.append(f"`{name}`" + (f" ({text})" if text else ""))
    return "\n\n".join([*parts, f"Properties: {', '.join(told)}."])


def _call(name: str, arguments: list[str]) -> str:
    """A call in the project's style: on one line, or an argument on each."""
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {one},\n" for one in arguments) + ")"


def _arguments(signature: str) -> list[str]:
    """Names and defaults of ``compute(self: Engine, species: object, cell: … = None, …) -> dict``."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    parts = re.split(r", (?=\*|\w+:)", inside)
    pairs = [re.match(r"(\w+|\*)(?::.*?)?(?: = ([^=]*))?$", part) for part in parts]
    assert all(pairs), signature
    found = [(pair.group(1), pair.group(2)) for pair in pairs if pair is not None]
    words = [name if value is None else f"{name}={value}" for name, value in found if name != "self"]
    return [word.replace("'", '"') for word in words]


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def between(page: str, name: str, content: str) -> str:
    """``page`` with ``content`` between its marks ``name``."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"


def pages() -> dict[Path, str]:
    """Each page that is made, and what should stand in it."""
    train, python = DOCS / "train.md", DOCS / "api" / "python.md"
    return {
        DOCS / "commands.md": commands_page(),
        train: between(train.read_text(encoding="utf-8"), "configuration", configuration_tables()),
        python: between(python.read_text(encoding="utf-8"), "compiled", compiled_engine()),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_atomically(path, text.encode("utf-8"))
            print(f"written: {path.relative_to(DOCS.parent)}")
