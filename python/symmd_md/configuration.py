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
MERGE_TAG = "tag:yaml.org,2002:merge"


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML takes the last of two equal keys in silence; here the second one is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == MERGE_TAG:
                continue
            key = self.construct_object(key_node)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise ConfigurationError(f"the key '{key}' is given twice, again in line {line}; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Parse a YAML file whose top level is a mapping."""
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeyLoader)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ConfigurationError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise ConfigurationError(f"configuration file {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not valid YAML: {reason}") from None
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
        options = [option for option in arguments if option is not type(None)]
        errors = []
        for option in options:
            try:
                return _convert(value, option, name)
            except ConfigurationError as error:
                errors.append(error)
        # The option of the value's own shape is the one that was meant.
        meant = [error for error, option in zip(errors, options, strict=True) if _same_shape(value, option)]
        raise (meant or errors)[0]
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


def _same_shape(value: Any, hint: Any) -> bool:
    if isinstance(value, dict):
        return typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint)
    return isinstance(value, (list, tuple)) and typing.get_origin(hint) in (list, tuple)


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
