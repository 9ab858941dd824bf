"""A pod as the client sees it: a way to it, and whether users may come."""

from __future__ import annotations

import ipaddress
import random
import time

import xxhash
from grpc import ChannelConnectivity
from grpc.aio import Channel, UnaryUnaryMultiCallable, insecure_channel

CHANNEL_OPTIONS = [
    # Bounds a connection attempt too: a host that drops packets costs 1 s, by default 20 s.
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.max_receive_message_length", -1),  # the services bound their replies by the request
    ("grpc.enable_http_proxy", 0),  # pods are inside: a shell's http_proxy is not for them
]
_SHORTEST_BREAK_S, _LONGEST_BREAK_S = 0.25, 5.0
_SILENCES, _SILENCE_S = 3, 0.02
"""Unanswered calls in a row, each given so long: 20 ms hold a pass of some ms and a hiccup."""


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


class RankedPod(Pod):
    """A pod with its weight function and its recent failures."""

    def __init__(self, address: str) -> None:
        super().__init__(insecure_channel(f"{address_scheme(address)}{address}", CHANNEL_OPTIONS))
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
        pause = min(_LONGEST_BREAK_S, _SHORTEST_BREAK_S * 2.0 ** min(self._failures, 10))
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


def address_scheme(address: str) -> str:
    """How gRPC is told what `address` is: an IP address of a family, or a name."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return f"ipv{ipaddress.ip_address(host).version}:"
    except ValueError:
        return "dns:///"
