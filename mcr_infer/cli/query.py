"""`mcr-infer query`: parse, ask, print.

Light to import: the command line registers it at every start.
"""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.cli.options import (
    BundleOption,
    Device,
    DeviceOption,
    IndexOption,
    JsonOption,
    Kind,
    PrecisionName,
    PrecisionOption,
)  # fmt: skip

if TYPE_CHECKING:
    from mcr_infer.index.search import Distinct
    from mcr_infer.retrieval.queries import Question


def query(
    sentences: Annotated[
        list[str] | None,
        typer.Argument(
            help="Sentences in report language; each may end with ^WEIGHT, 1 without.", metavar="SENTENCE..."
        ),
    ] = None,
    unwanted: Annotated[
        list[str] | None,
        typer.Option(
            "--not", metavar="SENTENCE", help="What hits should not show; ^WEIGHT, 0.5 without, 1 beside a picture."
        ),
    ] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Search with a radiograph; ^WEIGHT as above.")
    ] = None,
    like: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Search with a radiograph of the index; ^WEIGHT as above.")
    ] = None,
    queries_from: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A query a line, - for standard input: a sentence, or JSON of query, not, image, like, id.",
        ),
    ] = None,
    kind: Annotated[Kind, typer.Option(help="What to find.")] = Kind.IMAGE,
    k: Annotated[int, typer.Option("-k", min=1, help="How many hits.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="FILTER", help="Only rows that match, as in 'view=PA and study_year>=2020'.")
    ] = None,
    by_study: Annotated[bool, typer.Option("--by-study", help="Only the best hit of each study.")] = False,
    no_duplicates: Annotated[
        bool, typer.Option("--no-duplicates", help="Only one of several hits with the same picture or text.")
    ] = False,
    rerank: Annotated[
        bool,
        typer.Option("--rerank", help="Re-rank the first hits by comparing the words of the query with their patches."),
    ] = False,
    rerank_depth: Annotated[int, typer.Option(min=1, help="Number of hits to re-rank, at least -k.")] = 100,
    ef_search: Annotated[
        int | None, typer.Option(min=1, help="Breadth of the search in a large index; default: the tuned one, if any.")
    ] = None,
    index: IndexOption = Path("mcr-index"),
    bundle: BundleOption = None,
    device: DeviceOption = Device.AUTO,
    precision: PrecisionOption = PrecisionName.FP32,
    json: JsonOption = False,
) -> None:
    """Find radiographs or reports that show what sentences say, that look like radiographs, or both."""
    from mcr_infer.cli import output, session
    from mcr_infer.index import Index, describe_no_match, parse_filter
    from mcr_infer.inference.long_text import strategy_like
    from mcr_infer.pipeline.missing_files import find_file
    from mcr_infer.retrieval.archive import find_hits, has_bundle
    from mcr_infer.retrieval.vectorizer import QueryVectorizer

    if rerank and kind != "image":
        raise typer.BadParameter("--rerank compares patches, which reports do not have: leave out --kind report")
    questions = _questions(sentences, unwanted, image, like, queries_from)
    chosen_rows = None if where is None else parse_filter(where)
    distinct: list[Distinct] = []
    distinct += ["study"] if by_study else []
    distinct += ["content"] if no_duplicates else []
    if rerank:
        from mcr_infer.retrieval.late_interaction import check_comparable
    with Index.open(index, notify=output.note) as store, store.snapshot():
        asks_tower = rerank or any(one.sentences or one.images for one in questions)
        # Vectors of a model that is no bundle can still be asked with each other.
        chosen = session.bundle_of(store, bundle) if asks_tower or has_bundle(store) else None
        if rerank and chosen is not None:
            check_comparable(chosen)
        vectorizer = QueryVectorizer(
            store, chosen, device=device, precision=precision, long_text=strategy_like(store.text_strategies(kind)),
            once=len(questions) == 1,
        )  # fmt: skip
        asked = vectorizer.vectorize(questions, with_words=rerank)
        if asked.fitted:
            output.warn_of_long_queries(asked.fitted, limit=vectorizer.texts.max_tokens)
        reranker = None
        if rerank and chosen is not None:
            from mcr_infer.retrieval.reranker import (
                Reranker,  # brings what decodes files, which a plain query does without
            )

            reranker = Reranker(store, chosen, device=device, precision=precision, notify=output.note)
        found = find_hits(
            store, questions, asked, kind=kind, k=k, where=chosen_rows, distinct=distinct, ef_search=ef_search,
            reranker=reranker, depth=rerank_depth,
        )  # fmt: skip
        if chosen_rows is not None and not any(found):
            output.note(describe_no_match(store, str(kind), chosen_rows))
        output.warn_of_mixture(
            store, kind,
            query_precision=precision if any(one.sentences or one.images for one in questions) else None,
            query_budget=1.0 if any(one.images for one in questions) else None,
        )  # fmt: skip
        files = {hit.label: find_file(store, hit) for hits in found for hit in hits}
    names = [question.name for question in questions]
    if asked.fitted:
        output.warn_of_unknown_words(names, asked.unknown_words, rule=vectorizer.texts.vocabulary.rule)
    presence = {label: is_there for label, (_, is_there) in files.items()}
    for name, hits, absent in zip(names, found, asked.unknown_words, strict=True):
        shown = [replace(hit, path=files[hit.label][0]) for hit in hits]
        output.show_hits(shown, query=name, presence=presence, reranked=rerank, unknown_words=absent, as_json=json)


def _questions(
    sentences: list[str] | None,
    unwanted: list[str] | None,
    image: list[str] | None,
    like: list[str] | None,
    queries_from: str | None,
) -> "list[Question]":
    """Return the one question of the command line, or those of a file."""
    from mcr_infer.errors import QueryError
    from mcr_infer.retrieval.queries import Question, argument_text, read_questions

    given = bool(sentences or unwanted or image or like)
    if given == (queries_from is not None) or not (given or queries_from):
        raise typer.BadParameter("give one of: what to search with (sentences, --image, --like), --queries-from FILE")
    if queries_from is None:
        wanted, denied = map(argument_text, sentences or ()), map(argument_text, unwanted or ())
        return [Question.of(sentences=wanted, unwanted=denied, images=image or (), likes=like or ())]
    source = "standard input" if queries_from == "-" else queries_from
    try:
        with nullcontext(sys.stdin.buffer) if queries_from == "-" else Path(queries_from).open("rb") as lines:
            return read_questions((line.decode() for line in lines), source=source)
    except (OSError, UnicodeDecodeError) as exc:
        raise QueryError(f"{source} cannot be read as text: {getattr(exc, 'strerror', 'it is not UTF-8')}") from exc
