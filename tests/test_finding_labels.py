import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcr_infer.errors import ConfigError
from mcr_infer.evaluation.finding_labels import (
    KINDS,
    finding_labels_match,
    finding_set_key,
    query_labels,
    read_label_column,
    split_findings,
)
from mcr_infer.phantom import findings as phantom_findings

SETS = [
    ("Atelectasis", "Effusion"), ("No Finding",), ("Effusion",), ("Pleural_Thickening", "Effusion", "Infiltration"),
    ("Zebra sign", "Effusion"), ("Zebra sign",), ("Cardiomegaly",),
]  # fmt: skip


def read(*cells: str, separator: str | None = None) -> list[tuple[str, ...] | None]:
    """Labels of each cell, numbered as rows of a file whose header is row 1; None for a blank one."""
    first: dict[str, int] = {}
    for row, cell in enumerate(cells, start=2):
        first.setdefault(cell, row)
    labels = read_label_column(first, where="t.csv", separator=separator)
    return [labels.get(cell) for cell in cells]


@pytest.mark.parametrize(
    "write",
    [
        ";".join, " ; ".join, "|".join, ", ".join, ",".join, "\n".join, json.dumps, lambda labels: str(list(labels)),
        lambda labels: ";".join(labels).upper() + ";", lambda labels: "  " + "|".join(labels * 2),
    ],
    ids=["semicolon", "spaced", "bar", "comma_space", "comma", "line", "json", "python", "trailing", "twice"],
)  # fmt: skip
def test_joined_labels_are_counted_alike(write):
    assert read(*map(write, SETS)) == [
        ("atelectasis", "effusion"), (), ("effusion",), ("effusion", "infiltration", "pleural thickening"),
        ("effusion", "zebra sign"), ("zebra sign",), ("cardiomegaly",),
    ]  # fmt: skip


@given(
    sets=st.lists(st.sets(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4), min_size=1, max_size=8),
    separator=st.sampled_from([";", "|", ",", ", ", "\n", " | "]),
    side=st.sampled_from(["", "left ", "Bilateral ", "RIGHT-SIDED "]),
)
def test_any_sets_of_known_kinds_are_read(sets: list[set[str]], separator: str, side: str):
    plain = side.lower().replace("-sided", "")
    read_sets = read(*(separator.join(side + kind for kind in sorted(kinds)) for kinds in sets))
    assert read_sets == [tuple(sorted(plain + kind for kind in kinds)) for kinds in sets]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (("edema;mass", "edema|mass"), r"row 2 holds ';' and row 3 '\|': say which separates labels"),
        (("edema;mass", "", "edema, mass"), "row 4 holds 'edema, mass', one label or several joined by ','"),
        (("edema", "zebra sign, tiger sign"), "row 3 holds 'zebra sign, tiger sign', one label or several"),
        (("edema, mass", "effusion, left"), "row 2 holds 'edema, mass', one label or several"),
        (("edema/mass",), "row 2 holds 'edema/mass', one label or several joined by '/'"),
        (("zebra + mass", "zebra"), r"one label or several joined by '\+'"),
        (("edema|mass and effusion",), "one label or several joined by ' and '"),
        (("edema, mass:nodule",), "row 2 holds 'edema, mass:nodule', one label"),
        (("['edema' 'mass']",), "row 2 holds .* no list of quoted labels"),
        (("[edema, mass]",), "no list of quoted labels"),
        (("['edema', 1]",), "no list of quoted labels"),
        (('["edema; mass"]',), "the label 'edema; mass' in row 2 holds a ';'"),
    ],
)
def test_unclear_separators_are_refused(cells: tuple[str, ...], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        read(*cells)
    if "say" in str(caught.value):
        assert "--label-separator (data.radiographs.label_separator" in str(caught.value)


def test_separator_that_is_named_is_taken():
    assert read("zebra sign, tiger sign", separator=",") == [("tiger sign", "zebra sign")]
    assert read("zebra sign, tiger sign", separator=";") == [("zebra sign, tiger sign",)]
    assert read("edema/mass", "edema", separator="/") == [("edema", "mass"), ("edema",)]


def test_comma_inside_a_label_stays():
    assert read("Pleural effusion, left", "Edema") == [("left pleural effusion",), ("edema",)]
    assert read("Pleural effusion, left;Edema", "ribs, old;Edema") == [
        ("edema", "left pleural effusion"), ("edema", "ribs, old"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "label",
    ["-1", "1.0", "0", "U", "?", "nan", "None", "positive", "effusion?", "effusion (-1)", "effusion (U)", "effusion: 1",
     "edema=0", "no effusion", "without edema", "possible pneumonia", "r/o mass", "effusion absent"],
)  # fmt: skip
def test_label_that_states_nothing_is_refused(label: str):
    with pytest.raises(ConfigError, match=r"row 3 holds .*(names no finding|uncertain or absent|one label or several)"):
        read("edema", label)


def test_free_text_is_no_column_of_labels():
    for text in ("The heart is normal. No effusion.", "It is shifted to the right.", "x" * 120):
        with pytest.raises(ConfigError, match=r"row 2 holds a text, not labels: .*--findings-column") as caught:
            read(text)
        assert text not in str(caught.value)


def test_blank_cells_have_no_labels():
    assert read("", "  ", "edema") == [None, None, ("edema",)]
    assert read() == []


@pytest.mark.parametrize("label", ["No Finding", "no findings", "NORMAL", "No_Finding", "Normal."])
def test_no_finding_is_no_class(label: str):
    assert split_findings(label) == []
    assert split_findings(f"{label};Pacemaker") == ["pacemaker"]
    assert finding_set_key(label) == ""
    assert query_labels([label, "edema"]) == ["edema"]
    assert finding_labels_match(label, "")
    assert not finding_labels_match(label, "edema")


@pytest.mark.parametrize(
    "spelling",
    ["left pleural effusion", "Left-sided pleural effusion", "LEFT SIDED  Pleural_Effusion", "pleural effusion, left",
     "pleural effusion (left)", "Pleural effusions left."],
)  # fmt: skip
def test_spellings_of_a_sided_kind_are_one(spelling: str):
    assert split_findings(spelling) == ["left pleural effusion"]
    assert query_labels([spelling]) == ["left pleural effusion", "pleural effusion"]


@pytest.mark.parametrize(
    "label", ["left ventricular enlargement", "trachea shifted to the right", "right-sided aortic arch", "bilateral"]
)
def test_side_stays_with_an_unknown_kind(label: str):
    assert query_labels([label]) == [label]
    assert finding_set_key(label) == label


def test_side_and_lobe_of_each_phantom_kind_are_cut():
    assert set(phantom_findings.KINDS) <= KINDS
    for kind in phantom_findings.KINDS:
        assert query_labels([f"right upper lobe {kind}"]) == sorted([kind, f"right {kind}"])


@pytest.mark.parametrize(
    ("query", "findings", "answered"),
    [
        ("pleural effusion", "left pleural effusion;cardiomegaly", True),
        ("left pleural effusion", "left pleural effusion;cardiomegaly", True),
        ("right pleural effusion", "left pleural effusion;cardiomegaly", False),
        ("left pleural effusion", "bilateral pleural effusion", True),
        ("right pleural effusion", "bilateral pleural effusion", True),
        ("bilateral pleural effusion", "left pleural effusion", False),
        ("bilateral pleural effusion", "bilateral pleural effusion", True),
        ("right consolidation", "right upper lobe consolidation", True),
        ("right upper lobe consolidation", "right lower lobe consolidation", False),
        ("left consolidation", "right upper lobe consolidation;left pneumothorax", False),
        ("cardiomegaly;pulmonary edema", "cardiomegaly;left pneumothorax;pulmonary edema", True),
        ("cardiomegaly;pulmonary edema", "cardiomegaly", False),
        ("Left  Pneumothorax", "left pneumothorax", True),
        ("", "", True),
        ("", "pacemaker", False),
        ("pneumothorax", "", False),
    ],
)
def test_which_findings_answer_which_query(query: str, findings: str, answered: bool):
    assert finding_labels_match(query, findings) is answered


def test_a_finding_set_is_named_by_kind_and_side():
    assert finding_set_key("Right upper lobe consolidation; cardiomegaly") == "cardiomegaly;right consolidation"
    assert finding_set_key("right lower lobe consolidation;right upper lobe consolidation") == "right consolidation"
    assert finding_set_key("") == ""


def test_query_labels_are_kinds_and_sided_kinds():
    assert query_labels(["left upper lobe lung nodule;cardiomegaly", "", "bilateral pleural effusion"]) == [
        "bilateral pleural effusion", "cardiomegaly", "left lung nodule", "lung nodule", "pleural effusion",
    ]  # fmt: skip
