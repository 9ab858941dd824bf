"""What a request may say, and how the reader refuses the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossing_service.candidates import CandidateReader
from crosskv.v1 import crossing_pb2
from shared.errors import InvalidFieldError, ModelMismatchError
from tests.crossing_service.house import FINGERPRINT, as_parsed
from tests.tiny_model import tiny_config

NOW = 1_800_000_000.9


def reader(**form: Any) -> CandidateReader:
    return CandidateReader(tiny_config(**form), FINGERPRINT, max_candidates=5, now=lambda: NOW)


def request(**fields: Any) -> crossing_pb2.ScoreCandidatesRequest:
    return as_parsed(
        crossing_pb2.ScoreCandidatesRequest(**{"user_id": "u", "item_ids": [1, 2], **fields})
    )


def test_every_field_arrives() -> None:
    ids = [0, 2**64 - 1, 2**63, 5, 5]
    features = np.arange(15, dtype=np.float32)
    read = reader().read(
        request(
            item_ids=ids,
            surfaces=[1, 0, 1, 0, 0],
            features=features,
            tasks=["like", "watch"],
            request_time_s=77,
            model_fingerprint=FINGERPRINT,
        )
    )
    assert read.item_ids.tolist() == ids
    assert read.surfaces is not None
    assert read.surfaces.tolist() == [1, 0, 1, 0, 0]
    assert read.features is not None
    np.testing.assert_array_equal(read.features, features.reshape(5, 3))
    assert read.tasks == (1, 0)
    assert read.request_time_s == 77


def test_what_is_left_out_has_a_meaning() -> None:
    read = reader().read(request())
    assert read.surfaces is None
    assert read.features is None
    assert read.tasks == (0, 1)
    assert read.request_time_s == int(NOW)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no candidates": ({"item_ids": []}, "item_ids: no candidates; send at least one"),
    "too many": ({"item_ids": [1] * 6}, "item_ids: 6 candidates, at most 5"),
    "surfaces too few": ({"surfaces": [1]}, "surfaces: 1 values for 2 candidates"),
    "surfaces too many": ({"surfaces": [1, 0, 0]}, "surfaces: 3 values for 2 candidates"),
    "surface unknown": ({"surfaces": [1, 2]}, r"surfaces\[1\]: 2, .* 0 to 1 \(home, search"),
    "surface huge": ({"surfaces": [2**32 - 1, 0]}, r"surfaces\[0\]: 4294967295, the"),
    "features ragged": ({"features": [0.0] * 5}, r"features: 5 values, expected 6 \(3 for each"),
    "features for one": ({"features": [0.0] * 3}, "features: 3 values, expected 6"),
    "feature NaN": (
        {"features": [0, 1, 2, 3, float("nan"), 5]},
        "features: nan at candidate 1, feature 1",
    ),
    "feature infinite": (
        {"features": [0, 0, float("-inf"), 0, 0, 0]},
        "features: -inf at candidate 0, feature 2",
    ),
    "time negative": ({"request_time_s": -1}, "request_time_s: -1 is negative"),
    "task unknown": ({"tasks": ["like", "buy"]}, "tasks: 'buy' is unknown; .* watch, like"),
    "task empty": ({"tasks": [""]}, "tasks: '' is unknown"),
    "task twice": ({"tasks": ["like", "like"]}, "tasks: 'like' is named twice"),
}


@pytest.mark.parametrize(("fields", "message"), BAD.values(), ids=BAD)
def test_bad_fields_are_named_with_value_and_way_out(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message) as raised:
        reader().read(request(**fields))
    assert raised.value.field.partition("[")[0] in fields


def test_a_long_text_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidFieldError) as raised:
        reader().read(request(tasks=["x" * 10_000]))
    assert len(str(raised.value)) < 200


def test_features_for_a_model_that_takes_none() -> None:
    with pytest.raises(InvalidFieldError, match="features: 2 values, but the model takes none"):
        reader(feature_dim=0).read(request(features=[0.0, 0.0]))


def test_another_model_is_refused_before_its_fields_are_judged() -> None:
    with pytest.raises(
        ModelMismatchError, match=rf"model_fingerprint: '{'f' * 32}'.*{FINGERPRINT}"
    ):
        reader().read(request(model_fingerprint="f" * 32, surfaces=[99, 99]))
