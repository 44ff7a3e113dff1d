"""What a training run is told: frozen dataclasses read from TOML, every choice of the method a value with a name.

The resolved configuration is written beside the weights, so that a run can be repeated from its own folder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mcr_infer.images.presets import Preset
from mcr_infer.inference.long_text import DEFAULT, LongText
from mcr_infer.inference.preprocess import Preprocess
from train.masking import hidden_count
from train.settings import parse, read_toml, rename, require


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTower:
    """A timm ViT over patches; the three overrides change the architecture that `vit` names."""

    image_size: int = 160
    patch_size: int = 16
    vit: str = "vit_tiny_patch16_224"
    """Any `vit_*` name of timm."""
    pretrained: str | None = None
    """Where the weights start: `hub` for timm's own of that name, or a file of timm or MAE; None = untrained."""
    width: int | None = None
    depth: int | None = None
    heads: int | None = None
    pixel_mean: float = 0.45
    """Of pixels in [0, 1]; mean and deviation are applied inside the tower."""
    pixel_std: float = 0.34
    frequency_gain: float = 0.0
    """How much louder fine detail enters the patch projection: coefficient (u, v) of a patch's cosine transform is
    multiplied by 1 + gain (u^2 + v^2). 0 = pixels as they are."""

    rendering: Preset = "voi"
    """How the greys of DICOM files are chosen, here and by the bundle: `mimic_cxr_jpg` for a tower of that data set."""

    def __post_init__(self) -> None:
        Preprocess(image_size=self.image_size, patch_size=self.patch_size)
        require(self.pixel_std > 0, "model.image.pixel_std", self.pixel_std, "more than 0")
        require(self.frequency_gain >= 0, "model.image.frequency_gain", self.frequency_gain, "at least 0")
        plain = self.pretrained is None or self.frequency_gain == 0
        require(
            plain, "model.image.frequency_gain", self.frequency_gain, "0 with pretrained weights, which read pixels"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTower:
    """A transformers BERT: from scratch over the WordPiece that is trained with the run, or a pretrained one."""

    pretrained: str | None = None
    """A hub name or a local folder with weights and vocabulary; it then decides every size below but `max_tokens`."""
    vocab_size: int = 1500
    max_tokens: int = 96
    width: int = 192
    depth: int = 3
    heads: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        require(self.width % self.heads == 0, "model.text.heads", self.heads, f"a divisor of width {self.width}")
        require(0 <= self.dropout < 1, "model.text.dropout", self.dropout, "in [0, 1)")


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
    super_resolution: int = 1
    """Hidden patches are asked for this many times finer than the tower sees them."""

    def __post_init__(self) -> None:
        require(self.super_resolution >= 1, "model.decoders.super_resolution", self.super_resolution, "at least 1")
        divides = self.image_width % self.image_heads == 0
        require(divides, "model.decoders.image_heads", self.image_heads, f"a divisor of width {self.image_width}")


def check_report_heads(decoders: Decoders, width: int) -> None:
    """Raise `ConfigError` unless the report decoder can share a text tower's width among its heads."""
    heads = decoders.report_heads
    divides = heads >= 1 and width % heads == 0
    require(divides, "model.decoders.report_heads", heads, f"a divisor of the text tower's width {width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Everything that fixes the shapes of the weights."""

    image: ImageTower = field(default_factory=ImageTower)
    text: TextTower = field(default_factory=TextTower)
    space: CommonSpace = field(default_factory=CommonSpace)
    decoders: Decoders = field(default_factory=Decoders)

    def __post_init__(self) -> None:
        if self.text.pretrained is None:
            check_report_heads(self.decoders, self.text.width)

    @property
    def preprocess(self) -> Preprocess:
        """The rendering and the geometry that training and inference share."""
        image = self.image
        return Preprocess(image_size=image.image_size, patch_size=image.patch_size, rendering=image.rendering)


@dataclass(frozen=True, slots=True, kw_only=True)
class Masking:
    """How much of each input is hidden in the one pass that feeds both tasks."""

    image_ratio: float = 0.5
    text_ratio: float = 0.2
    text_mode: Literal["mask", "drop"] = "mask"
    """Hidden words become [MASK] in the text tower's input, or do not enter the tower at all."""

    def __post_init__(self) -> None:
        for name in ("image_ratio", "text_ratio"):
            require(0 <= getattr(self, name) < 1, f"masking.{name}", getattr(self, name), "in [0, 1)")


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

    def __post_init__(self) -> None:
        for name in ("contrastive_weight", "image_weight", "report_weight"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "at least 0")
        for name in ("temperature", "max_logit_scale"):
            require(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "more than 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Optim:
    """The optimiser with warm-up and cosine decay; the number of steps is the length of the run."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon` orthogonalises the updates of the matrices inside the towers; all other weights stay with AdamW."""
    steps: int = 6000
    batch_size: int = 128
    """Pairs that are contrasted with each other, over all processes."""
    micro_batch: int | None = None
    """Pairs a process takes through the towers at once; gradients are cached so that the contrast stays whole.
    None = all."""
    learning_rate: float = 1e-3
    final_fraction: float = 0.01
    """The learning rate at the end over its peak."""
    warmup_steps: int = 200
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    layer_decay: float = 1.0
    """Learning rate of a layer over that of the layer above it, in both towers; 1 = the same everywhere."""
    ema_decay: float = 0.0
    """Of the moving average of the weights that is evaluated and exported; 0 = the weights themselves."""
    unmasked_steps: int = 0
    """The last steps see whole inputs and only the contrastive loss, as the towers will when they serve."""

    def __post_init__(self) -> None:
        require(self.batch_size > 1, "optim.batch_size", self.batch_size, "at least 2: contrast needs a negative")
        require(0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "in (0, 1]")
        require(0 <= self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "in [0, 1)")
        require(self.micro_batch is None or self.micro_batch > 0, "optim.micro_batch", self.micro_batch, "at least 1")
        require(0 <= self.unmasked_steps <= self.steps, "optim.unmasked_steps", self.unmasked_steps, "in [0, steps]")
        require(self.steps >= 1, "optim.steps", self.steps, "at least 1")
        require(self.warmup_steps >= 0, "optim.warmup_steps", self.warmup_steps, "at least 0")
        require(self.learning_rate >= 0, "optim.learning_rate", self.learning_rate, "at least 0")
        require(self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "more than 0; inf clips nothing")


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
        require(0 <= self.crop < 0.5, "augment.crop", self.crop, "in [0, 0.5)")
        # A contrast of 1 could turn the grey scale around.
        require(0 <= self.contrast < 1, "augment.contrast", self.contrast, "in [0, 1)")
        for name in ("gamma", "brightness", "rotation"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), "at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantoms:
    """Synthetic pairs: which seeds, at what size they are stored, and which text stands beside an image."""

    size: int = 256
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
        require(self.train_seed >= 1_000_000, "data.phantoms.train_seed", self.train_seed, "at least 1000000")
        end = self.validation_seed + self.validation_count
        require(
            self.validation_seed >= 900_000, "data.phantoms.validation_seed", self.validation_seed, "at least 900000"
        )
        require(end <= 1_000_000, "data.phantoms.validation_seed + validation_count", end, "at most 1000000")
        require(
            min(self.shares) >= 0 and sum(self.shares) > 0,
            "data.phantoms shares",
            self.shares,
            "not negative, not all 0",
        )

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """The shares of full, findings, impression and description."""
        return (self.full, self.findings, self.impression, self.description)


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiographs:
    """Real pairs: where they lie, which of them are taken, and what is done about faults found before the first step."""

    images: str = ""
    """Root folder of the pictures: `mimic-cxr-jpg`, `mimic-cxr`, that of the Open-I PNG files, or of a table's paths."""
    reports: str = ""
    """MIMIC: folder that holds `files/pXX/...txt`, where that is not `images`; Open-I: folder or .tgz of XML files;
    unused for a table."""
    table: str = ""
    """A CSV or Parquet file; for MIMIC the folder of its csv.gz tables, where that is not `images`; for Open-I a CSV that
    names the view of each image, which its XML files do not."""
    image_column: str = "image"
    report_column: str = "report"
    patient_column: str = "patient"
    split_column: str = "split"
    view_column: str = "view"
    findings_column: str = "findings"
    """Of a table; all but image and report may be absent from it under these names, and Open-I's needs image and view alone.
    `image` stands for `file`, too."""
    label_separator: str | None = None
    """What separates the findings in a cell of a table, where the column as a whole leaves it open."""
    train_split: str = "train"
    validation_split: str = "validate"
    """Names of the two splits, in any case; of a table that does not have them, `training`, and `val`, `valid`,
    `validation` or `dev`, whichever one it has."""
    validation_share: float = 0.1
    """Share of the patients that go to validation where the source has no split: Open-I, a table without the column."""
    views: tuple[str, ...] = ("PA", "AP")
    """View positions that are taken, in any case; empty = all, those without a view position too."""
    text: Literal["both", "findings", "impression", "longest"] = "both"
    """Which part of a report stands beside the image."""
    headings: str = ""
    """A TOML file with the headings of a site, as `mcr-infer embed-reports --headings` reads it."""
    missing_files: Literal["refuse", "skip"] = "refuse"
    """An image or report that is missing, or an image that cannot be decoded: `skip` leaves its pairs out."""
    empty_reports: Literal["refuse", "skip"] = "skip"
    """A report without the text that is asked for."""
    leakage: Literal["refuse", "skip"] = "refuse"
    """A patient of the training split who is also in validation: `skip` leaves the training pairs out."""
    cached_side: int = 288
    """Shorter side, in pixels, at which a decoded picture is stored; smaller pictures are stored as they are."""

    def __post_init__(self) -> None:
        require(self.cached_side >= 1, "data.radiographs.cached_side", self.cached_side, "at least 1")
        share = self.validation_share
        require(0 < share < 1, "data.radiographs.validation_share", share, "in (0, 1)")
        differ = self.train_split != self.validation_split
        require(differ, "data.radiographs.validation_split", self.validation_split, "another split than train_split")


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """Where pairs come from. Only the table that belongs to `source` is used."""

    source: Literal["phantoms", "mimic_cxr_jpg", "mimic_cxr", "open_i", "table"] = "phantoms"
    cache: str = "cache"
    """Folder of stored pictures, relative to the working directory; any run may share it."""
    long_text: LongText = DEFAULT
    """What is done with a text of more than `model.text.max_tokens` tokens, as `--long-text` of `mcr-infer embed-reports`:
    a bundle that will serve with another strategy is trained with that one."""
    phantoms: Phantoms = field(default_factory=Phantoms)
    radiographs: Radiographs = field(default_factory=Radiographs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How the run is carried out."""

    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the towers and decoders; losses and weights stay in float32, and fp16 scales its loss."""
    attention: Literal["sdpa", "plain"] = "sdpa"
    """`plain` writes attention as two products and a softmax: faster than torch's fused kernel in bf16 on a CPU."""
    compile: bool = False
    """torch.compile of both towers; steps are then no longer repeated bit for bit."""
    gradient_checkpointing: bool = False
    """Recompute the blocks of both towers in the backward pass: less memory, about a third more time."""
    length_groups: int = 1
    """Groups by length in which the reports of a batch are read: less padding; worth it on a CPU."""
    device: Literal["cpu", "cuda"] = "cpu"
    """`cuda` under torchrun means the GPU of the process's local rank."""
    init_from: str | None = None
    """A run of the same architecture whose weights, and tokenizer, this one starts with; None = none."""
    workers: int = 1
    """Processes that prepare batches; 0 prepares them in the training process."""
    log_every: int = 10
    evaluate_every: int = 500
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        # Generators of torch take 64 bits, of which the steps need 48.
        require(0 <= self.seed < 2**15, "run.seed", self.seed, f"in [0, {2**15})")
        require(self.workers >= 0, "run.workers", self.workers, "at least 0")
        for name in ("length_groups", "log_every", "evaluate_every", "checkpoint_every"):
            require(getattr(self, name) >= 1, f"run.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration of one run."""

    framework: Literal["mcr", "dual_stream"] = "mcr"
    """`mcr` feeds both tasks from one masked pass; `dual_stream` contrasts whole inputs in a pass of their own."""
    model: Model = field(default_factory=Model)
    masking: Masking = field(default_factory=Masking)
    loss: Loss = field(default_factory=Loss)
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    run: Run = field(default_factory=Run)

    def __post_init__(self) -> None:
        ratio, patches = self.masking.image_ratio, self.model.preprocess.patch_count
        hides = ratio == 0 or hidden_count(patches, ratio) > 0
        require(hides, "masking.image_ratio", ratio, f"0, or enough to hide one of {patches} patches")
        rendering = self.model.image.rendering
        drawn = self.data.source != "phantoms" or rendering == "voi"
        require(
            drawn, "model.image.rendering", rendering, "voi with data.source phantoms, which are drawn for their window"
        )
        detail = self.model.image.image_size * self.model.decoders.super_resolution
        enough = self.data.source != "phantoms" or self.data.phantoms.size >= detail
        require(enough, "data.phantoms.size", self.data.phantoms.size, f"at least {detail}, the size that is asked for")


_RENAMED = {"data.radiographs.labels_column": "findings_column"}
"""Present names of keys by their former dotted ones, which the configurations of older runs hold."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the configuration of a run; raises `ConfigError`."""
    return read_config(read_toml(path, overrides))


def read_config(values: dict[str, Any]) -> Config:
    """Build a configuration from nested tables, of this release or an earlier one; raises `ConfigError`."""
    for former, name in _RENAMED.items():
        rename(values, former, name)
    return parse(Config, values)
