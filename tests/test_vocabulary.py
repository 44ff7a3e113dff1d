"""Words that a text tower knows, by the list of its training text and by how its tokenizer spells them."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from export import to_onnx, words
from export.folder import write_words
from mcr_infer import Bundle, TextEncoder, phantom
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import CHECKSUMS, MANIFEST, WORDS
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from mcr_infer.inference.verify import verify
from mcr_infer.inference.vocabulary import Reading, Vocabulary, training_words
from mcr_infer.phantom import language, lung_phrases, normal_phrases, phrases
from mcr_infer.reports import embed_text
from tiny import SENTENCES, tiny_bundle
from train.data.phantoms import Undrawn, phantom_texts

Made = Callable[[str], tuple[Path, Bundle]]


@pytest.fixture(scope="module")
def shipped() -> Vocabulary:
    return Bundle.open().vocabulary()


@pytest.fixture(scope="module")
def tokenizer() -> ReportTokenizer:
    return Bundle.open().tokenizer()


@pytest.fixture
def listed(tmp_path: Path) -> Bundle:
    """The tiny bundle with the words of its sentences."""
    bundle = tiny_bundle(tmp_path / "listed")
    write_words(bundle.path, training_words(SENTENCES, bundle.tokenizer(), least=1))
    return Bundle.open(bundle.path)


# ---- By the list of the training text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "banana split", "xqzvw", "Kubernetes deployment", "zygote qwerty",  # spelled in pieces that it has
        "肺炎", "зараз пневмоторакс", "ενδοτραχειακός", "🫁", "🫁🫀",  # for which it has no tokens
    ],
)  # fmt: skip
def test_text_without_known_words_is_told(shipped: Vocabulary, text: str):
    (reading,) = shipped.read([text])
    assert (reading.known, reading.unread) == (0, "all")
    assert reading.unknown


@pytest.mark.parametrize("text", ["", "  ", "12", "3.5 / 8-10", "...", "a", "x y z", "1) 2)"])
def test_numbers_signs_and_single_letters_are_no_words(shipped: Vocabulary, text: str):
    assert shipped.read([text]) == [Reading(known=0, unknown=())]


@pytest.mark.parametrize(
    ("text", "known", "unknown"),
    [
        ("left pleural effusion and banana split", 4, ("banana", "split")),
        ("Épanchement pleural gauche", 1, ("Épanchement", "gauche")),
        ("Pneumothorax links, Erguss rechts", 1, ("links", "Erguss", "rechts")),
        ("🫁 pneumothorax", 1, ("🫁",)),
        ("肺炎 pneumothorax", 1, ("肺", "炎")),
        ("banana, effusion, banana", 1, ("banana", "banana")),
    ],
)
def test_unknown_words_are_named_as_written(shipped: Vocabulary, text: str, known: int, unknown: tuple[str, ...]):
    assert shipped.read([text]) == [Reading(known=known, unknown=unknown)]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("LEFT-SIDED EFFUSION", 3),
        ("a 12mm nodule, 1.2cm", 3),
        ("consolidations; nodule's", 2),
        ("pne\u0301umothorax EFFU\u0308SION", 2),  # accents go, composed or not
        ("\ufeffeffusion\x00", 1),
        ("There is [MASK] effusion", 3),  # the letters of a special token, not the token
    ],
)
def test_other_forms_of_known_words_are_known(shipped: Vocabulary, text: str, known: int):
    (reading,) = shipped.read([text])
    assert (reading.known, [word for word in reading.unknown if word != "MASK"]) == (known, [])


@pytest.mark.parametrize("text", ["bananas", "lungworms", "pneumothoracic", "mm12xq"])
def test_an_ending_makes_no_word_of_fragments(shipped: Vocabulary, text: str):
    assert shipped.read([text])[0].unread == "all"


def test_phantoms_speak_known_words_alone(shipped: Vocabulary):
    texts = [embed_text(phantom.make(seed, 16).report.text) for seed in range(700, 760)]
    drawn = (phantom.draw_study(seed)[0] for seed in range(700, 760))
    texts += [language.describe(findings, np.random.default_rng(0)) for findings in drawn]
    assert [reading.unknown for reading in shipped.read(texts) if reading.unknown] == []


def test_the_shipped_list_is_the_phrase_tables(shipped: Vocabulary):
    tables = {
        word.lower()
        for module in (language, lung_phrases, normal_phrases, phrases)
        for name, value in vars(module).items()
        if not name.startswith("__")
        for text in _texts(value)
        for word in re.findall("[A-Za-z]{2,}", re.sub(r"\{\w+\}", " ", text))
    }
    # Half a word to be replaced, a name of a region, and what slots and spellings make.
    assert tables - shipped.words == {"cephalis", "devices"}
    assert shipped.words - tables == {
        "ap", "but", "cephalisation", "cephalised", "cm", "lll", "lul", "mm", "pa", "rll", "rul",
    }  # fmt: skip


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(tuple(value.values()))
    elif isinstance(value, tuple | list | set | frozenset):
        for each in value:
            yield from _texts(each)


def test_the_list_repeats_and_grows_with_texts(shipped: Vocabulary, tokenizer: ReportTokenizer):
    def some(count: int) -> list[str]:
        store = Undrawn(1_000_000, 36_000)
        texts = phantom_texts(store, (0.25, 0.0, 0.4, 0.35), count, np.random.default_rng([0, 0]))
        return training_words(texts, tokenizer, least=1)

    few = some(300)
    assert few == some(300) == sorted(set(few))
    assert set(few) < set(some(600)) < shipped.words


def test_undrawn_phantoms_say_what_drawn_ones_do():
    made, undrawn = phantom.make(1_000_003, 16), Undrawn(1_000_000, 5)[3]
    assert (undrawn.findings, undrawn.view) == (made.findings, made.view)


def test_rare_words_of_reports_are_not_listed(tokenizer: ReportTokenizer):
    texts = ["No effusion. Dr. Zwqxson.", "Small effusion, effusion.", "Zwqxson, Zwqxson, Zwqxson!", "effusion 肺"]
    assert training_words(texts, tokenizer, least=3) == ["effusion"]
    assert training_words(texts, tokenizer, least=2) == ["effusion", "zwqxson"]
    assert "肺" not in training_words(texts, tokenizer, least=1)  # the tower never saw it


def test_nearest_word_is_suggested_where_one_is_alike(shipped: Vocabulary):
    assert shipped.nearest("Pneumothoraces") == "pneumothorax"
    assert shipped.nearest("cardiomegalia") == "cardiomegaly"
    assert shipped.nearest("banana") is None


# ---- By the spelling alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["biomed_clip", "clip", "siglip"])
def test_a_foreign_bundle_recognizes_fragments(foreign_bundle: Made, kind: str):
    vocabulary = foreign_bundle(kind)[1].vocabulary()
    assert vocabulary.words is None
    assert "lists no training words" in vocabulary.rule
    for text in ("xqzvw", "qwkx zzyq", "зараз пневмоторакс", "肺炎", "🫁🫀"):
        assert vocabulary.read([text])[0].unread == "all", text
    (reading,) = vocabulary.read(["The left effusion; xqzvw 12 mm."])
    assert reading.known >= 3
    assert reading.unknown == ("xqzvw",)
    assert vocabulary.nearest("efusion") is None


@pytest.mark.parametrize(
    ("word", "known"), [("ab", True), ("abcd", True), ("abcdef", False), ("abcdefg", False), ("abcxyz", True)]
)
def test_three_short_pieces_make_a_fragment(word: str, known: bool):
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = ["[PAD]", "[UNK]", "ab", "##cd", "##ef", "##g", "##cxyz"]
    made = Tokenizer(models.WordPiece({piece: id for id, piece in enumerate(pieces)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    (reading,) = Vocabulary(ReportTokenizer(made, 16), None).read([word])
    assert (reading.known == 1) is known


def test_a_tokenizer_without_words_is_parted_at_blanks():
    from tokenizers import Tokenizer, models, normalizers

    pieces = ["<pad>", "<unk>", "▁left", "▁effusion", "▁", "x", "q", "z"]
    made = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], 1, False))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    from mcr_infer.inference.tokenizer import Padding

    tokenizer = ReportTokenizer(made, 16, padding=Padding(token_id=0, seen="none"))
    (reading,) = Vocabulary(tokenizer, None).read(["left effusion xqz 肺"])
    assert (reading.known, reading.unknown) == (2, ("xqz", "肺"))


# ---- In the bundle -----------------------------------------------------------------------------------------------------


def test_a_list_changes_no_fingerprint_and_is_verified(listed: Bundle, tmp_path: Path):
    plain = tiny_bundle(tmp_path / "plain")
    assert plain.words_file is None
    assert plain.vocabulary().words is None
    assert listed.fingerprint == plain.fingerprint
    assert listed.words_file == WORDS
    assert {"pleural", "pneumothorax"} <= listed.vocabulary().words
    checks = {check.name: check for check in verify(listed)}
    assert all(check.ok for check in checks.values())
    assert checks["training words"].detail == f"{len(listed.vocabulary().words)} words"
    path = listed.path / WORDS
    path.write_bytes(path.read_bytes().replace(b"pleural", b"pleuraI"))
    with pytest.raises(BundleError, match=r"words\.txt is damaged or was changed"):
        listed.vocabulary()
    assert [check.name for check in verify(listed) if not check.ok] == [f"file {WORDS}"]


def test_a_manifest_must_name_a_list_that_is_there(listed: Bundle):
    path = listed.path / MANIFEST
    values = json.loads(path.read_text())
    for wrong in ("other.txt", 7, None):
        path.write_text(json.dumps({**values, "text": {**values["text"], "words": wrong}}))
        with pytest.raises(BundleError, match=r"text\.words must be a name among files"):
            Bundle.open(listed.path)


def test_a_list_in_another_encoding_is_an_error(listed: Bundle):
    content = "épanchement\n".encode("latin-1")
    (listed.path / WORDS).write_bytes(content)
    path = listed.path / MANIFEST
    values = json.loads(path.read_text())
    values["files"][WORDS] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"words\.txt is not UTF-8"):
        Bundle.open(listed.path).vocabulary()


def test_an_encoder_brings_its_vocabulary(listed: Bundle):
    encoder = TextEncoder(listed, device="cpu")
    assert encoder.vocabulary is encoder.vocabulary
    assert encoder.vocabulary.read(["pleural banana"]) == [Reading(known=1, unknown=("banana",))]


# ---- From training and export ------------------------------------------------------------------------------------------


def test_words_are_added_to_a_bundle_of_phantoms(tmp_path: Path):
    folder = tmp_path / "phantom"
    shutil.copytree(Bundle.open().path, folder)
    shipped = Bundle.open()
    # As the release before left it.
    values = json.loads((folder / MANIFEST).read_text())
    del values["text"]["words"], values["files"][WORDS]
    (folder / MANIFEST).write_text(json.dumps(values))
    (folder / WORDS).unlink()
    assert Bundle.open(folder).vocabulary().words is None
    made = words.add_words(folder, phantom_count=2_000)
    assert made.fingerprint == shipped.fingerprint
    assert 500 < len(made.vocabulary().words) <= len(shipped.vocabulary().words)
    assert made.vocabulary().words <= shipped.vocabulary().words
    assert [check.name for check in verify(made) if not check.ok] == []
    assert WORDS in (folder / CHECKSUMS).read_text()


def test_words_are_added_from_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = tiny_bundle(tmp_path / "tiny")
    table = tmp_path / "reports.csv"
    rows = [f'{row},"FINDINGS: Pleural effusion. {"Zwqx." if row < 4 else ""}"\n' for row in range(6)]
    table.write_text("id,report\n" + "".join(rows) + "7,\n")
    assert words.main([str(bundle.path), "--reports", str(table)]) == 0
    told = capsys.readouterr()
    assert "lists 2 words" in told.out
    assert "left out: row 8" in told.err
    assert Bundle.open(bundle.path).vocabulary().words == {"pleural", "effusion"}
    assert Bundle.open(bundle.path).fingerprint == bundle.fingerprint


def test_what_cannot_be_listed_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bundle = tiny_bundle(tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in bundle.path.iterdir()}
    table = tmp_path / "reports.csv"
    table.write_text("id,report\n1,Pleural effusion.\n")
    assert words.main([str(bundle.path)]) == 1
    assert "was not trained on phantoms: name its training text with --reports" in capsys.readouterr().err
    assert words.main([str(bundle.path), "--reports", str(table)]) == 1
    assert "no word stands in at least 5 of the texts" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in bundle.path.iterdir()} == before


def test_export_says_whether_words_are_listed(listed: Bundle, tmp_path: Path):
    assert to_onnx.words_line(listed) == f"words: {len(listed.vocabulary().words)} of the training text"
    assert "python -m export.words" in to_onnx.words_line(tiny_bundle(tmp_path / "plain"))


def test_normalization_is_that_of_the_tokenizer(tmp_path: Path):
    from mcr_infer.inference.tokenizer import SPECIAL_TOKENS

    assert Bundle.open().tokenizer().normalized("ÉPANCHEMENT") == "epanchement"
    made = train_tokenizer(SENTENCES, 120)
    assert ReportTokenizer(made, 24).unknown_ids == {SPECIAL_TOKENS.index("[UNK]")}
