"""The RPCs of `crosskv.v1.CrossingService`."""

from __future__ import annotations

from crossing_service.candidates import CandidateReader
from crossing_service.metrics import ENTRIES_USED
from crossing_service.residency import Residency, Source
from crossing_service.scorer import Scored, ScoreWork
from crosskv.v1 import crossing_pb2
from shared.metrics import UNKNOWN_ITEMS
from shared.model.checkpoint import Checkpoint
from shared.rpc.batcher import Batcher
from shared.rpc.deadline import Deadline
from shared.rpc.model_description import describe_model
from shared.rpc.user_id import prove_user_id
from shared.rpc.wire import build

_SOURCES = {
    Source.DEVICE: crossing_pb2.ENTRY_SOURCE_DEVICE,
    Source.STORE: crossing_pb2.ENTRY_SOURCE_STORE,
}


class CrossingServicer:
    """Scores candidates against published entries; nothing is scored without one."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: CandidateReader,
        residency: Residency,
        batcher: Batcher[ScoreWork, Scored],
        max_candidates: int,
    ) -> None:
        self._fingerprint = checkpoint.fingerprint
        self._task_names = checkpoint.config.tasks
        self._description = describe_model(checkpoint, max_candidates)
        self._reader = reader
        self._residency = residency
        self._batcher = batcher
        self._used = {source: ENTRIES_USED.labels(source.value) for source in Source}

    async def ScoreCandidates(  # noqa: N802
        self, request: crossing_pb2.ScoreCandidatesRequest, deadline: Deadline
    ) -> crossing_pb2.ScoreCandidatesResponse:
        """Score one user's candidates for every asked task."""
        user = prove_user_id(request.user_id)
        candidates = self._reader.read(request)
        with await self._residency.acquire(user, request.min_history_version, deadline) as lease:
            self._used[lease.source].inc()
            scored = await self._batcher.submit(ScoreWork(lease.entry, candidates), deadline)
        UNKNOWN_ITEMS.inc(scored.unknown_items)
        header = lease.entry.header
        return build(
            crossing_pb2.ScoreCandidatesResponse,
            scores=scored.scores,
            tasks=[self._task_names[task] for task in candidates.tasks],
            model_fingerprint=self._fingerprint,
            history_version=header.history_version,
            history_tokens=header.tokens,
            unknown_items=scored.unknown_items,
            entry_source=_SOURCES[lease.source],
        )

    async def PrefetchContext(  # noqa: N802
        self, request: crossing_pb2.PrefetchContextRequest, deadline: Deadline
    ) -> crossing_pb2.PrefetchContextResponse:
        """Bring the user's entry onto the device, so that scoring need not wait for the store."""
        user = prove_user_id(request.user_id)
        with await self._residency.acquire(user, request.min_history_version, deadline) as lease:
            header = lease.entry.header
        return build(
            crossing_pb2.PrefetchContextResponse,
            history_version=header.history_version,
            history_tokens=header.tokens,
            entry_source=_SOURCES[lease.source],
        )

    async def DescribeModel(  # noqa: N802
        self, request: crossing_pb2.CrossingServiceDescribeModelRequest, deadline: Deadline
    ) -> crossing_pb2.CrossingServiceDescribeModelResponse:
        """Describe the model that scores."""
        return build(crossing_pb2.CrossingServiceDescribeModelResponse, model=self._description)
