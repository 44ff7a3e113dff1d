"""The index: rows with their vectors in SQLite, a graph beside them where they are many, and the search over both.

    rows (one row, its digest) -> store (SQLite, the truth) -> snapshots beside it (vectors, facts, graphs)
    -> index (the folder) -> search (which rows, which way, hits)

Importing this loads numpy and sqlite3 only; hnswlib is loaded when a kind has more rows than exact search serves well.
"""

from mcr_infer.files import FileStamp
from mcr_infer.index.filters import Filter, parse_filter
from mcr_infer.index.index import EXACT_LIMIT, Index
from mcr_infer.index.rows import KINDS, Row
from mcr_infer.index.search import Hit, describe_no_match, nearest, search

__all__ = [
    "EXACT_LIMIT", "KINDS", "FileStamp", "Filter", "Hit", "Index", "Row", "describe_no_match", "nearest", "parse_filter",
    "search",
]  # fmt: skip
