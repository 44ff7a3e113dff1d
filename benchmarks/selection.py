"""Which parts are measured for a report, and each of them in a process of its own."""

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
    """An older benchmark, which prints a document of its own on its last line."""

    words: tuple[str, ...]
    """Module of this package, and arguments; `{work}` stands for the folder of what is made on the way."""

    document: str
    """Where what it printed earlier lies: the report shows that where it is not measured now."""

    of_a_bundle: bool = False
    """Whether it measures the bundle that `--bundle` names, and not always the one that ships."""


AGAIN: Mapping[str, Again] = {
    "startup": Again(words=("startup",), document="benchmarks/results/startup.json"),
    "startup-large": Again(
        words=("startup", "--large", "{work}/startup"), document="benchmarks/results/startup_large.json"
    ),
    "sessions": Again(words=("sessions",), document="benchmarks/results/sessions.json"),
    "towers": Again(words=("towers", "--vit", "{work}/vitb16"), document="benchmarks/results/towers.json"),
    "decoding": Again(words=("decoding",), document="benchmarks/results/decoding.json"),
    "throughput": Again(
        words=("throughput", "--work", "{work}/throughput"), document="benchmarks/results/throughput.json"
    ),
    "recall": Again(
        words=("recall", "--store", "{work}/recall", "--part", "engines", "--part", "index"),
        document="benchmarks/results/recall.json",
        of_a_bundle=True,
    ),
    "phantoms": Again(words=("phantoms",), document="benchmarks/results/phantoms.json"),
    "language": Again(words=("language",), document="benchmarks/results/language.json", of_a_bundle=True),
    "combined": Again(words=("combined",), document="benchmarks/results/combined.json", of_a_bundle=True),
}
"""By the names of their parts. What is not here takes hours, has nothing to do with speed, or breaks things on purpose."""

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
    file = folder / f"{_module_of(name)}.py"
    told = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file.is_file() else None
    return (told or "").partition("\n")[0]


def _module_of(name: str) -> str:
    return AGAIN[name].words[0] if name in AGAIN else name


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


def again_in(options: Options, choice: Choice) -> list[str]:
    """Return which of `AGAIN` are measured: those that are about the bundle, but none in a quick run."""
    if options.quick:
        return []
    return choice.of([name for name, again in AGAIN.items() if options.bundle is None or again.of_a_bundle])


def command_again(again: Again, options: Options) -> list[str]:
    """Return the command that measures an older benchmark."""
    module, *words = (word.format(work=options.work) for word in again.words)
    words += ["--bundle", str(options.bundle)] if options.bundle and again.of_a_bundle else []
    return [sys.executable, "-m", f"benchmarks.{module}", *words]


def measure_again(name: str, options: Options, documents: Path) -> Part:
    """Measure an older benchmark here and now, keep its document and read it. Raises `PartFailedError`."""
    again = AGAIN[name]
    started = time.monotonic()
    with Gauge() as gauge:
        told = run(command_again(again, options))
    try:
        document = json.loads(told.splitlines()[-1])
        documents.mkdir(parents=True, exist_ok=True)
        kept = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (documents / Path(again.document).name).write_text(kept, encoding="utf-8")
        part = READERS[again.document](document, "")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PartFailedError(f"ended well, but left no document that its reader knows: {error!r}") from error
    flags = (*part.flags, *gauge.flags())
    return replace(part, flags=flags, pace_ms=gauge.pace_ms, seconds=time.monotonic() - started)


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


def measured_or_failed(name: str, options: Options, documents: Path) -> tuple[Part, bool]:
    """Measure a part; one that fails is a part that says so, and the others go on. Tell whether it failed.

    What an older benchmark printed is kept in the folder `documents`.
    """
    started = time.monotonic()
    try:
        if name in AGAIN:
            return measure_again(name, options, documents), False
        return measure_part(command_of(name, options)), False
    except PartFailedError as error:
        return failed_part(name, str(error), time.monotonic() - started), True


def failed_part(name: str, told: str, seconds: float = 0.0) -> Part:
    """Return the part that stands for one that failed."""
    return Part(
        name=name,
        title=name[0].upper() + name[1:],
        question=question_of(name),
        command=f"python -m benchmarks.{_module_of(name)}",
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
