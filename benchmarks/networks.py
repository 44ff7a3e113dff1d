"""The networks that `benchmarks.peers` runs, of the same sizes and random weights for all, and how they are made.

Two sizes: a text tower of BERT-base's beside an image tower of ViT-B/16's, and, where nobody wants to wait for exports of a
minute each, both towers of the sizes of the bundle that ships. Packages whose requirements contradict ours are installed
into a folder of their own.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import large

OVERLAYS = {
    "fastembed": ("overlay-fastembed", [["fastembed==0.9.1"]]),
    "sentence-transformers, ONNX": (
        "overlay-sentence-transformers",
        [
            ["--no-deps", "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "huggingface_hub==0.36.2",
             "tokenizers==0.22.2"],
            ["httpx"],
        ],
    ),
}  # fmt: skip
"""What a contender needs that cannot be installed beside the rest: fastembed and optimum want an older huggingface_hub,
optimum an older transformers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Networks:
    """Where the networks of one size lie."""

    work: Path
    small: bool
    """Whether they have the sizes of the bundle that ships, and not those of BERT-base and ViT-B/16."""

    text: Path
    """Our bundle whose text tower runs."""

    image: Path
    """Our bundle whose image tower runs."""

    sizes: Mapping[str, Mapping[str, Any]]
    """Settings of the towers `text` and `image`."""

    @classmethod
    def of(cls, work: Path, *, small: bool) -> "Networks":
        """Return the networks of a size; they need not exist yet."""
        if not small:
            sizes: dict[str, Any] = {"text": large.MODEL["text"], "image": large.VIT["image"]}
            return cls(work=work, small=False, text=work / "bert", image=work / "vitb16", sizes=sizes)
        shipped = work / "shipped-sized"
        return cls(work=work, small=True, text=shipped, image=shipped, sizes=large.shipped_sizes())

    @property
    def told(self) -> str:
        """The sizes in words."""
        return "the sizes of the bundle that ships" if self.small else "BERT-base's and ViT-B/16's sizes"

    @property
    def sentence_transformers(self) -> Path:
        """The text tower as sentence-transformers saves it."""
        return self._folder / "sentence_transformers"

    @property
    def sentence_transformers_onnx(self) -> Path:
        """The same as it exports it; fastembed takes the same file."""
        return self._folder / "sentence_transformers_onnx"

    @property
    def open_clip(self) -> Path:
        """Both towers as open_clip saves them."""
        return self._folder / "open_clip"

    @property
    def _folder(self) -> Path:
        return self.work / "small" if self.small else self.work

    def make(self) -> dict[str, str]:
        """Make what is not there yet; return why some contenders cannot take part. What we export ourselves must succeed."""
        if self.small:
            bundle = large.make_shipped_sized(self.text)
        else:
            bundle = large.make_bundle(self.text)
            large.make_vit(self.image)
        self._folder.mkdir(parents=True, exist_ok=True)
        failed = {}
        for names, make in (
            (("sentence-transformers",), partial(large.make_sentence_transformers, self.sentence_transformers)),
            (("open_clip, text", "open_clip, DICOM"), partial(large.make_open_clip, self.open_clip)),
        ):
            try:
                make(bundle, self.sizes)
            except ImportError as error:
                failed |= dict.fromkeys(names, f"cannot be loaded: {error}")
        if self.small:
            absent = "left out of the quick run: it would have to be installed and exported first"
            return failed | dict.fromkeys(OVERLAYS, absent)
        for name, (folder, calls) in OVERLAYS.items():
            reason = _installed(self.work / folder, calls)
            if reason is not None:
                failed[name] = reason
        if (
            reason := failed.get("sentence-transformers")
            or failed.get("sentence-transformers, ONNX")
            or self._export_onnx()
        ):
            failed |= dict.fromkeys(OVERLAYS, reason)
        return failed

    def environment(self, contender: str) -> dict[str, str]:
        """Return the environment of the process in which a contender runs."""
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if contender in OVERLAYS:
            places = [str((self.work / OVERLAYS[contender][0]).resolve()), environment.get("PYTHONPATH", "")]
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        return environment

    def _export_onnx(self) -> str | None:
        """Let sentence-transformers export its model; return why that was not possible."""
        out = self.sentence_transformers_onnx
        if out.exists():
            return None
        source = self.work / "sentence_transformers_4"
        shutil.copytree(self.sentence_transformers, source, dirs_exist_ok=True)
        # The release of transformers that its exporter wants does not know the class that ours wrote.
        settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
        made = out.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        program = (
            "import sys; from sentence_transformers import SentenceTransformer; "
            "SentenceTransformer(sys.argv[1], device='cpu', backend='onnx').save_pretrained(sys.argv[2])"
        )
        command = [sys.executable, "-c", program, str(source), str(made)]
        environment = self.environment("sentence-transformers, ONNX")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"cannot be exported: {last_line(done.stderr)}"
        made.rename(out)
        return None


def _installed(folder: Path, calls: Sequence[Sequence[str]]) -> str | None:
    """Install packages into a folder of their own; return why that was not possible."""
    if folder.exists():
        return None
    made = folder.with_suffix(".part")
    shutil.rmtree(made, ignore_errors=True)
    for wanted in calls:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(made), *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"cannot be installed: {last_line(done.stderr)}"
    made.rename(folder)
    return None


def last_line(told: str) -> str:
    """Return the last line that a failed process said, cut to what a table holds."""
    return (told.strip().splitlines() or ["it said nothing"])[-1][:120]
