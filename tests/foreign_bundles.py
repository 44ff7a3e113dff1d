"""Bundles of small models of public classes, each made once."""

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

import foreigners
from export import from_open_clip, from_transformers
from export.foreign import Foreign
from mcr_infer.inference.bundle import Bundle

KINDS = {
    "clip": (foreigners.clip, from_transformers),
    "siglip": (foreigners.siglip, from_transformers),
    "dual_encoder": (foreigners.dual_encoder, from_transformers),
    "open_clip_vit": (foreigners.open_clip_vit, from_open_clip),
    "open_clip_siglip": (foreigners.open_clip_siglip, from_open_clip),
    "biomed_clip": (foreigners.biomed_clip, from_open_clip),
    "open_clip_resnet": (foreigners.open_clip_resnet, from_open_clip),
}
SLOW = ("dual_encoder", "open_clip_vit", "open_clip_siglip")
"""Left out where slow tests are: what they have beyond the others is one class each."""

EACH = [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS]

Made = Callable[[str], tuple[Path, Bundle]]


def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return what saves a model of a kind and makes its bundle, once."""
    known: dict[str, tuple[Path, Bundle]] = {}

    def make(kind: str) -> tuple[Path, Bundle]:
        if kind not in known:
            save, importer = KINDS[kind]
            root = tmp_path_factory.mktemp(kind)
            model = save(root / "someones-model")
            card = root / "card.md"
            card.write_text("# Theirs\n")
            given = [str(model), "--out", str(root / "bundle"), "--licence", "MIT", "--licence-file", str(card)]
            assert importer.main(given) == 0
            known[kind] = (model, Bundle.open(root / "bundle"))
        return known[kind]

    return make


def load(kind: str, model: Path) -> Foreign:
    return KINDS[kind][1].load(argparse.Namespace(model=str(model), pretrained=None, text_model=None))
