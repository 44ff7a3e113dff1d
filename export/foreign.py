"""A model from elsewhere becomes a bundle: what its importers share.

    importer -> Foreign (two towers in our shape, preprocessing, tokenizer, the model as its own library runs it)
             -> export.to_onnx.export_bundle: graphs, both gates, folder

Nothing here knows open_clip or which classes transformers has.
"""

import argparse
import contextlib
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.parity import Origin
from export.patch_towers import PatchTower, PixelTower
from export.text_towers import TextTower
from export.to_onnx import export_bundle, report, today
from mcr_infer.cli import streams
from mcr_infer.errors import BundleError, McrError
from mcr_infer.images.presets import PRESETS
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.inference.tokenizer import Padding

CONFIG_REMARKS = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a configuration of transformers that say nothing about the vectors."""


class Towers(nn.Module):
    """The two encoders of a model from elsewhere, as export wants them."""

    def __init__(self, image: PatchTower | PixelTower, text: TextTower) -> None:
        super().__init__()
        self.image, self.text = image, text
        self.requires_grad_(False)
        self.eval()

    def encode_image(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed patches and positions, or pixels, as `mcr_infer.inference.bundle` describes."""
        embedding, local, weights = self.image(*inputs)
        return embedding, local, weights

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed tokens."""
        embedding, local, weights = self.text(input_ids, attention_mask)
        return embedding, local, weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreign:
    """A model from elsewhere, ready to be exported."""

    towers: Towers
    preprocess: Preprocess
    tokenizer: Tokenizer
    padding: Padding
    max_tokens: int
    origin: Origin
    facts: Mapping[str, object]
    """What the manifest says about where the towers come from; no path of this machine."""

    architecture: Mapping[str, object]
    """The configuration of the model as its authors wrote it: what the weights do not say. It is fingerprinted."""

    def outputs(self) -> dict[str, dict[str, str]]:
        """Say what `local` and `weights` of the towers are."""
        image = self.towers.image if isinstance(self.towers.image, PixelTower) else self.towers.image.head
        return {
            side: {"local": part.LOCAL, "weights": part.WEIGHTS}
            for side, part in (("image", image), ("text", self.towers.text))
        }


def parser(program: str, description: str) -> argparse.ArgumentParser:
    """Make the parser of an importer with the options that all of them have."""
    made = argparse.ArgumentParser(prog=f"python -m export.{program}", description=description)
    made.add_argument("model", metavar="MODEL", help="a folder on this machine, or a name on the hub")
    made.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="folder to write; a bundle is replaced")
    made.add_argument("--name", help="name of the bundle; the name of its folder if not given")
    made.add_argument(
        "--notice", help="one line that every use of the bundle prints; says where the towers come from if not given"
    )
    made.add_argument(
        "--rendering",
        choices=PRESETS,
        default="voi",
        help="how the greys of DICOM files are chosen for the model: mimic_cxr_jpg for one trained on MIMIC-CXR-JPG, minmax "
        "for min to max, voi (default) for the window of the file",
    )
    made.add_argument("--licence", metavar="LINE", help="the licence of the weights in a few words; ends the notice")
    made.add_argument("--licence-file", type=Path, metavar="FILE", help="copied into the bundle as LICENSE")
    made.add_argument("--model-card", type=Path, metavar="FILE", help="copied into the bundle as MODEL_CARD.md")
    return made


def run(options: argparse.Namespace, load: Callable[[argparse.Namespace], Foreign]) -> int:
    """Load the model that the options name, export it and say so; returns the exit code: 0 written, 1 refused."""
    try:
        with quiet():
            foreign = load(options)
        bundle = export_foreign(foreign, options)
    except McrError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    report(bundle)
    for side, found in dict(bundle.manifest["origin_parity"]).items():  # type: ignore[call-overload]
        print(
            f"{side} tower: {found['items']} items against the model as its own library runs it, max abs difference "
            f"{found['max_abs']:.1e}, min cosine {found['min_cosine']:.7f}"
        )
    print(f"image input: {bundle.preprocess.input}; notice: {bundle.notice}")
    return 0


def export_foreign(foreign: Foreign, options: argparse.Namespace) -> Bundle:
    """Write the bundle of a model from elsewhere; raises `BundleError` where a gate or the folder refuses it."""
    extra = {"LICENSE": options.licence_file, "MODEL_CARD.md": options.model_card}
    extra_files = {name: path for name, path in extra.items() if path is not None}
    missing = [str(path) for path in extra_files.values() if not path.is_file()]
    if missing:
        raise BundleError(f"{', '.join(missing)} cannot be read: the bundle carries it along")
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Path(folder) / "tokenizer.json"
        foreign.tokenizer.save(str(tokenizer))
        return export_bundle(
            foreign.towers,
            options.out,
            preprocess=replace(foreign.preprocess, rendering=options.rendering),
            tokenizer=tokenizer,
            max_tokens=foreign.max_tokens,
            name=options.name or options.out.resolve().name,
            created=today(),
            notice=notice(source_name(options.model), options.notice, options.licence),
            extra_files=extra_files,
            padding=foreign.padding,
            origin=foreign.origin,
            architecture=foreign.architecture,
            extras={
                "origin": {
                    "model": source_name(options.model),
                    **foreign.facts,
                    "architecture": json.loads(json.dumps(foreign.architecture, default=str)),
                },
                "outputs": foreign.outputs(),
            },
        )


def source_name(model: str) -> str:
    """Name a model without the path of this machine: a folder by its own name, a name on the hub as it is."""
    plain = model.removeprefix("local-dir:").removeprefix("hf-hub:")
    return Path(plain).resolve().name if Path(plain).exists() else plain


def notice(source: str, line: str | None, licence: str | None) -> str:
    """Compose the line that every use of the bundle prints; raises `BundleError` where it is no line of 500 characters."""
    text = line or f"the towers of this bundle are those of {source}; mcr-infer has not evaluated them on radiographs"
    text += f"; licence: {licence or 'that of its authors, which mcr-infer does not know'}"
    if not text.isprintable() or len(text) > 500:
        raise BundleError(
            f"--notice and --licence make one line of at most 500 printable characters, got {len(text)}: {text[:80]!r}; "
            "a whole licence goes into the bundle with --licence-file"
        )
    return text


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of other libraries about their own future off the terminal; what goes wrong is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def channels(values: object, what: str) -> Tensor:
    """Read a mean or a standard deviation of three channels, float64 [3]; raises `BundleError`."""
    numbers = [values] * 3 if isinstance(values, int | float) else values
    if not isinstance(numbers, list | tuple) or len(numbers) != 3:
        raise BundleError(f"{what} of the preprocessing must be three numbers, got {values!r}")
    return torch.tensor([float(one) for one in numbers], dtype=torch.float64)


def side_of(size: object, what: str) -> int:
    """Read the side of a square from a number or a pair; raises `BundleError` for what is not square."""
    sides = {size} if isinstance(size, int) else set(size) if isinstance(size, Sequence) else set()
    if len(sides) != 1:
        raise BundleError(f"{what} must be square, got {size!r}: a bundle serves square pictures")
    return int(sides.pop())
