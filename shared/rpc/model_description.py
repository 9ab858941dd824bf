"""A checkpoint as `DescribeModel` of either service describes it."""

from __future__ import annotations

from crosskv.v1 import model_pb2
from shared.model.checkpoint import Checkpoint
from shared.rpc.wire import build


def describe_model(checkpoint: Checkpoint, max_candidates: int) -> model_pb2.ModelDescription:
    """The description of `checkpoint`; `max_candidates` is the crossing service's limit."""
    config = checkpoint.config
    return build(
        model_pb2.ModelDescription,
        fingerprint=checkpoint.fingerprint,
        tasks=config.tasks,
        feature_dim=config.feature_dim,
        max_history=config.max_history,
        max_candidates=max_candidates,
        action_types=config.action_types,
        surfaces=config.surfaces,
        config_json=config.model_dump_json(indent=2),
    )
