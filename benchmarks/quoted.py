"""Tables that README.md and benchmarks/README.md quote, in the form that they have there, from committed results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.earlier_card import CARD, shown, table_of
from benchmarks.quoted_queries import QUERY_TABLES
from benchmarks.quoted_recall import RECALL_TABLES
from benchmarks.quoted_rows import Rows, results, table


def card(root: Path) -> list[str]:
    """Retrieval of the bundle that ships, from its model card."""
    found = table_of((root / CARD).read_text(encoding="utf-8"), "protocol")
    return table(found[0], shown(found))


def startup(root: Path) -> list[str]:
    """Start-up: the bundle that ships, and a text tower of BERT-base's size."""
    small, large = results(root, "startup"), results(root, "startup_large")
    told = {
        "text query, bundle that ships": (small["text query"], ".2f"),
        "text query, text tower of BERT-base's size, 10,000 rows": (large["text query, BERT-base, 10,000 rows"], ".2f"),
        "the same through open_clip 3.3": (large["open_clip"], ".0f"),
        "the same through sentence-transformers 6.2": (large["sentence-transformers"], ".0f"),
    }
    rows = [
        [name, format(one["ratio_to_bare"], form), format(one["processor_ratio_to_bare"], form)]
        for name, (one, form) in told.items()
    ]
    return table(["", "wall, over the bare imports", "processor time, over the bare imports"], rows)


def sessions(root: Path) -> list[str]:
    """Recipes of sessions."""
    found = {name: one for name, one in results(root, "sessions").items() if isinstance(one, dict)}
    rows = [
        [
            "the runtime's defaults" if name == "defaults" else f"`{name}`",
            *(f"{one[key]:.0f}" for key in ("first_ms", "alone_ms")),
            f"{one['together_ms']:.0f} ({one['together_p95_ms']:.0f})",
            f"{one['together_calls_a_second']:.0f}",
        ]
        for name, one in found.items()
    ]
    head = ["recipe", "first answer, ms", "a sentence alone, ms"]
    return table([*head, "both towers at once: a sentence, ms (p95)", "calls a second"], rows)


def towers(root: Path) -> list[str]:
    """Radiographs a second of processor time by bundle, batch, precision and budget."""
    rows: Rows = []
    names = {"phantom": "bundle that ships", "vitb16": "ViT-B/16 of random weights"}
    for bundle, found in results(root, "towers")["bundles"].items():
        ours = [use for use in found["uses"] if use["threads"] == 1]
        speed = {(u["precision"], u["batch"], u["budget"]): u["images_per_core_second"] for u in ours}
        form = ".0f" if min(speed.values()) > 100 else ".1f"
        for place, batch in enumerate(sorted({key[1] for key in speed})):
            told = [
                ", ".join(format(speed[precision, batch, budget], form) for budget in (1.0, 0.5, 0.35))
                for precision in ("fp32", "int8")
            ]
            rows.append(["" if place else f"{names[bundle]}, {found['patches']} patches", str(batch), *told])
    return table(["", "batch", "fp32: all patches, 50 %, 35 %", "int8: all patches, 50 %, 35 %"], rows)


def throughput(root: Path) -> list[str]:
    """Files to committed rows, beside the bound."""
    rows = [
        [
            *(one["bundle"], one["syntax"], ", ".join(f"{ms:.0f}" for ms in one["core_ms"].values())),
            *(f"{one['bound']:.1f}", f"{one['images_per_second']:.1f}", f"**{one['share_of_bound']:.2f}**"),
        ]
        for one in results(root, "throughput")["bound"]
    ]
    head = ["bundle", "files", "core-ms: decode and render, resize and cut, tower", "bound, images/s"]
    return table([*head, "images/s", "share"], rows)


def plain(root: Path) -> list[str]:
    """Beside a plain script, and what is paid for it in retrieval."""
    found = results(root, "throughput")
    speed = {(one["precision"], one["budget"], one["syntax"]): one for one in found["plain"]}
    cost = {(one["bundle"], one["precision"], one["budget"]): one for one in found["cost"]}
    rows = []
    for precision, budget in dict.fromkeys(key[:2] for key in speed):
        recall = cost["shipped", precision, budget]["recall"]
        told = [
            f"{one['images_per_second']:.1f} ({one['ratio']:.1f} x)"
            for one in (speed[precision, budget, syntax] for syntax in ("jpeg-2000", "uncompressed"))
        ]
        stay = f"{cost['vit-b16', precision, budget]['image_to_image_top10']:.0%}"
        both = ", ".join(f"{100 * recall[f'{way}_r10']:.1f}" for way in ("image_to_report", "report_to_image"))
        rows.append([f"{precision}, {budget:.0%}", *told, f"{stay}; {both}"])
    paid = "first ten that stay, image to image (ViT-B/16 of random weights); R@10 of the bundle that ships, i→r, r→i %"
    return table(["", "JPEG 2000", "uncompressed", paid], rows)


def decoding(root: Path) -> list[str]:
    """What a file costs by transfer syntax, for a tower of 160 pixels."""
    rows = []
    for one in results(root, "decoding")["rows"]:
        by = one["reduction"]["for 160 px"]
        told = (
            [f"{one['core_ms']['for 160 px']} (1/{by})", f"{one['least_cosine']:.5f}"] if by > 1 else ["as in full", ""]
        )
        rows.append([one["name"], str(one["megabytes"]), str(one["core_ms"]["full"]), *told])
    head = ["transfer syntax", "MB", "in full", "reduced", "cosine of the embedding to that of the full decode"]
    return table(head, rows)


def budget_speed(root: Path) -> list[str]:
    """The image tower alone, by budget and precision."""
    speed = _speed(root)
    rows = [
        [
            f"{budget:.0%}",
            *(
                f"{speed[p, budget]['images_per_core_second']:.0f} ({speed[p, budget]['over_all_patches_in_fp32']:.2f})"
                for p in ("fp32", "int8")
            ),
        ]
        for budget in _budgets(speed)
    ]
    return table(["patches", "fp32", "int8"], rows)


def budget_choices(root: Path) -> list[str]:
    """Retrieval by budget and by how patches are chosen."""
    retrieval = results(root, "budget")["retrieval"]
    rows = []
    budgets = [run["budget"] for run in retrieval["as served"]]
    for budget in budgets:
        for chosen, runs in retrieval.items():
            for run in (run for run in runs if run["budget"] == budget):
                finding, loss = max(run["finding_recall_loss"].items(), key=lambda item: item[1])
                findings = run["finding_recall"].values()
                rows.append(
                    [
                        *(f"{budget:.0%}", "all" if budget == 1 else chosen, _both(run, 1), _both(run, 10)),
                        ", ".join(f"{100 * share:.1f}" for share in run["top10_agreement"].values()),
                        f"{100 * sum(findings) / len(findings):.1f}",
                        "" if budget == 1 else f"{100 * loss:.1f} ({finding})",
                    ]
                )
    head = ["patches", "chosen", "R@1 i→r, r→i %", "R@10 i→r, r→i %", "first ten that stay t→i, i→r %"]
    return table([*head, "recall of findings %", "largest loss of a finding"], rows)


def budget_findings(root: Path) -> list[str]:
    """Recall of each finding as served, by budget."""
    runs = results(root, "budget")["retrieval"]["as served"]
    rows = [[name, *(f"{100 * run['finding_recall'][name]:.1f}" for run in runs)] for name in runs[0]["finding_recall"]]
    return table(["recall of", *(f"{run['budget']:.0%}" for run in runs)], rows)


def budget_summary(root: Path) -> list[str]:
    """What a budget brings and costs, in short."""
    retrieval, speed = results(root, "budget")["retrieval"], _speed(root)
    drawn = {run["budget"]: run for run in retrieval["random"]}
    rows = [
        [
            *(f"{run['budget']:.0%}", _both(run, 1), _both(run, 10)),
            _both(drawn[run["budget"]], 10) if run["budget"] in drawn else "",
            f"{100 * run['top10_agreement']['text_to_image']:.0f}",
            *(f"{speed[p, run['budget']]['over_all_patches_in_fp32']:.1f}" for p in ("fp32", "int8")),
        ]
        for run in retrieval["as served"]
    ]
    head = ["patches", "R@1 image → report, report → image %", "R@10 %", "R@10, random %"]
    return table([*head, "first ten that stay, text → image %", "speed, fp32", "speed, int8"], rows)


def faults(root: Path) -> list[str]:
    """How the cases of each fault ended, all files and operations together."""
    found = results(root, "faults")["outcomes"]
    rows = []
    for fault in dict.fromkeys(one["fault"] for one in found):
        same = [one for one in found if one["fault"] == fault]
        ends = (sum(one[end] for one in same) for end in ("cases", "right_answers", "one_clear_error", "neither"))
        targets = dict.fromkeys(one["target"].removesuffix(", left open") for one in same)
        rows.append([fault, ", ".join(f"`{target}`" for target in targets), *(f"{count:,}" for count in ends)])
    return table(["fault", "of what", "cases", "right answers", "one clear error", "neither"], rows)


def report_sections(root: Path) -> list[str]:
    """How much of a report is embedded, by layout, before and after headings were found by name."""
    found = results(root, "report_sections")
    rows = []
    for layout, now in found["now"].items():
        both = found["before"][layout], now
        shares = [f"{100 * one[key]:.2f}" for key in ("kept", "context") for one in both]
        rows.append([layout, *shares, *(str(one["refused"]) for one in both)])
    return table(
        ["layout", "kept, before %", "kept %", "context, before %", "context %", "refused, before", "refused"], rows
    )


TABLES: Mapping[str, Callable[[Path], list[str]]] = {
    "card": card,
    "startup": startup,
    "sessions": sessions,
    "towers": towers,
    "throughput": throughput,
    "plain": plain,
    "decoding": decoding,
    "faults": faults,
    "report-sections": report_sections,
    "budget-speed": budget_speed,
    "budget-choices": budget_choices,
    "budget-findings": budget_findings,
    "budget-summary": budget_summary,
    **QUERY_TABLES,
    **RECALL_TABLES,
}
"""By the name that stands in the markers."""


def _speed(root: Path) -> dict[tuple[str, float], Mapping[str, float]]:
    return {(one["precision"], one["budget"]): one for one in results(root, "budget")["speed"]}


def _budgets(speed: Mapping[tuple[str, float], object]) -> list[float]:
    return sorted({budget for _, budget in speed}, reverse=True)


def _both(run: Mapping[str, Any], k: int) -> str:
    return ", ".join(f"{100 * run['recall'][f'{way}_r{k}']:.1f}" for way in ("image_to_report", "report_to_image"))
