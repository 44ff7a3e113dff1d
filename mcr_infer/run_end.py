"""How a run over inputs ends: what the next run is to know of it, and its exit code."""

from typing import TYPE_CHECKING

from mcr_infer import console
from mcr_infer.options import SOME_FAILED

if TYPE_CHECKING:
    from mcr_infer.pipeline import Summary


def exit_code(summary: "Summary", *, accept_known: bool, allow_empty: bool) -> int:
    """Return the exit code of a run that came to its end, and say why where that is not plain from the summary.

    An input that failed gives `SOME_FAILED`; so does a run that found none, as under a share that is not mounted.
    """
    if not summary.inputs:
        if allow_empty:
            return 0
        console.note(
            "no input was found: is the folder empty, or its share not mounted? With --allow-empty the exit code is 0"
        )
        return SOME_FAILED
    new = summary.failure_count - summary.known_failures
    if summary.failure_count and accept_known:
        console.note(f"{summary.known_failures} failures are known from the previous run, {new} are new")
        return SOME_FAILED if new else 0
    return SOME_FAILED if summary.failure_count else 0
