"""One channel that places users on pods by gRPC's own consistent hashing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import xxhash
from grpc import StatusCode
from grpc.aio import AioRpcError, Channel, insecure_channel

from ranking_client.pod import CHANNEL_OPTIONS, Pod, address_scheme
from shared.errors import InvalidFieldError

_HASH_HEADER = "crosskv-user-hash"
_SWITCH = "GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY"
REFUSED = f"gRPC refuses ring_hash_experimental; {_SWITCH} must not be false"
_RING_KEYS = 8
"""Keys tried for one user: with half of the pods unfit, 255 of 256 users find a fit one."""
_taken_with: set[str] = set()
"""Values of the switch with which gRPC took the policy."""


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
                yield Pod(self._channel, ((_HASH_HEADER, key),))

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()


async def ring_hash_available() -> bool:
    """Whether gRPC takes the policy and its switch, asked of a port where nobody listens.

    UNAVAILABLE comes from a working ring without a connection; without the switch it is INTERNAL,
    without the policy INVALID_ARGUMENT. A yes holds for the process; a no may be a starved
    process's time-out, and is asked for again.
    """
    switch = os.environ.setdefault(_SWITCH, "true")  # read when a channel is made
    if switch in _taken_with:
        return True
    async with _ring_channel("ipv4:127.0.0.1:1") as channel:
        try:
            await Pod(channel, ((_HASH_HEADER, "0"),)).send("/", b"", 1.0)
        except AioRpcError as error:
            if error.code() is StatusCode.UNAVAILABLE:
                _taken_with.add(switch)
    return switch in _taken_with


def _ring_channel(target: str) -> Channel:
    policy = {"requestHashHeader": _HASH_HEADER, "minRingSize": 1024, "maxRingSize": 8192}
    config = {
        "loadBalancingConfig": [{"ring_hash_experimental": policy}],
        "healthCheckConfig": {"serviceName": ""},
    }
    return insecure_channel(target, [*CHANNEL_OPTIONS, ("grpc.service_config", json.dumps(config))])


def ring_target(field: str, addresses: list[str]) -> str:
    """One target of `addresses`; raises InvalidFieldError, naming `field`, if they make none."""
    if len(addresses) == 1:
        return addresses[0]
    schemes = {address_scheme(address) for address in addresses}
    if len(schemes) > 1 or "dns:///" in schemes:
        raise InvalidFieldError(
            field, f"{addresses}: ring_hash takes one name or a list of IP addresses of one family"
        )
    return schemes.pop() + ",".join(addresses)
