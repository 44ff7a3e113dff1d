import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from export.folder import new_bundle
from mcr_infer.cli.app import app
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import CHECKSUMS, GOLDEN, MANIFEST, Bundle
from mcr_infer.inference.verify import verify
from tiny import DIM, MAX_TOKENS, PREPROCESS, tiny_bundle

FILES = ("golden.npz", "image.onnx", "text.onnx", "tokenizer.json")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return tiny_bundle(tmp_path / "tiny", notice="knows nothing")


def edit(bundle: Bundle, **changes: object) -> None:
    """Change top-level keys of the manifest; None removes one."""
    path = bundle.path / MANIFEST
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def flip(path: Path, place: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_bundle_says_what_it_is(bundle: Bundle):
    assert (bundle.name, bundle.created, bundle.notice, bundle.precision) == (
        "tiny",
        "2026-11-23",
        "knows nothing",
        "fp32",
    )
    assert (bundle.embedding_dim, bundle.max_tokens, bundle.preprocess) == (DIM, MAX_TOKENS, PREPROCESS)
    assert (bundle.shipped, bundle.tower_files["image"], bundle.tokenizer_file) == (
        False,
        "image.onnx",
        "tokenizer.json",
    )
    assert sorted(bundle.files) == list(FILES)
    assert bundle.golden()["image.embedding"].shape == (2, DIM)
    assert bundle.verified("text.onnx") == bundle.path / "text.onnx"


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_caught_and_named(bundle: Bundle, name: str):
    flip(bundle.path / name)
    with pytest.raises(BundleError, match=f"{name} is damaged or was changed"):
        bundle.verified(name)
    failed = [check for check in verify(bundle) if not check.ok]
    assert [check.name for check in failed] == [f"file {name}"]


def test_a_cut_missing_or_strange_file_is_named(bundle: Bundle):
    path = bundle.path / "text.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"text\.onnx is damaged or was changed: its \d+ bytes"):
        bundle.verified("text.onnx")
    path.unlink()
    with pytest.raises(BundleError, match=r"text\.onnx cannot be read: No such file"):
        bundle.verified("text.onnx")
    os.mkfifo(path)
    with pytest.raises(BundleError, match=r"text\.onnx is not a regular file"):
        bundle.verified("text.onnx")
    with pytest.raises(BundleError, match=r"passwd is not among the files"):
        bundle.verified("../passwd")


def test_files_that_no_manifest_names_are_no_matter(bundle: Bundle):
    (bundle.path / "NOTES.txt").write_text("mine")
    assert all(check.ok for check in verify(Bundle.open(bundle.path)))


def test_verify_runs_every_check(bundle: Bundle):
    checks = {check.name: check for check in verify(bundle)}
    assert all(check.ok for check in checks.values()), checks
    assert list(checks) == [
        *(f"file {name}" for name in FILES), CHECKSUMS, "fingerprint", "golden preprocessing", "golden tokens",
        "training words", "golden image", "batch invariance image", "golden text", "batch invariance text",
    ]  # fmt: skip
    assert "max abs difference 0.0e+00" in checks["golden image"].detail


def test_verify_sees_a_tower_that_computes_something_else(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    arrays = dict(bundle.golden())
    arrays["text.weights"] = arrays["text.weights"] + np.float32(0.001)
    arrays["image.patches"] = arrays["image.patches"] + np.float32(0.01)
    np.savez(bundle.path / GOLDEN, **arrays)
    record = bundle.files[GOLDEN]
    values = json.loads((bundle.path / MANIFEST).read_text())
    digest = subprocess.run(["sha256sum", bundle.path / GOLDEN], capture_output=True, text=True, check=True).stdout[:64]
    values["files"][GOLDEN] = {"sha256": digest, "bytes": record.bytes}
    (bundle.path / MANIFEST).write_text(json.dumps(values))
    listed = [path for path in sorted(bundle.path.iterdir()) if path.name != CHECKSUMS]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in listed]
    (bundle.path / CHECKSUMS).write_text("".join(lines))
    failed = {check.name for check in verify(Bundle.open(bundle.path)) if not check.ok}
    assert failed == {"golden preprocessing", "golden image", "golden text"}


def test_checksums_cover_the_manifest_and_sha256sum_reads_them(bundle: Bundle):
    subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=bundle.path, check=True)
    edit(bundle, name="other")
    failed = [check for check in verify(Bundle.open(bundle.path)) if not check.ok]
    assert [check.name for check in failed] == [CHECKSUMS]
    assert MANIFEST in failed[0].detail


def test_without_checksums_nothing_vouches_for_the_manifest(bundle: Bundle):
    (bundle.path / CHECKSUMS).unlink()
    failed = [check for check in verify(bundle) if not check.ok]
    assert [check.name for check in failed] == [CHECKSUMS]
    assert "cannot be read (No such file or directory): nothing confirms manifest.json" in failed[0].detail


def test_a_flipped_bit_anywhere_in_the_folder_ends_verify_with_1_and_the_name_of_the_file(bundle: Bundle):
    for name in (*FILES, MANIFEST, CHECKSUMS):
        path = bundle.path / name
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            for bit in (1, 0x20):
                changed = bytearray(content)
                changed[place] ^= bit
                path.write_bytes(changed)
                arguments = ["verify", str(bundle.path), "--json"]
                done = CliRunner().invoke(app, arguments)
                told = json.loads(done.stdout)
                assert (done.exit_code, told["ok"]) == (1, False), (name, place, bit)
                failed = [check for check in told["checks"] if not check["ok"]]
                assert any(name in f"{check['name']} {check['detail']}" for check in failed), (name, place, bit)
        path.write_bytes(content)
    assert json.loads(CliRunner().invoke(app, ["verify", str(bundle.path), "--json"]).stdout)["ok"]


def test_what_is_no_bundle_is_refused(tmp_path: Path):
    with pytest.raises(BundleError, match="it is not a folder"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"it has no manifest\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version is 2, this release of mcr-infer reads 1; install a newer release"),
        ({"format_version": 0}, "export the bundle again"),
        ({"format_version": "1"}, "format_version must be 1, got '1'"),
        ({"format_version": True}, "format_version must be 1, got True"),
        ({"name": None}, "name must be one line of at most 500 printable characters, got nothing"),
        ({"name": "a\x1b[31m"}, "name must be one line"),
        ({"notice": "two\nlines"}, "notice must be one line"),
        ({"created": "yesterday"}, "created must be a day as YYYY-MM-DD, got 'yesterday'"),
        ({"embedding_dim": 0}, "embedding_dim must be a whole number"),
        ({"embedding_dim": 8.0}, "embedding_dim must be a whole number"),
        ({"embedding_dim": True}, "embedding_dim must be a whole number"),
        ({"fingerprint": "0" * 64}, "fingerprint must be that of the weights"),
        ({"weights_sha256": "A" * 64}, "weights_sha256 must be 64 hexadecimal digits"),
        ({"image": []}, r"image must be an object, got \[\]"),
        ({"image": {"input": "voxels"}}, "image.input must be one of patches, pixels, the image inputs"),
        (
            {"image": {"input": "pixels", "image_size": 16, "patch_size": 4, "file": "image.onnx"}},
            "image: a tower of whole pictures has one patch: patch_size must be 16, got 4",
        ),
        (
            {"image": {"input": "patches", "image_size": 16, "patch_size": 4, "fit": "zoom", "file": "image.onnx"}},
            "image: fit of the preprocessing must be one of .*, got 'zoom'",
        ),
        (
            {"text": {"max_tokens": 24, "padding": 0, "file": "text.onnx", "tokenizer": "tokenizer.json"}},
            r"text\.padding must be an object, got 0",
        ),
        (
            {
                "text": {
                    "max_tokens": 24,
                    "padding": {"token_id": 0, "seen": "some"},
                    "file": "text.onnx",
                    "tokenizer": "tokenizer.json",
                }
            },
            r"text\.padding must be a rule of filling up .padding needs a token_id from 0 on and seen as one of none",
        ),
        (
            {"image": {"input": "patches", "image_size": 16, "patch_size": 5, "file": "image.onnx"}},
            "image: image_size must be a positive multiple of patch_size",
        ),
        (
            {"image": {"input": "patches", "image_size": 16, "patch_size": 4, "gamma": 2, "file": "image.onnx"}},
            "image: preprocessing takes",
        ),
        (
            {"text": {"max_tokens": 24, "file": "text.onnx", "tokenizer": "x"}},
            "text.tokenizer must be a name among files",
        ),
        ({"files": {"../x": {"sha256": "0" * 64, "bytes": 1}}}, r"files\.\.\./x must be under a plain relative path"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "bytes": 1}}}, "must be under a plain relative path"),
        ({"files": {"a": {"sha256": "0" * 64, "bytes": -1}}}, r"files\.a\.bytes must be a whole number"),
        ({"files": {"a": {"sha256": 5, "bytes": 1}}}, r"files\.a\.sha256 must be 64 hexadecimal digits, got 5"),
        ({"files": {"a": {"sha256": "0" * 64, "bytes": 1}}}, r"files\.golden\.npz must be present, got nothing"),
    ],
)
def test_a_wrong_manifest_is_refused_by_field(bundle: Bundle, changes: dict[str, object], message: str):
    edit(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle.path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 10_000, b" " * (5 * 2**20)],
)
def test_hostile_json_is_an_error_of_ours(tmp_path: Path, content: bytes):
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_is_read_or_refused(bundle: Bundle, data: st.DataObject):
    path = bundle.path / MANIFEST
    good = path.read_text()
    values = json.loads(good)
    spot = values
    while True:
        key = data.draw(st.sampled_from(sorted(spot)))
        if not isinstance(spot[key], dict) or not spot[key] or data.draw(st.booleans()):
            break
        spot = spot[key]
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    spot[key] = data.draw(leaf | st.lists(leaf, max_size=2) | st.dictionaries(st.text(), leaf, max_size=2))
    path.write_text(json.dumps(values))
    try:
        with contextlib.suppress(BundleError):
            Bundle.open(bundle.path)
    finally:
        path.write_text(good)


def test_a_bundle_appears_whole_or_not_at_all(tmp_path: Path):
    out = tmp_path / "tiny"
    first = tiny_bundle(out)

    def stop_half_way() -> None:
        with new_bundle(out) as folder:
            (folder / "image.onnx").write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        stop_half_way()
    assert Bundle.open(out).fingerprint == first.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert tiny_bundle(out).files == first.files  # and one bundle replaces another, with the same bytes


def test_only_a_bundle_is_ever_replaced(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match="no bundle that can be replaced"), new_bundle(tmp_path):
        pass
    out = tmp_path / "tiny"
    tiny_bundle(out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"would be lost: notes\.txt"), new_bundle(out):
        pass
    assert (out / "notes.txt").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert tiny_bundle(tmp_path / "empty").name == "tiny"
