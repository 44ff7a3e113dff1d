"""The command line: parse, call, print. What a command does lives in the modules that it imports when it runs.

Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 1 an error, 2 wrong usage, 3 done but
some inputs failed, 4 the index is busy, 128 + N ended by signal N; `mcr_infer.cli.streams` says what a stream that cannot be
written costs.
"""

import gc
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args, get_type_hints

import click
import typer
from typer.core import TyperArgument, TyperGroup
from typer.models import ArgumentInfo

from mcr_infer.cli.bundle import build_engine, verify
from mcr_infer.cli.demo import demo
from mcr_infer.cli.embed import embed_images, embed_reports
from mcr_infer.cli.evaluate import evaluate
from mcr_infer.cli.index import compact, delete, info, migrate, prune, rebuild
from mcr_infer.cli.pseudonym import pseudonym
from mcr_infer.cli.query import query
from mcr_infer.cli.streams import printable, run
from mcr_infer.cli.transfer import export, import_, merge


class _Group(TyperGroup):
    """Shows arguments escaped where they are quoted as wrong usage: they may be names of files."""

    def make_context(self, *given: Any, **named: Any) -> click.Context:
        with _escaped_usage():
            return super().make_context(*given, **named)

    def invoke(self, ctx: click.Context) -> Any:
        with _escaped_usage():
            return super().invoke(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            _restore_help(command)
        return command


def _restore_help(command: click.Command) -> None:
    """Give the arguments of a command their help: click 8.5.1 and later drop what typer below 0.21 sets."""
    arguments = [one for one in command.params if isinstance(one, TyperArgument) and one.help is None]
    if arguments and command.callback is not None:
        declared = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
        for argument in arguments:
            infos = get_args(declared[str(argument.name)])
            argument.help = next((one.help for one in infos if isinstance(one, ArgumentInfo)), None)


@contextmanager
def _escaped_usage() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        error.message = printable(error.message)  # type: ignore[misc]
        raise


app = typer.Typer(
    cls=_Group,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Search chest radiographs by what they show. Research use only: not a medical device.",
)

app.command("embed-images")(embed_images)
app.command("embed-reports")(embed_reports)


for command in (query, info, demo, evaluate, delete, prune, rebuild, compact, migrate, verify, export, merge):
    app.command()(command)
app.command("import")(import_)
app.command("build-engine")(build_engine)
app.command()(pseudonym)


def main() -> None:
    """Run the command line and end the process; see `mcr_infer.cli.streams.run`."""
    # Imports make many objects and no garbage: looking for it, then and at the end, takes a tenth of a query.
    gc.set_threshold(100_000, 20, 20)
    try:
        run(app)
    finally:
        gc.freeze()
