"""Parts and reports written by hand."""

from benchmarks.part import Column, Figure, Measure, Part, Plot, Series, Table
from benchmarks.report import Commit, Report, Subject

HOSTILE = """<script src="http://evil.example/a.js">alert('1')</script> & | `x` <!-- -->"""
"""A name that must come out as text."""


def one_part(name: str = "latency", *, value: float = 33.0, taken: str = "", flags: tuple[str, ...] = ()) -> Part:
    """A part with one of everything; texts that are shown are hostile."""
    return Part(
        name=name,
        title=f"Title of {name}",
        question=f"What about {HOSTILE}?",
        command=f"python -m benchmarks.{name}",
        tables=(
            Table(
                title=f"Table of {name}",
                columns=(
                    Column(name="way"),
                    Column(name="speed", unit="radiographs/s", better="higher"),
                    Column(name="p99", unit="ms", better="lower"),
                ),
                rows=(
                    ("plain", Measure(value=value, low=value - 1, high=value + 1), 12.345),
                    (HOSTILE, None, "no peer does this, in many words"),
                ),
                note=f"Note {HOSTILE}",
            ),
        ),
        plots=(
            Plot(
                title=f"Line of {name} {HOSTILE}",
                kind="line",
                x=Column(name="batch"),
                y=Column(name="speed", unit="radiographs/s"),
                log_x=True,
                log_y=True,
                series=(
                    Series(name="fp32", points=((1, 10.0, 9.0, 11.0), (8, 100.0, None, None), (16, 0.0, None, None))),
                    Series(name=HOSTILE, points=((1, 20.0, 19.0, 22.0), (8, 300.0, 290.0, 310.0))),
                ),
            ),
            Plot(
                title=f"Bars of {name}",
                kind="bar",
                x=Column(name="peer"),
                y=Column(name="time", unit="ms"),
                x_names=("mcr-infer", HOSTILE),
                series=(Series(name="warm", points=((0, 3.0, 2.5, 3.5), (1, 4.0, None, None))),),
            ),
        ),
        figures={
            f"{name}.text.p50": Figure(
                measure=Measure(value=value, low=value - 1, high=value + 1),
                unit="ms",
                better="lower",
                headline="a sentence",
            ),
            f"{name}.{HOSTILE}": Figure(measure=Measure(value=2.0), unit="×"),
        },
        notes=(f"Also {HOSTILE}",),
        flags=flags,
        seconds=1.5,
        taken=taken,
    )


def one_report(*parts: Part) -> Report:
    """A report of these parts."""
    return Report(
        made="2026-11-25 12:00 UTC",
        command="python -m benchmarks",
        quick=False,
        commit=Commit(digest="0123456789abcdef", changed=True),
        bundle=Subject(name="phantom", fingerprint="f" * 64),
        machine={
            "processor": "Some Processor",
            "instructions": ["avx2"],
            "cores": 2,
            "cores_of_machine": 4,
            "clock_mhz": 2600.0,
            "governor": "performance",
            "memory_gib": 23.5,
            "container": {"cores": 1.5, "memory_gib": 8.0},
            "gpus": [{"name": "Some GPU", "driver": "580.1", "memory": "81559 MiB"}],
            "threads": {},
            "load": 0.1,
            "load_after": 1.9,
            "system": "Linux 6",
            "python": "3.11.7",
            "packages": {"numpy": "2.4.6"},
        },
        parts=parts,
    )
