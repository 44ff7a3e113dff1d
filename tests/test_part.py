"""What a benchmark says survives JSON, and is legible as text."""

import json
from dataclasses import replace

import pytest

from benchmarks.part import Column, Figure, Measure, Part, Plot, Series, Table
from benchmarks.part_command import cell_text, lines, number

PART = Part(
    name="latency",
    title="Answers",
    question="How long?",
    command="python -m benchmarks.latency",
    tables=(
        Table(
            title="Three scenarios",
            columns=(Column(name="service"), Column(name="p50", unit="ms", better="lower"), Column(name="rows")),
            rows=(("text", Measure(value=1.234, low=1.1, high=1.4), 10_000), ("image", "not here", None)),
            note="Medians.",
        ),
    ),
    plots=(
        Plot(
            title="p99", kind="line", x=Column(name="requests", unit="1/s"), y=Column(name="p99", unit="ms"),
            series=(Series(name="text", points=((1.0, 2.0, None, None), (2.0, 3.0, 2.5, 3.5))),), log_x=True,
        ),
    ),
    figures={"latency.text.p50": Figure(measure=Measure(value=1.234, low=1.1, high=1.4), unit="ms", better="lower")},
    notes=("One core.",),
    flags=("noisy machine",),
    seconds=3.5,
)  # fmt: skip


def test_a_part_survives_json():
    assert Part.from_dict(json.loads(json.dumps(PART.to_dict()))) == PART


def test_a_part_that_is_none_is_refused():
    values = PART.to_dict()
    with pytest.raises(KeyError):
        Part.from_dict({name: value for name, value in values.items() if name != "tables"})
    with pytest.raises(TypeError):
        Part.from_dict(values | {"surprise": 1})


def test_a_table_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match=r"table 'Three scenarios' has 3 columns and rows of \[2\] cells"):
        replace(PART.tables[0], rows=(("text", 1.0),))


def test_a_part_as_text():
    assert lines(PART) == [
        "How long?",
        "",
        "Three scenarios",
        "service  p50, ms            rows",
        "text     1.23 [1.10, 1.40]  10,000",
        "image    not here",
        "One core.",
        "FLAG noisy machine",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.001234, "0.00123"),
        (1.0, "1.00"),
        (12.345, "12.3"),
        (123.45, "123"),
        (12345.6, "12,346"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str):
    assert number(value) == text
    assert cell_text(value) == text
