"""Typed dataclasses from YAML mappings, with unknown and mistyped keys refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from symmd_md.errors import ConfigurationError

Configuration = TypeVar("Configuration")


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file whose top level is a mapping."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"configuration file {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from None
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path}: expected a mapping of sections at the top level, found a {type(content).__name__}"
        )
    return content


def from_mapping(cls: type[Configuration], mapping: dict[str, Any], where: str = "") -> Configuration:
    """Build dataclass ``cls`` from a mapping; ``where`` names the section in messages, e.g. ``"model"``."""
    if not isinstance(mapping, dict):
        raise ConfigurationError(f"section '{where}' must be a mapping, found a {type(mapping).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise ConfigurationError(f"unknown key '{name}'{hint} (known: {', '.join(sorted(fields))})")
        values[key] = _convert(value, hints[key], name)
    missing = [
        name
        for name, field in fields.items()
        if name not in values
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigurationError(f"section '{where}' lacks the key '{missing[0]}'")
    return cls(**values)


def to_mapping(configuration: Any) -> dict[str, Any]:
    """The plain mapping that ``from_mapping`` turns back into the same dataclass."""
    return _plain(dataclasses.asdict(configuration))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _convert(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        errors = []
        for option in arguments:
            if option is type(None):
                continue
            try:
                return _convert(value, option, name)
            except ConfigurationError as error:
                errors.append(error)
        raise errors[0]
    if origin is typing.Literal:
        if value in arguments:
            return value
        choices = ", ".join(str(choice) for choice in arguments)
        raise ConfigurationError(f"'{name}' must be one of {choices}; found {value!r}")
    if dataclasses.is_dataclass(hint):
        return from_mapping(hint, value, name)  # type: ignore[arg-type]
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ConfigurationError(f"'{name}' must be a list; found {value!r}")
        items = [_convert(item, arguments[0], f"{name}[{k}]") for k, item in enumerate(value)]
        return origin(items)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"'{name}' must be a mapping; found {value!r}")
        return {key: _convert(item, arguments[1], f"{name}.{key}") for key, item in value.items()}
    return _convert_scalar(value, hint, name)


def _convert_scalar(value: Any, hint: Any, name: str) -> Any:
    if hint is bool and isinstance(value, bool):
        return value
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            pass
    if hint is str and isinstance(value, str):
        return value
    if hint is Path and isinstance(value, (str, Path)):
        return Path(value)
    if hint is Any:
        return value
    kind = getattr(hint, "__name__", str(hint))
    raise ConfigurationError(f"'{name}' must be of type {kind}; found {value!r}")
