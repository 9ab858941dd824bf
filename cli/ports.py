"""The ports that a local stack listens on: the wanted ones, free ones for the rest."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from cli.addresses import Addresses
from cli.failure import CommandError
from shared.rpc.ports import LOOPBACK, held_port


@dataclass(frozen=True)
class WantedPorts:
    """Ports that the caller asks for; None: a free one."""

    context: int | None = None
    crossing: int | None = None
    store: int | None = None


@dataclass(frozen=True)
class StackPorts:
    """Every port of one stack, no two the same."""

    context: int
    crossing: int
    store: int
    context_metrics: int
    crossing_metrics: int

    @property
    def addresses(self) -> Addresses:
        """The same as addresses."""
        return Addresses(
            context=f"{LOOPBACK}:{self.context}",
            crossing=f"{LOOPBACK}:{self.crossing}",
            store=f"redis://{LOOPBACK}:{self.store}/0",
            context_metrics=f"http://{LOOPBACK}:{self.context_metrics}/metrics",
            crossing_metrics=f"http://{LOOPBACK}:{self.crossing_metrics}/metrics",
        )


def choose_ports(wanted: WantedPorts) -> StackPorts:
    """The `wanted` ports, which nothing listens on, and free ones for the others.

    Raises:
        CommandError: a wanted port is taken, or wanted twice; the message names its option.
    """
    with ExitStack() as held:  # all at once, so that none is chosen twice

        def hold(port: int | None, option: str) -> int:
            try:
                return held.enter_context(held_port(port or 0))
            except OSError as error:
                raise CommandError(
                    f"port {port} is taken or not allowed ({error.strerror}); choose another with "
                    f"{option}, or leave the option out for a free one"
                ) from error

        ports = {
            name: hold(port, f"--{name}-port")
            for name, port in sorted(  # a free one must not be one that is wanted
                vars(wanted).items(), key=lambda item: item[1] is None
            )
        }
        return StackPorts(
            **ports,
            context_metrics=held.enter_context(held_port()),
            crossing_metrics=held.enter_context(held_port()),
        )
