"""Which parts are measured for a report, or measured again, and each of them in a process of its own."""

import ast
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.earlier import READERS, ROOT
from benchmarks.harness import Gauge
from benchmarks.part import Options, Part
from benchmarks.report import read_json

MEASURED = ("roofline", "latency", "matrix", "peers", "training", "retrieval")
"""Modules of this package whose `run` measures a part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """An older benchmark, which prints a document of its own, and how it is measured for a report."""

    quick: tuple[str, ...] = ()
    """Arguments of a quick run; figures of quality have no quicker form, since they depend on the gallery."""

    of_a_bundle: bool = False
    """Whether it measures the bundle that `--bundle` names, and not always the one that ships."""


AGAIN: Mapping[str, Again] = {
    "startup": Again(quick=("--runs", "5")),
    "decoding": Again(quick=("--phantoms", "1", "--repeats", "2")),
    "phantoms": Again(quick=("--count", "20")),
    "language": Again(of_a_bundle=True),
    "combined": Again(of_a_bundle=True),
}
"""Those of what was measured earlier that take a minute or two, by name."""

SECONDS = 4 * 3600
"""After which a part is ended: nothing here takes that long."""


class PartFailedError(Exception):
    """A part that ended without its document; the message says how, in its own last words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Names of `--only` and `--skip`."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def of(self, names: Collection[str]) -> list[str]:
        """Return the chosen ones of some names."""
        return [name for name in names if (not self.only or name in self.only) and name not in self.skip]

    def unknown(self, names: Collection[str]) -> list[str]:
        """Return what was named and is not there."""
        return [name for name in (*self.only, *self.skip) if name not in names]


def question_of(name: str, folder: Path = Path(__file__).parent) -> str:
    """Return the first line of what a part's module says of itself, without importing it and all that it needs."""
    module = folder / f"{name}.py"
    told = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) if module.is_file() else None
    return (told or "").partition("\n")[0]


def command_of(name: str, options: Options) -> list[str]:
    """Return the command that measures a part."""
    words = [sys.executable, "-m", f"benchmarks.{name}", "--seed", str(options.seed), "--work", str(options.work)]
    words += ["--quick"] if options.quick else []
    return words + (["--bundle", str(options.bundle)] if options.bundle else [])


def measure_part(command: Sequence[str], *, seconds: float = SECONDS, folder: Path = ROOT) -> Part:
    """Run a part's command in a process of its own and return what it measured. Raises `PartFailedError`."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made, "part.json")
        run([*command, "--out", str(out)], seconds=seconds, folder=folder)
        try:
            return Part.from_dict(read_json(out))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise PartFailedError(f"ended well, but left no document of a part: {error!r}") from error


def command_again(name: str, options: Options) -> list[str]:
    """Return the command that measures an earlier part again. Raises `PartFailedError` where that is of no other bundle."""
    again = AGAIN[name]
    words = [sys.executable, "-m", f"benchmarks.{name}", *(again.quick if options.quick else ())]
    if options.bundle is None:
        return words
    if not again.of_a_bundle:
        raise PartFailedError("not measured again: it is about the bundle that ships")
    return [*words, "--bundle", str(options.bundle)]


def measure_again(name: str, options: Options) -> Part:
    """Measure an earlier part again, here and now, and read its document. Raises `PartFailedError`."""
    path = next(path for path in READERS if Path(path).stem == name)
    started = time.monotonic()
    with Gauge() as gauge:
        told = run(command_again(name, options))
    try:
        part = READERS[path](json.loads(told.splitlines()[-1]), "")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PartFailedError(f"ended well, but left no document that its reader knows: {error!r}") from error
    return replace(part, flags=(*part.flags, *gauge.flags()), seconds=time.monotonic() - started)


def run(command: Sequence[str], *, seconds: float = SECONDS, folder: Path = ROOT) -> str:
    """Run a command in a process of its own and return its output. Raises `PartFailedError` with its own last words."""
    with tempfile.NamedTemporaryFile() as errors:
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=errors, cwd=folder, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise PartFailedError(f"ended after {seconds:.0f} s without a result") from None
        if done.returncode:
            raise PartFailedError(f"{_end(done.returncode)}: {_last_line(Path(errors.name))}")
    return done.stdout.decode(errors="replace")


def measured_or_failed(name: str, options: Options) -> tuple[Part, bool]:
    """Measure a part; one that fails is a part that says so, and the others go on. Tell whether it failed."""
    started = time.monotonic()
    try:
        return measure_again(name, options) if name in AGAIN else measure_part(command_of(name, options)), False
    except PartFailedError as error:
        return failed_part(name, str(error), time.monotonic() - started), True


def failed_part(name: str, told: str, seconds: float = 0.0) -> Part:
    """Return the part that stands for one that failed."""
    return Part(
        name=name,
        title=name[0].upper() + name[1:],
        question=question_of(name),
        command=f"python -m benchmarks.{name}",
        flags=(told,),
        seconds=seconds,
    )


def _end(code: int) -> str:
    """Say how a process ended that did not end well."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _last_line(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
    return last.replace(sys.executable, "python").replace(f"{ROOT}/", "")[:300]
