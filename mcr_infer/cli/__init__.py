"""The command line, one file per group of commands.

arguments -> app -> a command (embed, query, ...) -> the library -> output, progress -> stdout, stderr
"""


def main() -> None:
    """Run the command line and end the process: the entry point of `mcr-infer`, which installed scripts name."""
    from mcr_infer.cli import app  # typer and the commands, which importing a part of this package does not need

    app.main()
