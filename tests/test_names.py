"""Names that are not UTF-8, hold control characters or meet another locale: shown escaped, kept exact, found again."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import invoke, json_lines
from mcr_infer import Bundle, Index
from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index.audit import audit
from mcr_infer.index.root import shown
from mcr_infer.index.rows import loaded_path, stored_path
from mcr_infer.inference.bundle import BundleError
from mcr_infer.phantom.demo import write_demo

ROOT = Path(__file__).parents[1]

NAMES = {
    b"M\xfcller.dcm": "M\\xfcller.dcm",
    b"clear\x1b[2J\x1b]0;title\x07.dcm": "clear\\x1b[2J\\x1b]0;title\\x07.dcm",
    b"two\nlines\tand a tab.dcm": "two\\nlines\\tand a tab.dcm",
    "\u202egnp.exe\u2066.dcm".encode(): "\\u202egnp.exe\\u2066.dcm",
    b"c1 \x9b31m.dcm": "c1 \\x9b31m.dcm",
    "röntgen 日本.dcm".encode(): "röntgen 日本.dcm",
}
"""Bytes of names, and how they are shown."""

BROKEN = b"broken\n\x1b[31m\xff.dcm"
BROKEN_SHOWN = "broken\\n\\x1b[31m\\xff.dcm"
FOLDER = b"archive \xff\r"
FOLDER_SHOWN = "archive \\xff\\r"

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms under odd names in an odd folder, and an index of them in another one."""
    place = tmp_path_factory.mktemp("names")
    folder = Path(os.fsdecode(os.fsencode(place) + b"/" + FOLDER))
    for _ in write_demo(folder, count=len(NAMES), seed=3, size=128):
        pass
    for path, name in zip(sorted(folder.glob("*.dcm")), NAMES, strict=True):
        path.rename(folder / os.fsdecode(name))
    (folder / os.fsdecode(BROKEN)).write_bytes(b"no image")
    return place


def command(place: Path, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "mcr_infer", *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(words, capture_output=True, check=False, cwd=place, env=variables, timeout=300)


def embedded(place: Path, index: bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    few = ("--workers", "1", "--calls", "1", "--batch-size", "4")
    return command(place, "embed-images", FOLDER, "--index", index, *few, **environment)


@pytest.fixture(scope="module")
def index(place: Path) -> bytes:
    done = embedded(place, b"index \xfe")
    assert done.returncode == 3, done.stderr
    assert f"failed  {FOLDER_SHOWN}/{BROKEN_SHOWN}: the file is not a DICOM file".encode() in done.stdout
    assert b"report in index \\xfe" in done.stdout
    check_lines(done)
    return b"index \xfe"


def check_lines(done: subprocess.CompletedProcess[bytes]) -> None:
    """Nothing of a name reaches the output but visible characters."""
    for stream in (done.stdout, done.stderr):
        assert all(line.isprintable() for line in stream.decode().split("\n"))


def test_a_table_shows_names_escaped(place: Path, index: bytes) -> None:
    done = command(place, "query", "left pleural effusion", "--index", index)
    assert done.returncode == 0
    check_lines(done)
    lines = done.stdout.decode().splitlines()
    start = lines[0].index("path")
    assert sorted(line[start:] for line in lines[1:]) == sorted(f"{FOLDER_SHOWN}/{one}" for one in NAMES.values())


def test_json_keeps_names_exactly(place: Path, index: bytes) -> None:
    done = command(place, "query", "left pleural effusion", "--index", index, "--json")
    assert done.stdout.isascii()
    assert {os.fsencode(hit["path"]) for hit in map(json.loads, done.stdout.splitlines())} == {
        FOLDER + b"/" + name for name in NAMES
    }
    (summary,) = json_lines(command(place, "embed-images", FOLDER, "--index", index, "--json").stdout.decode())
    assert (summary["embedded"], summary["unchanged"], summary["failed"]) == (0, len(NAMES), 1)
    assert os.fsencode(summary["failures"][0]["path"]) == FOLDER + b"/" + BROKEN


def test_a_terminal_gets_names_escaped(place: Path, index: bytes) -> None:
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"}
    words = [sys.executable, "-m", "mcr_infer", "embed-images", FOLDER, "--index", index]
    with subprocess.Popen(words, stdout=slave, stderr=slave, stdin=slave, cwd=place, env=environment) as process:
        os.close(slave)
        seen = b""
        while True:
            try:
                part = os.read(master, 1 << 16)
            except OSError:  # what Linux says at the end of a terminal
                break
            seen += part
            if not part:
                break
    os.close(master)
    assert process.returncode == 3
    assert BROKEN_SHOWN.encode() in seen
    assert BROKEN not in seen
    assert b"\x1b[31m" not in seen
    assert b"\xff" not in seen


@pytest.mark.parametrize(
    "arguments",
    [("info",), ("rebuild",), ("compact",), ("migrate",), ("verify",), ("export",), ("merge",)],
    ids=lambda arguments: arguments[0],
)
def test_an_index_path_that_is_not_utf8(arguments: tuple[str, ...], place: Path, index: bytes, tmp_path: Path) -> None:
    shutil.copytree(place / os.fsdecode(index), tmp_path / os.fsdecode(b"i\xff\n"))
    (name,) = arguments
    extra = {
        "verify": (b"i\xff\n",),
        "export": ("--index", b"i\xff\n", "--out", b"o\xff"),
        "merge": (b"i\xff\n", "--index", b"m\xff"),
    }.get(name, ("--index", b"i\xff\n"))
    done = command(tmp_path, name, *extra)
    assert done.returncode == 0, done.stderr
    check_lines(done)
    assert all(check.ok for check in audit(tmp_path / os.fsdecode(b"i\xff\n")))
    if name in ("export", "merge"):
        out = tmp_path / os.fsdecode(extra[-1])  # type: ignore[arg-type]
        if name == "export":
            invoke("import", out, "--index", tmp_path / "back")
            out = tmp_path / "back"
        with Index.open(out) as other:
            # The folder in which the index was made is its root.
            assert {
                os.fsencode(str(shown(row.path))) for id in other.ids("image") if (row := other.get("image", id))
            } == {os.fsencode(place) + b"/" + FOLDER + b"/" + name for name in NAMES}


def test_a_graph_beside_a_path_that_is_not_utf8(place: Path, index: bytes, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"g\xff")
    shutil.copytree(place / os.fsdecode(index), folder)
    with Index.open(folder, writable=True, exact_limit=2, notify=lambda _: None) as store:
        store.save_snapshots()
    with Index.open(folder, exact_limit=2, notify=pytest.fail) as store:
        assert store.graph("image").ef_search > 0


def test_an_ascii_locale_finds_the_same_files(place: Path, index: bytes) -> None:
    done = embedded(place, index, **ASCII)
    assert done.returncode == 3, done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert f"0 radiographs embedded, {len(NAMES)} unchanged, 1 failed".encode() in done.stdout
    asked = command(place, "query", "épanchement pleural effusion".encode(), "--index", index, **ASCII)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.isascii()
    assert b"r\\xc3\\xb6ntgen" in asked.stdout
    same = command(place, "query", "épanchement pleural effusion".encode(), "--index", index, "--json")
    other = command(place, "query", "épanchement pleural effusion".encode(), "--index", index, "--json", **ASCII)
    scores = [[json.loads(line)["score"] for line in done.stdout.splitlines()] for done in (same, other)]
    assert scores[0] == scores[1]


def test_what_an_ascii_locale_embeds_is_known_elsewhere(place: Path) -> None:
    assert embedded(place, b"made in ascii", **ASCII).returncode == 3
    again = embedded(place, b"made in ascii")
    assert f"0 radiographs embedded, {len(NAMES)} unchanged, 1 failed".encode() in again.stdout


@pytest.fixture(scope="module")
def latin1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A locale of 8 bits, which few machines have by now."""
    place = tmp_path_factory.mktemp("locale")
    name = "de_DE.ISO-8859-1"
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("no localedef with its sources here (Debian: locales)")
    subprocess.run(["localedef", "-f", "ISO-8859-1", "-i", "de_DE", str(place / name)], check=True, capture_output=True)
    return {"LOCPATH": str(place), "LC_ALL": name, "PYTHONUTF8": "0"}


def test_a_latin1_locale_finds_the_same_files(place: Path, index: bytes, latin1: dict[str, str]) -> None:
    done = embedded(place, index, **latin1)
    assert f"0 radiographs embedded, {len(NAMES)} unchanged, 1 failed".encode() in done.stdout
    scores = []
    for sentence, locale in (
        ("épanchement pleural effusion".encode("latin-1"), latin1),
        ("épanchement pleural effusion".encode(), latin1),
        ("épanchement pleural effusion".encode(), {}),
    ):
        asked = command(place, "query", sentence, "--index", index, "--json", **locale)
        assert asked.returncode == 0, asked.stderr
        scores.append([json.loads(line)["score"] for line in asked.stdout.splitlines()])
    assert scores[0] == scores[1] == scores[2]
    assert b"M\xfcller.dcm" in command(place, "query", "effusion", "--index", index, **latin1).stdout


@pytest.mark.parametrize("name", [b"plain.dcm", "röntgen.dcm".encode(), b"M\xfcller\n.dcm"])
def test_keys_of_paths_do_not_depend_on_the_locale(name: bytes, latin1: dict[str, str], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    secret.chmod(0o600)
    keys = set()
    for locale in ({}, ASCII, latin1):
        done = command(tmp_path, "pseudonym", "--site-secret", "secret", "--path", name, **locale)
        assert done.returncode == 0, done.stderr
        keys.add(done.stdout)
    assert len(keys) == 1


def test_a_latin1_terminal_gets_what_it_can_show(place: Path, index: bytes) -> None:
    done = command(place, "query", "effusion", "--index", index, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0
    shown = done.stdout.decode("latin-1")
    assert "röntgen \\u65e5\\u672c.dcm" in shown
    assert all(line.isprintable() for line in shown.split("\n"))


@pytest.mark.parametrize("environment", [{}, ASCII], ids=["UTF-8", "ASCII"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("query", b"\xff effusion"), "the query is not valid Unicode"),
        (("query", "effusion", "--not", b"\xff"), "the query is not valid Unicode"),
        (("query", "--like", b"1.2.\xff"), "has no image with the id '1.2.\\udcff'"),
        (("query", "--image", b"\xff\n.dcm"), "\\xff\\n.dcm does not exist"),
        (("query", "--queries-from", b"\xff"), "\\xff cannot be read as text: No such file"),
        (("query", "effusion", "--where", b"view=\xff"), None),
        (("export", "--out", b"\xff", "--where", b"view=\xff"), "nothing of index index \\xfe is to be exported"),
        (("rebuild", "--target-recall", "0.9", "--bundle", b"\xff"), None),
    ],
    ids=["sentence", "unwanted", "id", "image", "queries", "filter", "export", "bundle"],
)
def test_an_argument_that_is_not_utf8_costs_one_line(
    arguments: tuple[str | bytes, ...], message: str | None, environment: dict[str, str], place: Path, index: bytes
) -> None:
    done = command(place, *arguments, "--index", index, **environment)
    errors = [line for line in done.stderr.decode().splitlines() if not line.startswith("note: ")]
    assert "Traceback" not in done.stderr.decode()
    assert done.returncode == (0 if message is None else 1)
    assert len(errors) == (0 if message is None else 1)
    assert message is None or message in errors[0]


@pytest.mark.parametrize(
    "arguments",
    [
        (b"\x1b[31m\xff",),
        (b"--\x1b[31m",),
        ("info", b"\x1b]0;x\x07"),
        ("query", "-k", b"\x1b[31m"),
        ("query", "x", "--kind", b"\xff\x9b"),
    ],
    ids=["command", "option", "extra", "number", "choice"],
)
def test_wrong_usage_quotes_arguments_escaped(arguments: tuple[str | bytes, ...], tmp_path: Path) -> None:
    done = command(tmp_path, *arguments)
    assert done.returncode == 2
    check_lines(done)


@pytest.mark.parametrize(
    "line", [b"\xff", b'{"query": "\\ud800"}', b'{"like": "\\udcff"}', b'{"query": "a", "not": ["\\ud83d"]}']
)
def test_queries_that_are_not_unicode_are_refused(line: bytes, place: Path, index: bytes) -> None:
    words = [sys.executable, "-m", "mcr_infer", "query", "--queries-from", "-", "--index", index]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, input=line + b"\n", capture_output=True, check=False, cwd=place, env=environment)
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"error: ")


def test_a_bundle_path_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bundle \xff")
    folder.symlink_to(Bundle.open().path)
    with pytest.raises(BundleError, match="lies in a folder whose name is not UTF-8"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("path", "stored"),
    [
        ("archive/é.dcm", "archive/é.dcm"),
        (b"archive/M\xfcller.dcm".decode("utf-8", "surrogateescape"), b"archive/M\xfcller.dcm"),
        (b"\xff\xc3\xa9".decode("utf-8", "surrogateescape"), b"\xff\xc3\xa9"),
        (None, None),
    ],
)
def test_a_path_is_stored_as_its_bytes(path: str | None, stored: str | bytes | None) -> None:
    assert stored_path(path) == stored
    assert loaded_path(stored) == path


def test_a_path_that_is_no_name_is_refused() -> None:
    from test_index_store import row

    with pytest.raises(EmbeddingIndexError, match="is not valid Unicode"):
        row(1, path="half \ud800.dcm")
