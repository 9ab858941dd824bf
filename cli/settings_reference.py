"""`crosskv settings`: every environment variable of the services, from the settings classes."""

from __future__ import annotations

import typer


def settings() -> None:
    """Print the reference of all settings (environment variables) as Markdown.

    Example:

        crosskv settings > docs/settings.md
    """
    from context_service.settings import ContextSettings  # noqa: PLC0415  --help starts fast
    from crossing_service.settings import CrossingSettings  # noqa: PLC0415
    from shared.settings import SHARED_SECTIONS, reference  # noqa: PLC0415

    typer.echo(reference((*SHARED_SECTIONS, ContextSettings, CrossingSettings)).rstrip())
