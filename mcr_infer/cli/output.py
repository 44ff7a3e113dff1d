"""What the command line shows: progress on stderr, tables on stdout."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mcr_infer.cli.streams import say, say_table

if TYPE_CHECKING:
    from mcr_infer.errors import CheckResult
    from mcr_infer.evaluation.protocols import Evaluation
    from mcr_infer.index import Hit, Index
    from mcr_infer.index.manifest import Tuning
    from mcr_infer.index.row_selection import Deletion
    from mcr_infer.inference.bundle import Bundle
    from mcr_infer.inference.long_text import FittedText, LongText
    from mcr_infer.pipeline.missing_files import Gone
    from mcr_infer.pipeline.outcome import Summary
    from mcr_infer.pipeline.run_report import RunReport
    from mcr_infer.pipeline.transfer.exporting import Exported
    from mcr_infer.pipeline.transfer.merging import Conflict, Merged

_SHOWN_CONFLICTS = 20
_SHOWN_NOTES = 5
_SHOWN_QUERIES = 5


def show_summary(
    summary: "Summary", *, what: str, verb: str = "embedded", ignored: Counter[str] | None = None, as_json: bool
) -> None:
    """Print the closing summary: one JSON object with every failure, or a sentence and the first failures by name.

    `ignored` are the entries of folders that were no inputs by their names, by kind.
    """
    if ignored:
        kinds = ", ".join(f"{count} {kind}" for kind, count in ignored.most_common())
        say(f"skipped by file name: {kinds}", to_stderr=True)
    if as_json:
        # Failures are read and written one by one: there may be millions.
        facts = {verb if name == "embedded" else name: value for name, value in summary.to_dict().items()}
        if what == "reports":
            facts |= {"updated": summary.updated, "ignored": dict(ignored or {})}
        print(json.dumps(facts)[:-1], end=', "failures": [')
        for number, failure in enumerate(summary.failures()):
            print(f"{', ' if number else ''}{failure}", end="")
        print("]}")
        return
    for text, count in summary.notes.most_common(_SHOWN_NOTES):
        note(f"{count} {what}: {text}")
    if (rest := len(summary.notes) - _SHOWN_NOTES) > 0:
        note(f"{rest} more kinds of notes; --json and run.json count each")
    for reason, failures in summary.shown.items():
        for one in failures:
            say(f"failed  {one.path}: {one.error} [{reason}]")
        if (rest := summary.failed[reason] - len(failures)) > 0:
            say(f"failed  {rest} more [{reason}]; {summary.failures_file} names each one")
    if summary.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary.left_out.most_common())
        # Not all of them are radiographs: some are left out because they are none.
        say(f"{summary.left_out.total()} {'files' if what == 'radiographs' else what} left out: {reasons}")
    if summary.sections is not None and summary.sections.total():
        recognized, whole, none = (summary.sections[name] for name in ("recognized", "whole", "none"))
        say(f"sections recognized in {recognized} {what}, {whole} taken whole, {none} without text to embed")
    rate = f", {summary.embedded / summary.seconds:.1f} {what} a second" if summary.embedded and summary.seconds else ""
    updated = f", {summary.updated} updated" if summary.updated else ""
    doubled = f", {summary.duplicates} duplicates" if summary.duplicates else ""
    say(
        f"{summary.embedded} {what} {verb}{updated}, {summary.unchanged} unchanged{doubled}, {summary.failure_count} failed "
        f"in {summary.seconds:.1f} s{rate}"
    )


def show_stages(report: "RunReport", place: Path) -> None:
    """Print where the time of a run over images went, if it embedded any, and where its report lies."""
    waiting, memory = report.meter.waiting, report.meter.memory()
    if report.summary.embedded:
        told = ", ".join(f"{stage} {part:.0%}" for stage, part in report.meter.shares().items())
        behind = "decoding" if waiting["decode"] > waiting["tower"] else "the tower"
        say(f"processor time: {told}; the run waited most for {behind}")
        say(
            f"{report.meter.mean_depth:.1f} decoded files were waiting on average; peak memory {memory['run']} MiB, largest "
            f"worker {memory['largest_worker']} MiB"
        )
    say(f"report in {place}")


def show_plan(rows: Sequence[tuple[str, str, str]], facts: Mapping[str, object], *, as_json: bool) -> None:
    """Print how a run would use the machine, and why: a table, or the plan alone as one JSON object."""
    if as_json:
        print(json.dumps(facts))
    else:
        say_table(("plan", "", "why"), rows)


def note(sentence: str) -> None:
    """Tell the user something beside the results, on stderr."""
    say(f"note: {sentence}", to_stderr=True)


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


def warn_of_unknown_words(
    queries: Sequence[str | int | None], unknown_words: "Sequence[Sequence[str]]", *, rule: str
) -> None:
    """Name the words of each query that the text tower does not know; `rule` says why they count as unknown."""
    from mcr_infer.inference.vocabulary import quoted

    noted = [(query, words) for query, words in zip(queries, unknown_words, strict=True) if words]
    for query, words in noted[:_SHOWN_QUERIES]:
        note(
            f"{'' if query is None else f'query {query}: '}unknown words {quoted(words)} {rule}; the other words decide"
        )
    if len(noted) > _SHOWN_QUERIES:
        note(f"{len(noted) - _SHOWN_QUERIES} more queries have unknown words; --json names them all")


def warn_of_long_texts(counts: "Mapping[LongText, int]", *, limit: int) -> None:
    """Say how many reports have more tokens than the text tower takes, and what of them is embedded."""
    told = ", ".join(f"{count} by {strategy}" for strategy, count in counts.items())
    note(f"{sum(counts.values())} reports have more than the {limit} tokens that the text tower takes: {told}")


def warn_of_long_queries(queries: "Sequence[FittedText]", *, limit: int) -> None:
    """Say which queries have more tokens than the text tower takes, and what of them is embedded."""
    long = [query for query in queries if query.strategy is not None]
    if long:
        how = ", ".join(sorted({str(query.strategy) for query in long}))
        what = "a sentence of the query has" if len(long) == 1 else f"{len(long)} sentences of queries have"
        note(f"{what} more than the {limit} tokens that the text tower takes: embedded by {how}")


def show_hits(
    hits: "Sequence[Hit]",
    *,
    query: str | int | None = None,
    presence: Mapping[int, bool | None] | None = None,
    reranked: bool = False,
    unknown_words: Sequence[str] = (),
    as_json: bool,
) -> None:
    """Print hits, best first: a JSON object a line, or a table. `query` is the name of one of several queries.

    `presence` says by label whether the file of a hit is there, None where that cannot be told.
    `reranked` shows the scores of re-ranking, too; `unknown_words` are those of the query, for JSON.
    """
    there = presence or {}
    if as_json:
        name = {} if query is None else {"query": query}
        for hit in hits:
            second = None if hit.rerank_score is None else round(hit.rerank_score, 6)
            again = {"rerank_score": second} if reranked else {}
            print(json.dumps(name | {
                "rank": hit.rank, "score": round(hit.score, 6), **again, "id": hit.id, "kind": hit.kind, "path": hit.path,
                "study_uid": hit.study_uid, "series_uid": hit.series_uid, "metadata": dict(hit.metadata),
                "unknown_words": list(unknown_words), "file_exists": there.get(hit.label),
            }))  # fmt: skip
        return
    if query is not None:
        say(f"query {query}")
    rows = [
        (str(hit.rank), f"{hit.score:.3f}",
         *((("" if hit.rerank_score is None else f"{hit.rerank_score:.3f}"),) if reranked else ()),
         _word(hit.metadata.get("view")), _word(hit.metadata.get("study_year")),
         (hit.path or hit.id) + (" (file is gone)" if there.get(hit.label) is False else ""))
        for hit in hits
    ]  # fmt: skip
    say_table(("rank", "score", *(("rerank",) if reranked else ()), "view", "year", "path"), rows)


def show_info(index: "Index", bundle: "Bundle | None", *, gone: "Gone | None" = None, as_json: bool) -> None:
    """Print what an index holds, and what its bundle says of itself where it is there; `gone` are rows without a file."""
    facts = {
        "images": index.count("image"),
        "reports": index.count("report"),
        "root": index.root,
        "bundle": index.bundle,
        "fingerprint": index.fingerprint,
        "format_version": index.format_version,
        "pseudonymous": index.identity.pseudonymous,
        "patient_keys": bool(index.identity.secret_check),
        "recommended_patch_budget": bundle and bundle.recommended_budget,
        "max_tokens": bundle and bundle.max_tokens,
    }
    if gone is not None:
        facts |= {f"{kind}s_without_file": count for kind, count in gone.deletion.counts.items()}
        facts |= {f"{kind}s_untold": count for kind, count in gone.untold.items()}
    tuned = {kind: index.state(kind).tuning for kind in ("image", "report")}
    if as_json:
        print(json.dumps({**facts, "tuning": {kind: one and asdict(one) for kind, one in tuned.items()}}))
        return
    rows = [(name.replace("_", " "), _word(value) or "none") for name, value in facts.items()]
    rows += [(f"search of {kind}s", _told_tuning(tuning)) for kind, tuning in tuned.items() if tuning]
    say_table(("", str(index.folder)), rows)


def show_planned_deletion(found: "Deletion", place: Path, *, what: str = "match", to_stderr: bool) -> None:
    """Print what a deletion is about: how many rows of which studies, and the first ids."""
    say(f"{_counted(found.counts)} of {place} {what}, of {found.studies} studies", to_stderr=to_stderr)
    for kind, ids in found.shown.items():
        if ids:
            more = found.counts[kind] - len(ids)
            say(f"  {kind}s: {', '.join(ids)}{f' and {more} more' if more else ''}", to_stderr=to_stderr)


def show_deletion(
    found: "Deletion", place: Path, left: Mapping[str, int], *, dry_run: bool, hint: bool = True, as_json: bool
) -> None:
    """Print what was deleted, and what a graph still holds of it (`left`, by kind); `hint`: what to try if nothing was."""
    if as_json:
        facts = {"deleted": dict(found.counts), "dry_run": dry_run, "left_in_graphs": dict(left)}
        print(json.dumps(facts))
    elif dry_run:
        say("nothing was deleted: --dry-run")
    elif any(found.counts.values()):
        say(f"{_counted(found.counts)} deleted")
    if not any(found.counts.values()) and hint:
        note("nothing matched, and nothing was deleted; --kind chooses images, reports or both")
    if any(left.values()):
        note(
            f"graphs hold {sum(left.values())} vectors of deleted rows, which no search finds: to remove them from the "
            f"disk, too, run `mcr-infer compact --index {place}`, or delete with --purge"
        )


def show_snapshots(index: "Index", *, as_json: bool) -> None:
    """Print what lies beside the store of an index, and how its graphs were tuned."""
    facts: dict[str, dict[str, object]] = {}
    told = []
    for kind in ("image", "report"):
        state = index.state(kind)
        graph, tuning = state.graph, state.tuning
        shape = None if graph is None else {"m": graph.m, "ef_construction": graph.ef_construction}
        facts[kind] = {"rows": state.rows, "graph": shape, "tuning": None if tuning is None else asdict(tuning)}
        way = f"graph of M {graph.m}, ef_construction {graph.ef_construction}" if graph else "exact search"
        told.append(f"{state.rows} {kind}s: {way}{f'; {_told_tuning(tuning)}' if tuning else ''}")
    if as_json:
        print(json.dumps(facts))
        return
    for line in told:
        say(line)


def _told_tuning(tuning: "Tuning") -> str:
    return (
        f"ef_search {tuning.ef_search} finds {tuning.recall:.2%} of the ten nearest, asked for {tuning.target_recall:.2%} "
        f"({tuning.queries} queries, {tuning.rows} rows)"
    )


def show_sizes(place: Path, *, before: int, after: int, as_json: bool) -> None:
    """Print how many bytes an index took before and after."""
    if as_json:
        print(json.dumps({"bytes_before": before, "bytes_after": after}))
    else:
        say(f"{place}: {before} bytes before, {after} bytes after")


def show_migration(place: Path, *, former: int, now: int, as_json: bool) -> None:
    """Print from which format version to which an index came."""
    if as_json:
        print(json.dumps({"from": former, "to": now}))
    elif former == now:
        say(f"{place} has format version {now}, that of this release")
    else:
        say(f"{place} was converted from format version {former} to {now}")


def _counted(counts: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())


def show_export(told: "Exported", out: Path, *, as_json: bool) -> None:
    """Print how many rows were exported where."""
    if as_json:
        print(json.dumps({"out": str(out), "rows": dict(told.rows), "texts_left_out": told.texts_left_out}))
    else:
        say(f"{_counted(told.rows)} in {out}")
    if told.texts_left_out:
        note(f"the text of {told.texts_left_out} rows was not exported; --keep-text exports it")


def show_conflicts(found: "Sequence[Conflict]", *, as_json: bool) -> None:
    """Print the ids that stand for two different things, and that nothing was merged."""
    if as_json:
        print(json.dumps({"conflicts": [one.to_dict() for one in found]}))
    else:
        rows = [(one.kind, one.id, _word(one.here), _word(one.there)) for one in found[:_SHOWN_CONFLICTS]]
        say_table(("kind", "id", "path", "path of the other"), rows)
        if len(found) > _SHOWN_CONFLICTS:
            say(f"and {len(found) - _SHOWN_CONFLICTS} more; --json lists all")
    note(
        f"{len(found)} ids stand for different pictures or reports, and nothing was merged: --on-conflict skip keeps the "
        "one that comes first, --on-conflict replace the one that comes last"
    )


def show_merge(told: "Merged", index: "Index", *, as_json: bool) -> None:
    """Print what became of the rows of a merge."""
    counts = {kind: index.count(kind) for kind in ("image", "report")}
    if as_json:
        print(json.dumps({**asdict(told), "conflicts": [], "rows": counts}))
    else:
        say(
            f"{told.added} rows added, {told.known} were there, {told.replaced} replaced, {told.skipped} skipped; "
            f"{index.folder} holds {_counted(counts)}"
        )
    if told.paths_taken:
        note(
            f"{told.paths_taken} files have a path that stands for another row in {index.folder}: they are read again "
            "when they are embedded"
        )


def show_keys(kind: str, keys: Iterable[str], *, as_json: bool) -> None:
    """Print keys, one a line."""
    for key in keys:
        if as_json:
            print(json.dumps({"kind": kind, "key": key}))
        else:
            say(key)


def show_demo(folder: Path, *, count: int, as_json: bool) -> None:
    """Print where the phantoms lie."""
    facts = {"phantoms": count, "folder": str(folder), "truth": str(folder / "truth.csv")}
    if as_json:
        print(json.dumps(facts))
    else:
        say(f"{count} phantoms and truth.csv in {folder}")


def show_checks(checks: "Sequence[CheckResult]", *, as_json: bool) -> None:
    """Print the checks of a verification, failed ones marked."""
    if as_json:
        told = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks]
        print(json.dumps({"ok": all(check.ok for check in checks), "checks": told}))
        return
    say_table(("", "check", ""), [("ok" if check.ok else "FAILED", check.name, check.detail) for check in checks])


def show_evaluation(evaluation: "Evaluation", *, as_json: bool) -> None:
    """Print an evaluation: one JSON object, or its Markdown tables."""
    if as_json:
        print(json.dumps(evaluation.to_dict()))
        return
    for line in evaluation.markdown().split("\n"):
        say(line)


def _word(value: object) -> str:
    return "" if value is None else str(value)
