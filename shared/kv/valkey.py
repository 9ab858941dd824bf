"""A store on a Redis or Valkey server, or on a cluster of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from hashlib import sha1
from typing import Any
from urllib.parse import quote, urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError

from shared.errors import StoreUnavailableError
from shared.kv.codec import HEADER_LIMIT, MARKER, ORDER, EntryHeader
from shared.kv.store import PutOutcome
from shared.settings import StoreSettings

CLUSTER_SCHEMES = {"redis+cluster": "redis", "rediss+cluster": "rediss"}
"""Schemes of a cluster's address, and what the client calls them."""

_SCAN_COUNT = 10_000  # keys a step: the server is busy for some 2 ms

# Bytes are compared one by one: `<` on Lua strings asks the server's locale. What does not begin
# with the marker (ARGV[3]), a key of another type included, is no entry and in the way of none.
_PUT = f"""
local stored = redis.pcall('GETRANGE', KEYS[1], 0, {HEADER_LIMIT - 1})
if type(stored) == 'table' then stored = '' end
if string.sub(stored, 1, #ARGV[3]) ~= ARGV[3] then stored = false end
local replaces = ARGV[4]
if replaces ~= '' then
  if not stored or string.sub(stored, 1, #replaces) ~= replaces then return 'conflict' end
elseif stored then
  for at = {ORDER.start + 1}, {ORDER.stop} do
    local old, new = string.byte(stored, at), string.byte(ARGV[1], at)
    if new > old then break end
    if new < old then return 'stale' end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 'stored'
"""
_PUT_SHA = sha1(_PUT.encode(), usedforsecurity=False).hexdigest()


def entry_key(user: str, fingerprint: str) -> str:
    """Key of one entry. The braces put all of a user's keys on one cluster slot.

    Percent-encoding leaves neither braces nor glob characters in the user's part.
    """
    return f"crosskv:{{{quote(user, safe='')}}}:{fingerprint}"


class ValkeyStore:
    """The contract of `KVStore` on `redis.asyncio`; `connect` makes one.

    Nothing is retried here and no call waits longer than its time-outs: the caller knows its
    deadline. `address` is the server's, without credentials.
    """

    def __init__(self, client: Redis | RedisCluster, address: str, settings: StoreSettings) -> None:
        self._client: Any = client  # the two clients share these commands, but no base class
        self._address = address
        self._ttl_ms = settings.ttl_s * 1000
        # A burst of more calls than connections waits its turn, but no longer than for a reply.
        self._turns = asyncio.Semaphore(settings.max_connections)
        self._turn_timeout_s = settings.timeout_s

    @classmethod
    def connect(cls, settings: StoreSettings) -> ValkeyStore:
        """A store at `settings.url`; connections are opened when they are first needed.

        Schemes: redis, rediss (TLS), unix, redis+cluster, rediss+cluster.
        """
        scheme, _, rest = settings.url.partition("://")
        options: dict[str, Any] = {
            "socket_timeout": settings.timeout_s,
            "socket_connect_timeout": settings.connect_timeout_s,
            # the library's defaults wait for seconds on a server that does not answer
            "retry": Retry(NoBackoff(), 0),
            "max_connections": settings.max_connections,
            "decode_responses": False,
            "protocol": 2,  # version 3 costs a round trip a connection and gives nothing here
        }
        client: Redis | RedisCluster
        if scheme in CLUSTER_SCHEMES:
            client = RedisCluster.from_url(f"{CLUSTER_SCHEMES[scheme]}://{rest}", **options)
        else:
            client = Redis.from_url(settings.url, **options)
        return cls(client, _address(settings.url), settings)

    async def get(self, user: str, fingerprint: str, *, limit: int | None = None) -> bytes | None:
        """The stored value, or None: see `KVStore.get`. With a limit, an empty value is none."""
        if limit is not None:
            return await self._beginning(user, fingerprint, limit)
        async with self._call("GET"):
            value: bytes | None = await _string(self._client.get(entry_key(user, fingerprint)))
            return value

    async def get_header(self, user: str, fingerprint: str) -> bytes | None:
        """The first `codec.HEADER_LIMIT` bytes of the stored value, or None."""
        return await self._beginning(user, fingerprint, HEADER_LIMIT)

    async def put(
        self, header: EntryHeader, value: bytes, *, replaces: bytes | None = None
    ) -> PutOutcome:
        """Store `value`, atomically: see `KVStore.put`."""
        key = entry_key(header.user, header.fingerprint)
        arguments = (1, key, value, self._ttl_ms, MARKER, replaces or b"")
        async with self._call("EVALSHA"):
            try:
                outcome: bytes = await self._client.evalsha(_PUT_SHA, *arguments)
            except NoScriptError:  # a server that was restarted: EVAL also teaches it the script
                outcome = await self._client.eval(_PUT, *arguments)
            return PutOutcome(outcome.decode())

    async def delete(self, user: str) -> int:
        """Delete the user's values under every fingerprint; returns how many there were.

        Walks every key of every primary (SCAN), in steps between which other commands run: the time
        it takes grows with the whole store, some 0.2 s a million keys.
        """
        deleted = 0
        async with self._call("SCAN"):
            pattern = entry_key(user, "*")
            async for key in self._client.scan_iter(match=pattern, count=_SCAN_COUNT):
                deleted += await self._client.unlink(key)
        return deleted

    async def ping(self) -> None:
        """Return once the store has answered."""
        async with self._call("PING"):
            await self._client.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _beginning(self, user: str, fingerprint: str, size: int) -> bytes | None:
        async with self._call("GETRANGE"):
            key = entry_key(user, fingerprint)
            beginning = await _string(self._client.getrange(key, 0, size - 1))
            return beginning or None

    @asynccontextmanager
    async def _call(self, command: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._turn_timeout_s):
                await self._turns.acquire()
            try:
                yield
            finally:
                self._turns.release()
        except (RedisError, RedisClusterException, OSError) as error:  # TimeoutError is an OSError
            raise StoreUnavailableError(
                f"store {self._address}: {command} failed ({type(error).__name__}: {error})"
            ) from error


async def _string(reply: Awaitable[bytes | None]) -> bytes | None:
    """The reply; nothing that can be proven, b"", where the key is of another type."""
    try:
        return await reply
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            return b""
        raise


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
