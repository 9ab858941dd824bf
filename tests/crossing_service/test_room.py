"""Limits that contradict each other are refused at start-up."""

from __future__ import annotations

import pytest

from crossing_service.app import require_room
from shared.settings import SettingsError


def test_the_defaults_fit() -> None:
    require_room(4 << 20, 4096, 250)


def test_candidates_that_no_message_holds() -> None:
    with pytest.raises(SettingsError, match="MAX_MESSAGE_BYTES: 4194304 is less than the 42"):
        require_room(4 << 20, 4096, 254)
