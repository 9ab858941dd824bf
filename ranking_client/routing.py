"""Which pod a user's requests go to.

A router hands out the pods worth asking, the user's own first; the package's docstring says how the
two routers compare and which is the default.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import random
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

import xxhash
from grpc import ChannelConnectivity, StatusCode
from grpc.aio import AioRpcError, Channel, UnaryUnaryMultiCallable, insecure_channel

from shared.errors import InvalidFieldError

Affinity = Literal["auto", "ring_hash", "rendezvous"]

HASH_HEADER = "crosskv-user-hash"
_RING_HASH_SWITCH = "GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"
_REFUSED = f"gRPC refuses ring_hash_experimental; {_RING_HASH_SWITCH} must not be false"
_RING_KEYS = 8
"""Keys tried for one user: with half of the pods unfit, 255 of 256 users find a fit one."""
_SHORTEST_BREAK_S, _LONGEST_BREAK_S = 0.25, 5.0
_SILENCES, _SILENCE_S = 3, 0.1  # unanswered calls in a row, each given 0.1 s at least
_CHANNEL_OPTIONS = [
    # Bounds a connection attempt too: a host that drops packets costs 1 s, by default 20 s.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5000),
]
_log = logging.getLogger(__name__)


class Pod:
    """A way to one pod: a channel, and the metadata that steers it."""

    def __init__(self, channel: Channel, metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self._channel = channel
        self._metadata = metadata

    async def send(self, path: str, request: bytes, timeout_s: float) -> bytes:
        """Call `path` and return the reply's bytes; raises AioRpcError."""
        rpc: UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(path)
        return await rpc(request, timeout=timeout_s, metadata=self._metadata)

    def out_of_reach(self) -> bool:
        """Whether a call would fail at once, as the last attempt to connect failed."""
        return self._channel.get_state() is ChannelConnectivity.TRANSIENT_FAILURE

    def failed(self) -> None:
        """Take note that the pod did not take a call."""

    def was_silent(self, seconds: float) -> None:
        """Take note that the pod said nothing for so long, connected as it is."""

    def answered(self) -> None:
        """Take note that the pod answered."""


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


class RingHash:
    """One channel under gRPC's `ring_hash_experimental` (gRFC A42, A76).

    The channel itself passes over pods that are not connected or report NOT_SERVING. A further
    choice is another key of the same user, which lands on another pod most of the time.
    """

    width = _RING_KEYS

    def __init__(self, target: str) -> None:
        self._target = target

    async def open(self) -> None:
        """Make the channel."""
        self._channel = _ring_channel(self._target)

    def choices(self, user: str) -> Iterator[Pod]:
        """The user's own key first, then others."""
        while True:
            for number in range(_RING_KEYS):
                key = xxhash.xxh3_64_hexdigest(user.encode(), seed=number)
                yield Pod(self._channel, ((HASH_HEADER, key),))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


class RankedPod(Pod):
    """A pod with its weight function and its recent failures."""

    def __init__(self, address: str) -> None:
        super().__init__(insecure_channel(f"{_scheme(address)}{address}", _CHANNEL_OPTIONS))
        self._seed = xxhash.xxh3_64_intdigest(address.encode())
        self._failures = 0
        self._silences = 0
        self._break_until = 0.0

    def weight(self, user: bytes) -> int:
        """The user's liking for this pod."""
        return xxhash.xxh3_64_intdigest(user, seed=self._seed)

    def usable(self) -> bool:
        """Whether users may come: no failure, or its break over and its connection up again."""
        if self._failures == 0:
            return True
        if time.monotonic() < self._break_until:
            return False
        return self._channel.get_state(try_to_connect=True) is ChannelConnectivity.READY

    def failed(self) -> None:
        """Send users elsewhere for a while, longer each time."""
        pause = min(_LONGEST_BREAK_S, _SHORTEST_BREAK_S * 2.0**self._failures)
        self._break_until = time.monotonic() + pause * random.uniform(0.8, 1.2)
        self._failures += 1

    def was_silent(self, seconds: float) -> None:
        """Pass over a pod that answers nobody: it is frozen, which its connection does not show."""
        if seconds >= _SILENCE_S:
            self._silences += 1
            if self._silences >= _SILENCES:
                self.failed()

    def answered(self) -> None:
        """Let users come again."""
        self._failures = self._silences = 0

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


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
        chosen = RingHash(_ring_target(field, listed))
    elif affinity == "ring_hash":
        raise InvalidFieldError("affinity", f"'ring_hash': {_REFUSED}; choose 'rendezvous'")
    else:
        _log.warning("%s: %s; users are spread by rendezvous hashing", field, _REFUSED)
        chosen = await _rendezvous(field, targets)
    await chosen.open()
    return chosen


async def ring_hash_available() -> bool:
    """Whether gRPC takes the policy and its switch, asked of a port where nobody listens.

    UNAVAILABLE comes from a working ring without a connection; without the switch it is INTERNAL,
    without the policy INVALID_ARGUMENT.
    """
    os.environ.setdefault(_RING_HASH_SWITCH, "true")  # read when a channel is made
    async with _ring_channel("ipv4:127.0.0.1:1") as channel:
        try:
            await Pod(channel, ((HASH_HEADER, "0"),)).send("/", b"", 1.0)
        except AioRpcError as error:
            return error.code() is StatusCode.UNAVAILABLE
    return False


def _ring_channel(target: str) -> Channel:
    policy = {"requestHashHeader": HASH_HEADER, "minRingSize": 1024, "maxRingSize": 8192}
    config = {
        "loadBalancingConfig": [{"ring_hash_experimental": policy}],
        "healthCheckConfig": {"serviceName": ""},
    }
    return insecure_channel(
        target, [*_CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config))]
    )


def _ring_target(field: str, addresses: list[str]) -> str:
    if len(addresses) == 1:
        return addresses[0]
    schemes = {_scheme(address) for address in addresses}
    if len(schemes) > 1 or "dns:///" in schemes:
        raise InvalidFieldError(
            field, f"{addresses}: ring_hash takes one name or a list of IP addresses of one family"
        )
    return schemes.pop() + ",".join(addresses)


def _scheme(address: str) -> str:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return f"ipv{ipaddress.ip_address(host).version}:"
    except ValueError:
        return "dns:///"


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
