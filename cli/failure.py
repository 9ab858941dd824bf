"""What the command does with errors: a foreseen one is a message, never a traceback."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

INTERRUPTED = 130
"""Exit status after Ctrl-C: 128 + SIGINT, as shells have it."""


class CommandError(Exception):
    """The command cannot go on. The message names what is wrong and the way out."""


class ForeseenErrors(TyperGroup):
    """A command group whose foreseen errors end in one message and exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the option parser's exceptions pass, and so does what nobody foresaw."""
        console = Console(stderr=True)
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            console.print("[yellow]Interrupted.[/] Everything that was started has been stopped.")
            raise typer.Exit(INTERRUPTED) from error
        except Exception as error:
            message = foreseen_message(error)
            if message is None:
                raise
            console.print(f"[bold red]error[/] {escape(message)}", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error


def foreseen_message(error: Exception) -> str | None:
    """What to tell the user about `error`; None if it is a defect of the program."""
    if isinstance(error, CommandError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; choose another path or make it usable"
    # Imported only now: --help must not wait for gRPC.
    from shared.errors import CrossKVError  # noqa: PLC0415
    from shared.settings import SettingsError  # noqa: PLC0415

    return str(error) if isinstance(error, CrossKVError | SettingsError) else None
