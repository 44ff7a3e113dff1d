"""Every command with a full, closed or abandoned stdout, and without a stderr: one line, the right code, nothing lost."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import invoke
from mcr_infer import Index
from mcr_infer.cli.streams import CLOSED_PIPE, OutputError, printable, run, say_table
from mcr_infer.index.audit import audit

ROOT = Path(__file__).parents[1]
ROWS = 2
FULL = "error: the result cannot be written to standard output: No space left on device"
CLOSED = "error: the result cannot be written to standard output: Bad file descriptor"

REDIRECTIONS = {
    "full": ">/dev/full",
    "closed": ">&-",
    "gone": "",
    "stderr closed": "2>&-",
    "stderr full": "2>/dev/full",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two phantoms, an index of them and of their reports, an export of it and a site secret."""
    place = tmp_path_factory.mktemp("streams")
    invoke("demo", place / "dicoms", "--count", ROWS)
    invoke("embed-images", place / "dicoms", "--index", place / "index")
    invoke("embed-reports", place / "dicoms/truth.csv", "--index", place / "index")
    invoke("export", "--index", place / "index", "--out", place / "export")
    (place / "secret").write_bytes(bytes(range(64)))
    (place / "secret").chmod(0o600)
    return place


def with_streams(command: list[str], how: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Python in a process of its own, its streams redirected by the shell."""
    words = ["sh", "-c", f'exec "$@" {REDIRECTIONS[how]}', "sh", sys.executable, "-m", *command]
    stdout: int = subprocess.PIPE
    if how == "gone":
        reader, stdout = os.pipe()
        os.close(reader)
    try:
        return subprocess.run(
            words, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, timeout=300,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )  # fmt: skip
    finally:
        if how == "gone":
            os.close(stdout)


def count(*kinds: str) -> Callable[[Path], bool]:
    def check(folder: Path) -> bool:
        with Index.open(folder / "new") as index:
            return all(index.count(kind) == ROWS for kind in kinds) and all(one.ok for one in audit(folder / "new"))

    return check


def emptied(folder: Path) -> bool:
    with Index.open(folder / "index") as index:
        return index.count("image") == 0 and all(one.ok for one in audit(folder / "index"))


def sound(folder: Path) -> bool:
    return all(one.ok for one in audit(folder / "index"))


COMMANDS: dict[str, tuple[list[str], Callable[[Path], bool]]] = {
    "demo": (["new", "--count", "1"], lambda folder: (folder / "new/truth.csv").is_file()),
    "embed-images": (
        ["dicoms", "--index", "new", "--workers", "1", "--calls", "1", "--batch-size", "2"],
        count("image"),
    ),
    "embed-reports": (["dicoms/truth.csv", "--index", "new"], count("report")),
    "query": (["pleural effusion", "--index", "index"], sound),
    "info": (["--index", "index"], sound),
    "verify": (["index"], sound),
    "rebuild": (["--index", "index"], sound),
    "compact": (["--index", "index"], sound),
    "migrate": (["--index", "index"], sound),
    "delete": (["--where", "study_year>1900", "--yes", "--index", "index", "--json"], emptied),
    "export": (["--index", "index", "--out", "new"], lambda folder: (folder / "new/export.json").is_file()),
    "import": (["export", "--index", "new"], count("image", "report")),
    "merge": (["index", "--index", "new"], count("image", "report")),
    "evaluate": (["dicoms/truth.csv"], sound),
    "pseudonym": (["--site-secret", "secret", "--path", "x"], sound),
}
"""Arguments, and what holds afterwards, whatever became of the result."""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_outlives_its_streams(name: str, made: Path, tmp_path: Path) -> None:
    arguments, holds = COMMANDS[name]
    outcomes = {}
    for how in REDIRECTIONS if name == "query" else ("full", "gone", "closed", "stderr closed"):
        folder = tmp_path / how.replace(" ", "-")
        shutil.copytree(made, folder)
        done = with_streams(["mcr_infer", name, *arguments], how, folder)
        assert "Traceback" not in done.stderr
        assert holds(folder), how
        errors = [line for line in done.stderr.splitlines() if line.startswith("error")]
        outcomes[how] = (done.returncode, [line.partition(";")[0] for line in errors], bool(done.stdout))
    assert outcomes == {
        "full": (1, [FULL], False),
        "gone": (CLOSED_PIPE, [], False),
        "closed": (1, [CLOSED], False),
        "stderr closed": (0, [], True),
        **({"stderr full": (0, [], True)} if name == "query" else {}),
    }


@pytest.mark.parametrize(
    ("command", "streams", "message"),
    [
        (["mcr_infer", "build-engine", "nowhere"], ("full", "gone", "stderr closed"), "error: nowhere is not a bundle"),
        (["mcr_infer", "info", "--index", "no"], ("full", "gone", "stderr closed"), "error: there is no index in no"),
        # Importing torch takes seconds.
        (["export.to_onnx", "nowhere", "--out", "new"], ("gone",), "error: "),
        (["train", "--config", "nowhere.toml", "--out", "new"], ("full",), "error: "),
    ],
    ids=["build-engine", "info", "to_onnx", "train"],
)
def test_an_error_keeps_its_code_and_its_line(
    command: list[str], streams: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for how in streams:
        done = with_streams(command, how, tmp_path)
        assert done.returncode == 1, done.stderr
        lines = done.stderr.splitlines()
        assert [line[: len(message)] for line in lines] == ([] if how == "stderr closed" else [message])


def test_benchmarks_outlive_their_streams(tmp_path: Path) -> None:
    codes = {how: with_streams(["benchmarks", "--list"], how, tmp_path) for how in ("full", "gone", "stderr closed")}
    assert {how: done.returncode for how, done in codes.items()} == {"full": 1, "gone": CLOSED_PIPE, "stderr closed": 0}
    assert codes["full"].stderr.startswith(FULL)
    assert codes["full"].stderr.count("\n") == 1


@pytest.mark.parametrize("how", ["full", "gone"])
def test_help_outlives_its_streams(how: str, tmp_path: Path) -> None:
    done = with_streams(["mcr_infer", "query", "--help"], how, tmp_path)
    assert done.returncode == (1 if how == "full" else CLOSED_PIPE)
    assert done.stderr.partition(";")[0] == (FULL if how == "full" else "")


def test_wrong_usage_keeps_its_code_without_streams(tmp_path: Path) -> None:
    for how in ("full", "gone", "closed", "stderr closed"):
        assert with_streams(["mcr_infer", "query"], how, tmp_path).returncode == 2


@pytest.mark.parametrize(
    "arguments",
    [["query", "--queries-from", "-"], ["delete", "--where", "study_year>1900"], ["embed-images", "--files-from", "-"]],
    ids=["query", "delete", "embed-images"],
)
def test_a_closed_stdin_is_an_empty_one(arguments: list[str], made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "index", tmp_path / "index")
    words = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "mcr_infer", *arguments, "--index", "index"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert "Traceback" not in done.stderr
    assert done.returncode == {"query": 1, "delete": 2, "embed-images": 3}[arguments[0]]
    assert sound(tmp_path)


def test_a_reader_that_is_slow_gets_everything(made: Path) -> None:
    """A pipe that another process has made non-blocking fills up, and is waited for."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    script = "from mcr_infer.cli.streams import run, say\nrun(lambda: [say('x' * 99) for _ in range(10_000)] and 3)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=writer, env=environment) as process:
        os.close(writer)
        with os.fdopen(reader, "rb") as stream:
            assert len(stream.read()) == 1_000_000
        assert process.wait() == 3


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Größe 5 µm, 日本語.dcm", "Größe 5 µm, 日本語.dcm"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),
        ("inv\u202eoice\u2066x", "inv\\u202eoice\\u2066x"),
        (b"M\xfcller".decode("utf-8", "surrogateescape"), "M\\xfcller"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_ends_with_what_it_returns(returned: int | None, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # put back afterwards
    with pytest.raises(SystemExit) as ended:
        run(lambda: returned)
    assert ended.value.code == code


def test_a_lost_result_says_why() -> None:
    assert str(OutputError(OSError(28, "No space left on device"))) == "No space left on device"


def test_a_table_is_aligned_by_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    say_table(("name", "n"), [("a\tb", "1"), ("\x1b[2J", "2")])
    assert capsys.readouterr().out == "name     n\na\\tb     1\n\\x1b[2J  2\n"
