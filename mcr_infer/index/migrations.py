"""How a store of an earlier format becomes one of this format: one step a version, all of them in one transaction.

A writer takes them when it opens an index, so a crash leaves the store as it was or as it is now. Readers need none: what
a version lacks reads as absent.
"""

import sqlite3
from collections.abc import Mapping, Sequence

from mcr_infer.index.manifest import FORMAT_VERSION

LOCALS = """CREATE TABLE locals(
    label INTEGER PRIMARY KEY REFERENCES rows(label) ON DELETE CASCADE, content BLOB NOT NULL, digest BLOB NOT NULL)"""
"""The mapped patches or words of a row, for a second look; they go when their row goes."""

STEPS: Mapping[int, Sequence[str]] = {
    # What rows came from is asked of the facts, which have a digest.
    1: ("ALTER TABLE rows ADD COLUMN patient_key TEXT", LOCALS, "DROP INDEX rows_provenance"),
    2: ("ALTER TABLE files ADD COLUMN ctime_ns INTEGER", "ALTER TABLE rows ADD COLUMN text_strategy TEXT"),
}
"""The statements that lead from a version to the next."""


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a store of a version to `FORMAT_VERSION`, inside the transaction of the caller."""
    for step in range(version, FORMAT_VERSION):
        for statement in STEPS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
