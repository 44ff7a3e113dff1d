"""What a training run is told: frozen dataclasses read from TOML, every choice of the method a value with a name.

Unknown keys are refused with the nearest name, wrong types with the type that is wanted; the resolved configuration is
written beside the weights, so that a run can be repeated from its own folder.
"""

import dataclasses
import difflib
import json
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from mcr_infer.errors import ConfigError
from mcr_infer.preprocess import Preprocess

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTower:
    """A timm ViT over patches; the three overrides change the architecture that `vit` names."""

    image_size: int = 160
    patch_size: int = 16
    vit: str = "vit_tiny_patch16_224"
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    pixel_mean: float = 0.45
    """Of pixels in [0, 1]; mean and deviation are applied inside the tower."""
    pixel_std: float = 0.34

    def __post_init__(self) -> None:
        Preprocess(image_size=self.image_size, patch_size=self.patch_size)
        _require(self.pixel_std > 0, "model.image.pixel_std", self.pixel_std, "more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTower:
    """A transformers BERT, from scratch, over the WordPiece that is trained with the run."""

    vocab_size: int = 1500
    max_tokens: int = 96
    width: int = 192
    depth: int = 3
    heads: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _require(self.width % self.heads == 0, "model.text.heads", self.heads, f"a divisor of width {self.width}")
        _require(0 <= self.dropout < 1, "model.text.dropout", self.dropout, "in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonSpace:
    """Mapping before Aggregation: how tokens of both towers enter the space in which they are compared."""

    embedding_dim: int = 128
    mapping: Literal["before", "after"] = "before"
    """`before` maps every token and then aggregates (MbA); `after` aggregates tower tokens and maps the result."""
    map: Literal["linear", "mlp"] = "mlp"
    map_norm: bool = True
    """A LayerNorm at the end of the map."""
    aggregation: Literal["attention", "mean", "max", "gem"] = "attention"
    shared_aggregator: bool = False
    """One aggregator for both modalities instead of one each."""
    scorer_width: int = 64
    """Hidden width of the attention scorer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoders:
    """The two reconstruction decoders; they are left behind at export."""

    image_width: int = 96
    image_depth: int = 1
    image_heads: int = 3
    report_heads: int = 3

    def __post_init__(self) -> None:
        divides = self.image_width % self.image_heads == 0
        _require(divides, "model.decoders.image_heads", self.image_heads, f"a divisor of width {self.image_width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything that fixes the shapes of the weights."""

    image: ImageTower = field(default_factory=ImageTower)
    text: TextTower = field(default_factory=TextTower)
    space: CommonSpace = field(default_factory=CommonSpace)
    decoders: Decoders = field(default_factory=Decoders)

    def __post_init__(self) -> None:
        heads, width = self.decoders.report_heads, self.text.width
        _require(width % heads == 0, "model.decoders.report_heads", heads, f"a divisor of model.text.width {width}")

    @property
    def preprocess(self) -> Preprocess:
        """The geometry that training and inference share."""
        return Preprocess(image_size=self.image.image_size, patch_size=self.image.patch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How much of each input is hidden in the one pass that feeds both tasks."""

    image_ratio: float = 0.5
    text_ratio: float = 0.2

    def __post_init__(self) -> None:
        for name in ("image_ratio", "text_ratio"):
            _require(0 <= getattr(self, name) < 1, f"masking.{name}", getattr(self, name), "in [0, 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """The weights of the three losses and the temperature of the contrastive one."""

    contrastive_weight: float = 1.0
    image_weight: float = 0.5
    report_weight: float = 0.5
    temperature: float = 0.07
    """Where the learnable temperature starts."""
    max_logit_scale: float = 100.0
    """The inverse temperature is clamped here."""
    positives: Literal["report", "findings"] = "report"
    """What makes two pairs of a batch positives of each other: equal report texts, or equal finding sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    """AdamW with warm-up and cosine decay; the number of steps is the length of the run."""

    steps: int = 6000
    batch_size: int = 128
    learning_rate: float = 1e-3
    final_fraction: float = 0.01
    """The learning rate at the end over its peak."""
    warmup_steps: int = 200
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    unmasked_steps: int = 0
    """The last steps see whole inputs and only the contrastive loss, as the towers will when they serve."""

    def __post_init__(self) -> None:
        _require(self.batch_size > 1, "optim.batch_size", self.batch_size, "at least 2: contrast needs a negative")
        _require(0 <= self.unmasked_steps <= self.steps, "optim.unmasked_steps", self.unmasked_steps, "in [0, steps]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Augment:
    """Changes of the pixels that keep the findings; nothing here mirrors an image."""

    gamma: float = 0.15
    """Largest change of log gamma."""
    contrast: float = 0.15
    brightness: float = 0.08
    crop: float = 0.06
    """Largest share cut off at each of the four sides."""
    rotation: float = 4.0
    """Largest angle in degrees."""

    def __post_init__(self) -> None:
        _require(0 <= self.crop < 0.5, "augment.crop", self.crop, "in [0, 0.5)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Phantoms: which seeds, how they are stored, and which text stands beside an image."""

    cache: str = "cache"
    """Folder of the stored phantoms, relative to the working directory; any run may share it."""
    phantom_size: int = 256
    train_seed: int = 1_000_000
    train_count: int = 20_000
    validation_seed: int = 900_000
    validation_count: int = 512
    full: float = 0.4
    """Share of texts with findings and impression; the four shares are normalised to 1."""
    findings: float = 0.2
    impression: float = 0.2
    description: float = 0.2
    """Share of short, query-like sentences."""

    def __post_init__(self) -> None:
        _require(self.train_seed >= 1_000_000, "data.train_seed", self.train_seed, "at least 1000000")
        end = self.validation_seed + self.validation_count
        _require(self.validation_seed >= 900_000, "data.validation_seed", self.validation_seed, "at least 900000")
        _require(end <= 1_000_000, "data.validation_seed + validation_count", end, "at most 1000000")
        _require(min(self.shares) >= 0 and sum(self.shares) > 0, "data shares", self.shares, "not negative, not all 0")

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """The shares of full, findings, impression and description."""
        return (self.full, self.findings, self.impression, self.description)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How the run is carried out."""

    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the towers and decoders; losses and weights stay in float32."""
    attention: Literal["sdpa", "plain"] = "sdpa"
    """`plain` writes attention as two products and a softmax: faster than torch's fused kernel in bf16 on a CPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    workers: int = 1
    """Processes that prepare batches; 0 prepares them in the training process."""
    log_every: int = 10
    evaluate_every: int = 500
    checkpoint_every: int = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one run."""

    model: Model = field(default_factory=Model)
    masking: Masking = field(default_factory=Masking)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a TOML file and apply overrides such as `optim.steps=100`; raises `ConfigError`."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"cannot read the configuration {path}: {exc.strerror}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}") from exc
    for override in overrides:
        _apply(values, override)
    return parse(Config, values)


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
            lines.append(f"{item.name} = {json.dumps(value)}\n")
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


def _require(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {got}")
