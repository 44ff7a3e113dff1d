"""What stands on top of a report, in words: when, what, on which machine."""

from collections.abc import Mapping
from typing import Any

from benchmarks.part_command import number
from benchmarks.report import Report


def card_rows(report: Report) -> list[tuple[str, str]]:
    """Return name and text of each line of the card."""
    commit = report.commit.digest[:12] or "not a checkout"
    if report.commit.changed:
        commit += ", with changes that are not committed"
    subject = report.bundle
    told = [
        ("taken", report.made + (", quick run: fewer rounds, wider intervals" if report.quick else "")),
        ("command", report.command),
        ("commit", commit),
        ("bundle", f"{subject.name}, fingerprint {subject.fingerprint[:16]}" if subject else "none"),
    ]
    return told + machine_rows(report.machine)


def machine_rows(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and text of each line about the machine; what a card does not hold is left out."""
    rows = [("processor", str(machine.get("processor", "")))]
    rows.append(("instructions", ", ".join(machine.get("instructions", ()))))
    rows.append(("cores", _cores(machine)))
    rows.append(("clock", _clock(machine)))
    rows.append(("memory", f"{machine['memory_gib']} GiB" if "memory_gib" in machine else ""))
    if "gpus" in machine:
        rows.append(("GPU", "; ".join(_gpu(gpu) for gpu in machine["gpus"]) or "none"))
    if "container" in machine:
        limits = [f"{number(value)} {name.replace('_gib', ' GiB')}" for name, value in machine["container"].items()]
        rows.append(("container limits", ", ".join(limits) or "none"))
    if "threads" in machine:
        rows.append(
            ("threads", ", ".join(f"{k}={v}" for k, v in machine["threads"].items()) or "as each library chooses")
        )
    if "load" in machine:
        after = f" before, {machine['load_after']} after" if "load_after" in machine else ""
        rows.append(("load", f"{machine['load']}{after}"))
    rows.append(("system", machine.get("system", "")))
    packages = {"Python": machine.get("python", ""), **machine.get("packages", {})}
    rows.append(("versions", ", ".join(f"{name} {told}" for name, told in packages.items() if told)))
    return [(name, text) for name, text in rows if text]


def _cores(machine: Mapping[str, Any]) -> str:
    if "cores" not in machine:
        return ""
    of = machine.get("cores_of_machine", machine["cores"])
    return str(machine["cores"]) if of == machine["cores"] else f"{machine['cores']} of {of}"


def _clock(machine: Mapping[str, Any]) -> str:
    clock = f"{machine['clock_mhz']:.0f} MHz" if machine.get("clock_mhz") else ""
    governor = f"governor {machine['governor']}" if machine.get("governor") else ""
    return ", ".join(filter(None, (clock, governor)))


def _gpu(gpu: Mapping[str, str]) -> str:
    return f"{gpu['name']} (" + ", ".join(f"{name} {told}" for name, told in gpu.items() if name != "name") + ")"
