"""Frozen dataclasses from TOML and back: unknown keys are refused with the nearest name, wrong types with the wanted one."""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from mcr_infer.errors import ConfigError

T = TypeVar("T")


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the tables of a TOML file and apply overrides such as `optim.steps=100`; raises `ConfigError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read the configuration {path}: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    for override in overrides:
        _apply(values, override)
    return values


def parse(kind: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Build a configuration dataclass from nested tables; `where` is the dotted name of the table in messages."""
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown key {where}{key}; the nearest known one is {where}{near}")
    return kind(**{key: _value(hints[key], value, f"{where}{key}") for key, value in values.items()})


def dump_toml(config: Any, where: str = "") -> str:
    """Write a configuration as TOML that `load_config` reads back to an equal one; None is an absent key."""
    lines, tables = [], []
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            name = f"{where}{item.name}"
            tables.append(f"\n[{name}]\n" + dump_toml(value, f"{name}."))
        elif value is not None:
            # JSON writes infinity and letters beyond 16 bits in ways that TOML does not read.
            written = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
            lines.append(f"{item.name} = {written}\n")
    return "".join(lines + tables).lstrip("\n")


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Name every value in which two configurations differ, as `optim.steps: 100 -> 200`."""
    found = []
    for item in dataclasses.fields(old):
        before, after, name = getattr(old, item.name), getattr(new, item.name), f"{where}{item.name}"
        if dataclasses.is_dataclass(before):
            found += differences(before, after, f"{name}.")
        elif before != after:
            found.append(f"{name}: {before} -> {after}")
    return found


def _value(hint: Any, value: Any, where: str) -> Any:
    """Check one value against the type of its field; an integer is taken for a float."""
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        return parse(typing.cast("type[Any]", hint), value, f"{where}.")
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in typing.get_args(hint) if kind is not type(None))
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_value(item, entry, f"{where}[{place}]") for place, entry in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value


def _apply(values: dict[str, Any], override: str) -> None:
    """Put one `table.key=value` into nested tables; the value is read as TOML, a bare word as a string."""
    name, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"an override has the form table.key=value, got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *tables, key = name.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{table} in the override {override!r} is a value, not a table")
    values[key] = value


def rename(values: dict[str, Any], former: str, name: str) -> None:
    """Give a key its present name, unless that is there, too."""
    *tables, key = former.split(".")
    for table in tables:
        found = values.get(table)
        if not isinstance(found, dict):
            return
        values = found
    if key in values and name not in values:
        values[name] = values.pop(key)


def require(holds: bool, name: str, got: object, expected: str) -> None:
    """Raise `ConfigError` unless a condition on the value of `name` holds."""
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {got}")
