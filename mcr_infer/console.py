"""What the command line shows: progress on stderr, tables on stdout."""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcr_infer.evaluate import Evaluation
    from mcr_infer.index import Hit, Index
    from mcr_infer.pipeline import Outcome, Summary
    from mcr_infer.pipeline.report import RunReport
    from mcr_infer.second_look import SecondLook
    from mcr_infer.verify import Check


class Run:
    """A progress line on stderr, with rate and time left, while a run is under way.

    `total` counts the inputs and may take its time: it runs beside the work. None, of either, means that nobody knows.
    Where stderr is no terminal, nothing is drawn.
    """

    def __init__(self, what: str, total: Callable[[], int | None] | None) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>8.1f}/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._progress.add_task(what, total=None, rate=0.0)
        self._total = total
        self._done = 0

    def __enter__(self) -> "Run":
        self._started = time.perf_counter()
        self._progress.start()
        if self._total is not None and not self._progress.disable:
            threading.Thread(target=self._find_total, args=(self._total,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _find_total(self, total: Callable[[], int | None]) -> None:
        self._progress.update(self._task, total=total())

    def advance(self) -> None:
        """Count one more input as done."""
        self._done += 1
        rate = self._done / max(time.perf_counter() - self._started, 1e-9)
        self._progress.update(self._task, advance=1, rate=rate)

    def follow(self, outcomes: "Iterable[Outcome]", summary: "Summary") -> None:
        """Drive a run to its end and count its outcomes; whatever ends it, the count is closed."""
        try:
            for outcome in outcomes:
                summary.count(outcome)
                self.advance()
        finally:
            summary.close(time.perf_counter() - self._started)


def show_summary(summary: "Summary", *, what: str, ignored: Counter[str] | None = None, as_json: bool) -> None:
    """Print the closing summary: one JSON object with every failure, or a sentence and the first failures by name."""
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())
        print(f"left out as no images by their names: {kinds}", file=sys.stderr)
    if as_json:
        # Failures are read and written one by one: there may be millions.
        print(json.dumps(summary.to_dict())[:-1], end=', "failures": [')
        for number, failure in enumerate(summary.failures()):
            print(f"{', ' if number else ''}{failure}", end="")
        print("]}")
        return
    for reason, failures in summary.shown.items():
        for one in failures:
            print(f"failed  {one.path}: {one.error} [{reason}]")
        if (rest := summary.failed[reason] - len(failures)) > 0:
            print(f"failed  {rest} more [{reason}]; {summary.failures_file} names each one")
    if summary.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.most_common())
        print(f"left out  {summary.left_out.total()} {what}: {reasons}")
    rate = f", {summary.embedded / summary.seconds:.1f} {what} a second" if summary.embedded and summary.seconds else ""
    print(
        f"{summary.embedded} {what} embedded, {summary.unchanged} unchanged, {summary.failure_count} failed "
        f"in {summary.seconds:.1f} s{rate}"
    )


def show_stages(report: "RunReport", place: Path) -> None:
    """Print where the time of a run over images went, if it embedded any, and where its report lies."""
    waiting, memory = report.meter.waiting, report.meter.memory()
    if report.summary.embedded:
        told = ", ".join(f"{stage} {part:.0%}" for stage, part in report.meter.shares().items())
        behind = "decoding" if waiting["decode"] > waiting["tower"] else "the tower"
        print(f"processor time: {told}; the run waited most for {behind}")
        print(
            f"{report.meter.mean_depth:.1f} decoded files were waiting on average; peak memory {memory['run']} MiB, largest "
            f"worker {memory['largest_worker']} MiB"
        )
    print(f"report in {place}")


def show_plan(rows: Sequence[tuple[str, str, str]], facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print how a run would use the machine, and why: a table, or the plan alone as one JSON object."""
    if as_json:
        print(json.dumps(facts))
    else:
        _print_table(("plan", "", "why"), rows)


def note(sentence: str) -> None:
    """Tell the user something beside the results, on stderr."""
    print(f"note: {sentence}", file=sys.stderr)


def warn_of_mixture(
    index: "Index", kind: str, *, query_precision: str | None = None, query_budget: float | None = None
) -> None:
    """Say so where rows of one kind, or the query and the rows, were embedded in different ways: scores are less exact.

    `query_precision` None is a query that is a row of the index itself; `query_budget` None is one that has no patches, or
    is such a row.
    """
    ways = sorted(index.provenance(kind))
    if len(ways) > 1:
        told = ", ".join(f"{precision} with {budget:.0%} of the patches" for precision, budget in ways)
        note(
            f"the {kind} rows of this index were embedded in {len(ways)} ways: {told}; scores differ slightly between them"
        )
    precisions = sorted({precision for precision, _ in ways})
    if query_precision is not None and precisions and precisions != [query_precision]:
        note(
            f"the query was embedded in {query_precision}, the {kind} rows in {' and '.join(precisions)}: scores differ "
            "slightly from those of one precision"
        )
    budgets = sorted({budget for _, budget in ways}) if kind == "image" else []
    if query_budget is not None and budgets and budgets != [query_budget]:
        told = " and ".join(f"{budget:.0%}" for budget in budgets)
        note(
            f"the query was embedded with {query_budget:.0%} of its patches, the {kind} rows with {told}: scores differ "
            "from those of one patch budget"
        )


def warn_of_unseen(look: "SecondLook") -> None:
    """Say so where candidates could not be looked at a second time."""
    if look.unseen:
        note(
            f"{look.unseen} of {look.candidates} radiographs could not be looked at again, the cosine alone ranks them: the "
            "index keeps no patches of them, and no unchanged file is at their path"
        )


def show_hits(hits: "Sequence[Hit]", *, query: str | None = None, reranked: bool = False, as_json: bool) -> None:
    """Print hits, best first: a JSON object a line, or a table. `query` is the name of one of several queries.

    `reranked` shows what the second look gave, too.
    """
    if as_json:
        name = {} if query is None else {"query": query}
        for hit in hits:
            second = None if hit.rerank_score is None else round(hit.rerank_score, 6)
            again = {"rerank_score": second} if reranked else {}
            print(json.dumps(name | {
                "rank": hit.rank, "score": round(hit.score, 6), **again, "id": hit.id, "kind": hit.kind, "path": hit.path,
                "study_uid": hit.study_uid, "metadata": dict(hit.metadata),
            }))  # fmt: skip
        return
    if query is not None:
        print(f"query {query}")
    rows = [
        (str(hit.rank), f"{hit.score:.3f}",
         *((("" if hit.rerank_score is None else f"{hit.rerank_score:.3f}"),) if reranked else ()),
         _word(hit.metadata.get("view")), _word(hit.metadata.get("study_year")), hit.path or hit.id)
        for hit in hits
    ]  # fmt: skip
    _print_table(("rank", "score", *(("rerank",) if reranked else ()), "view", "year", "path"), rows)


def show_info(index: "Index", *, recommended_budget: float | None, as_json: bool) -> None:
    """Print what an index holds, and the patch budget that its bundle recommends (None: none)."""
    facts = {
        "images": index.count("image"),
        "reports": index.count("report"),
        "bundle": index.bundle,
        "fingerprint": index.fingerprint,
        "format_version": index.format_version,
        "recommended_patch_budget": recommended_budget,
    }
    if as_json:
        print(json.dumps(facts))
        return
    _print_table(
        ("", str(index.folder)), [(name.replace("_", " "), _word(value) or "none") for name, value in facts.items()]
    )


def show_demo(folder: Path, *, count: int, as_json: bool) -> None:
    """Print where the phantoms lie."""
    facts = {"phantoms": count, "folder": str(folder), "truth": str(folder / "truth.csv")}
    print(json.dumps(facts) if as_json else f"{count} phantoms and truth.csv in {folder}")


def show_checks(checks: "Sequence[Check]", *, as_json: bool) -> None:
    """Print the checks of a verification, failed ones marked."""
    if as_json:
        told = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        print(json.dumps({"ok": all(check.ok for check in checks), "checks": told}))
        return
    _print_table(("", "check", ""), [("ok" if check.ok else "FAILED", check.name, check.detail) for check in checks])


def show_evaluation(evaluation: "Evaluation", *, as_json: bool) -> None:
    """Print an evaluation: one JSON object, or its Markdown tables."""
    print(json.dumps(evaluation.to_dict()) if as_json else evaluation.markdown())


def _word(value: object) -> str:
    return "" if value is None else str(value)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns that are as wide as their widest cell; nothing is ever cut, so that paths can be copied."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    for row in (header, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
