"""Chunks of mutated bundles and indexes, each used in a process of its own: right answers, or one error of mcr-infer."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mcr_infer.errors import McrError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.verify import verify
from tests.faults.inspection import REFUSED, RIGHT, WRONG, Findings, inspect, warm
from tests.faults.process import DiedError, Victim
from tests.faults.sample import make
from tests.fuzz.embedding import bundle
from tests.fuzz.stores import Changed, change_folder, fresh_copy
from tests.fuzz.tally import Tally
from tests.tiny import DIM, SENTENCES

_SECONDS = 60.0
_FOREIGN = re.compile(rf"{WRONG}\w*(Error|Exception|Interrupt|Exit|Warning)\b")
"""What is said of an exception that is not of mcr-infer."""


def fuzz_bundles(seed: int, numbers: range, place: Path, tally: Tally) -> None:
    """Open, verify and use changed bundles."""
    original = bundle().path
    for number in numbers:
        folder = fresh_copy(original, place / "bundle")
        changed = change_folder(seed, "bundle", number, folder, "manifest.json")
        _judge(number, changed, lambda folder=folder: _use_bundle(folder), tally)  # type: ignore[misc]


def _use_bundle(folder: Path) -> Findings:
    said = {}
    for name, use in (("embed", _open_and_embed), ("verify", _verify)):
        try:
            said[name] = use(folder)
        except McrError as error:
            text = str(error)
            said[name] = f"{REFUSED}{text}" if text and "\n" not in text else f"{WRONG}several lines: {text}"
        except Exception as error:  # noqa: BLE001 - a traceback is what this looks for
            said[name] = f"{WRONG}{type(error).__name__}: {error}"
    return said


def _open_and_embed(folder: Path) -> str:
    used = Bundle.open(folder)
    text = TextEncoder(used, device="cpu", threads=1).encode(list(SENTENCES))
    pixels = np.linspace(0, 1, 20 * 12, dtype=np.float32).reshape(20, 12)
    image = ImageEncoder(used, device="cpu", threads=1).encode([used.preprocess.patches(pixels)])
    # A changed bundle may state another length of its vectors, as long as its towers keep it.
    right = text.shape == (len(SENTENCES), used.embedding_dim) and image.shape == (1, used.embedding_dim)
    return RIGHT if right and (used.embedding_dim == DIM) else f"{WRONG}vectors of shape {text.shape} and {image.shape}"


def _verify(folder: Path) -> str:
    checks = verify(Bundle.open(folder))
    return RIGHT if all(check.ok for check in checks) else f"{REFUSED}verify says so"


def fuzz_indexes(seed: int, numbers: range, place: Path, tally: Tally) -> None:
    """Open and search changed indexes, and compare every part with what it must hold."""
    original = place / "original"
    state = make(original)
    warm(state)
    for number in numbers:
        folder = fresh_copy(original, place / "index")
        changed = change_folder(seed, "index", number, folder, "index.json")
        _judge(number, changed, lambda folder=folder: inspect(folder, state, forgetful=True), tally)  # type: ignore[misc]


def _judge(number: int, changed: Changed, use: Callable[[], Findings], tally: Tally) -> None:
    """Use a folder in a process of its own, and note how that ended."""
    tally.cases += 1
    tally.mutations.update(changed.mutations)
    begun = time.monotonic()
    victim = Victim(lambda tell: tell(use()))
    try:
        said = victim.next()
    except DiedError as error:
        tally.outcomes["died"] += 1
        tally.find(
            "hung" if "hangs" in str(error) or "nothing" in str(error) else "parent crashed",
            number,
            changed.mutations,
            str(error),
        )
        return
    finally:
        victim.kill()
        victim.rest()
    if time.monotonic() - begun > _SECONDS:
        tally.find("hung", number, changed.mutations, f"{time.monotonic() - begun:.0f} s")
    wrong = [one for one in said.values() if one.startswith(WRONG)]
    foreign = [one for one in wrong if _FOREIGN.match(one)]
    for name, one in said.items():
        tally.outcomes[
            f"{name} {'wrong' if one.startswith(WRONG) else 'refused' if one.startswith(REFUSED) else 'right'}"
        ] += 1
    if foreign:
        tally.find("traceback", number, changed.mutations, "; ".join(foreign))
    elif wrong and not changed.trusted:
        tally.find("wrong answer", number, changed.mutations, "; ".join(wrong))
