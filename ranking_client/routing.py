"""Which pod a user's requests go to.

A router hands out the pods worth asking, the user's own first; the package's docstring says how the
two routers compare and which is the default.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from ranking_client.pod import Pod, RankedPod
from ranking_client.ring_hash import REFUSED, RingHash, ring_hash_available, ring_target
from shared.errors import InvalidFieldError

Affinity = Literal["auto", "ring_hash", "rendezvous"]

_log = logging.getLogger(__name__)


class Router(Protocol):
    """Orders pods for a user."""

    @property
    def width(self) -> int:
        """How many of the choices may differ; the next ones repeat them."""
        ...

    async def open(self) -> None:
        """Make channels; call inside the event loop that will use them."""
        ...

    def choices(self, user: str) -> Iterator[Pod]:
        """Pods to ask, the best first, without end."""
        ...

    async def close(self) -> None:
        """Close the channels."""
        ...


class Rendezvous:
    """Highest-random-weight hashing over one channel a pod (Thaler and Ravishankar, 1998).

    A pod that failed is everybody's last choice until it is back: its users go to their second one,
    nobody else moves.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = sorted(set(addresses))

    @property
    def width(self) -> int:
        """Pods there are."""
        return len(self._addresses)

    async def open(self) -> None:
        """Make a channel to every pod."""
        self._pods = [RankedPod(address) for address in self._addresses]

    def choices(self, user: str) -> Iterator[Pod]:
        """Usable pods by the user's liking, then the others likewise; then anew."""
        key = user.encode()
        while True:
            yield from sorted(self._pods, key=lambda pod: (not pod.usable(), -pod.weight(key)))

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(pod.close() for pod in self._pods))


async def router(field: str, targets: str | Sequence[str], affinity: Affinity) -> Router:
    """An opened router to `targets`: one name that resolves to several pods, or their addresses.

    Raises:
        InvalidFieldError: `targets` and `affinity` do not go together, or a name does not resolve;
            it names `field`.
    """
    listed = [targets] if isinstance(targets, str) else list(targets)
    if not all(listed) or not listed:
        raise InvalidFieldError(field, f"{targets!r}; give host:port or a list of them")
    chosen: Router
    if affinity == "rendezvous" or (affinity == "auto" and not isinstance(targets, str)):
        chosen = await _rendezvous(field, targets)
    elif await ring_hash_available():
        chosen = RingHash(ring_target(field, listed))
    elif affinity == "ring_hash":
        raise InvalidFieldError("affinity", f"'ring_hash': {REFUSED}; choose 'rendezvous'")
    else:
        _log.warning("%s: %s; users are spread by rendezvous hashing", field, REFUSED)
        chosen = await _rendezvous(field, targets)
    await chosen.open()
    return chosen


async def _rendezvous(field: str, targets: str | Sequence[str]) -> Rendezvous:
    return Rendezvous(await _resolved(field, targets) if isinstance(targets, str) else targets)


async def _resolved(field: str, name: str) -> list[str]:
    """Addresses `name` stands for now; a pod that joins later is seen by a new client."""
    scheme, _, rest = name.rpartition(":///")
    host, _, port = rest.rpartition(":")
    if scheme not in {"", "dns"} or not port.isdigit():
        raise InvalidFieldError(field, f"{name!r}; rendezvous takes host:port or a list of them")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise InvalidFieldError(field, f"{name!r} does not resolve: {error}") from error
    hosts = [str(address[0]) for *_, address in found]
    return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in hosts]
