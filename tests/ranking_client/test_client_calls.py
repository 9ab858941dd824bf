"""What goes over the wire and what comes back, one pod and no failures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from ranking_client import Actions, RankingClient
from ranking_client.records import (
    ContextDescription,
    ModelDescription,
    Prefetched,
    Receipt,
)
from shared.errors import InvalidFieldError, KVMissError, MissCause, ModelMismatchError
from shared.rpc.wire import packed
from tests.ranking_client.stub_pod import FINGERPRINT, StubPod, score_of

ACTIONS = Actions([5, 2**64 - 1, 6], [0, 1, 2], [10, 10, 20], [1, 0, 1])


@pytest.fixture
async def pod() -> AsyncIterator[StubPod]:
    async with StubPod() as started:
        yield started


@pytest.fixture
async def client(pod: StubPod) -> AsyncIterator[RankingClient]:
    async with RankingClient([pod.address], [pod.address], timeout_s=5.0) as opened:
        yield opened


async def test_every_score_argument_arrives(pod: StubPod, client: RankingClient) -> None:
    features = np.arange(6, dtype=np.float64).reshape(2, 3)
    await client.score(
        "ü",
        [3, 2**64 - 1],
        surfaces=[1, 0],
        features=features,
        request_time_s=99,
        min_history_version=4,
        tasks=["like"],
        model_fingerprint=FINGERPRINT,
    )
    request = pod.requests[-1]
    assert request.user_id == "ü"
    assert packed(request, "item_ids").tolist() == [3, 2**64 - 1]
    assert packed(request, "surfaces").tolist() == [1, 0]
    assert packed(request, "features").tolist() == features.ravel().tolist()
    assert (request.request_time_s, request.min_history_version) == (99, 4)
    assert list(request.tasks) == ["like"]
    assert request.model_fingerprint == FINGERPRINT


async def test_scores_are_cut_by_task_in_request_order(client: RankingClient) -> None:
    ids = np.array([9, 4, 9, 1], np.uint64)
    scores = await client.score("u", ids)
    assert list(scores.by_task) == ["watch", "like"]
    for task, values in scores.by_task.items():
        assert values.dtype == np.float32
        assert values.tolist() == score_of("u", task, ids).tolist()
    assert scores.model_fingerprint == FINGERPRINT
    assert (scores.history_version, scores.history_tokens, scores.unknown_items) == (7, 3, 1)
    assert (scores.entry_source, scores.attempts, scores.encoded) == ("store", 1, False)


async def test_encode_and_append_send_actions_and_read_the_receipt(
    pod: StubPod, client: RankingClient
) -> None:
    expected = Receipt(FINGERPRINT, 12, 3, 2, 1, 160, True, 7)
    for method in (client.encode, client.append):
        assert await method("u", ACTIONS, 12) == expected
        actions = pod.requests[-1].actions
        assert packed(actions, "item_ids").tolist() == [5, 2**64 - 1, 6]
        assert packed(actions, "action_types").tolist() == [0, 1, 2]
        assert packed(actions, "times_s").tolist() == [10, 10, 20]
        assert packed(actions, "surfaces").tolist() == [1, 0, 1]
        assert pod.requests[-1].history_version == 12
    assert [rpc for rpc, _ in pod.calls] == ["EncodeContext", "AppendActions"]


async def test_the_other_methods_read_their_replies(client: RankingClient) -> None:
    assert await client.prefetch("u", min_history_version=3) == Prefetched(7, 3, "device")
    assert await client.describe("u") == ContextDescription(
        FINGERPRINT, 7, 3, 160, 6144, 7, 8, (2, 3), (3, 1), 37
    )
    assert await client.delete("u") == 2
    model = ModelDescription(
        FINGERPRINT, ("watch", "like"), 3, 200, 4096, ("view",), ("home",), "{}"
    )
    assert await client.describe_model() == model
    assert await client.describe_model("context") == model


async def test_a_miss_is_encoded_and_scored_once_more(pod: StubPod) -> None:
    asked = []

    async def load(user: str) -> Actions:
        asked.append(user)
        return ACTIONS

    pod.next("ScoreCandidates", KVMissError("u", MissCause.ABSENT))
    async with RankingClient([pod.address], [pod.address], load_history=load) as client:
        scores = await client.score("u", [1], min_history_version=5)
    assert asked == ["u"]
    assert [rpc for rpc, _ in pod.calls] == ["ScoreCandidates", "EncodeContext", "ScoreCandidates"]
    assert pod.requests[1].history_version == 5
    assert [r.min_history_version for r in (pod.requests[0], pod.requests[2])] == [5, 5]
    assert pod.requests[2].model_fingerprint == FINGERPRINT  # the one that encoded
    assert (scores.encoded, scores.attempts) == (True, 2)


async def test_a_second_miss_is_raised(pod: StubPod) -> None:
    async def load(user: str) -> Actions:
        return ACTIONS

    pod.always["ScoreCandidates"] = KVMissError("u", MissCause.TOO_OLD)
    async with RankingClient([pod.address], [pod.address], load_history=load) as client:
        with pytest.raises(KVMissError) as caught:
            await client.score("u", [1], min_history_version=5)
    assert (caught.value.user, caught.value.cause) == ("u", MissCause.TOO_OLD)
    assert pod.users("EncodeContext") == ["u"]


async def test_a_miss_without_loader_is_raised(pod: StubPod, client: RankingClient) -> None:
    pod.next("ScoreCandidates", KVMissError("u", MissCause.ABSENT))
    with pytest.raises(KVMissError, match="no usable KV entry for user 'u'"):
        await client.score("u", [1])
    assert len(pod.calls) == 1


async def test_an_expected_model_that_nobody_encodes_with_is_a_mismatch(pod: StubPod) -> None:
    async def load(user: str) -> Actions:
        return ACTIONS

    pod.next("ScoreCandidates", KVMissError("u", MissCause.ABSENT))
    async with RankingClient([pod.address], [pod.address], load_history=load) as client:
        with pytest.raises(ModelMismatchError, match="cdcd"):
            await client.score("u", [1], model_fingerprint="cd" * 16)


async def test_an_invalid_field_keeps_its_name_and_is_not_repeated(
    pod: StubPod, client: RankingClient
) -> None:
    pod.always["ScoreCandidates"] = InvalidFieldError("item_ids", "none; send one")
    with pytest.raises(InvalidFieldError, match=r"^item_ids: none; send one$") as caught:
        await client.score("u", [])
    assert (caught.value.field, caught.value.problem) == ("item_ids", "none; send one")
    assert len(pod.calls) == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"item_ids": [-1]}, "item_ids: -1"),
        ({"item_ids": [0.5]}, "item_ids: float64"),
        ({"item_ids": [[1], [2]]}, r"item_ids: shape \[2, 1\]"),
        ({"surfaces": [2**32]}, "surfaces: 4294967296"),
        ({"features": [["x"]]}, "features: "),
        ({"user_id": "\ud800"}, "user_id: "),
        ({"features": [[1.0], [2.0]]}, r"features: shape \[2, 1\]"),
        ({"features": [1.0]}, r"features: shape \[1\]"),
        ({"request_time_s": 1.5}, "request_time_s: 1.5; send a whole number"),
        ({"min_history_version": -1}, "request: "),
        ({"timeout_s": 0}, "timeout_s: 0"),
    ],
)
async def test_values_that_the_wire_cannot_carry_are_refused(
    pod: StubPod, client: RankingClient, arguments: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidFieldError, match=rf"^{field}"):
        await client.score(**{"user_id": "u", "item_ids": [1], **arguments})  # type: ignore[arg-type]
    assert pod.calls == []


async def test_a_wrong_target_is_refused() -> None:
    for context, affinity in (("", "auto"), ([], "auto"), (["a:1", "b:2"], "ring_hash")):
        with pytest.raises(InvalidFieldError, match=r"^context: "):
            async with RankingClient(context, ["127.0.0.1:1"], affinity=affinity):  # type: ignore[arg-type]
                pass
