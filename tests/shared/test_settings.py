"""Settings: read from the environment, unknown and wrong ones refused, all of them documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import SettingsError, StoreSettings, read_settings, reference, variables


class Own(BaseSettings):
    """A service's own section."""

    model_config = SettingsConfigDict(env_prefix="CROSSKV_CONTEXT_", frozen=True)

    max_queue: int = Field(8, ge=1, description="Most waiting work.")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("CROSSKV_SERVER_PORT", "5001")
    monkeypatch.setenv("CROSSKV_MODEL_CHECKPOINT", "somewhere")
    return monkeypatch


def test_every_section_is_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROSSKV_STORE_TTL_S", "60")
    environment.setenv("CROSSKV_CONTEXT_MAX_QUEUE", "3")
    server, store, model, own = read_settings(Own)
    assert (server.port, store.ttl_s, model.checkpoint) == (5001, 60, Path("somewhere"))
    assert own.max_queue == 3


def test_the_other_service_may_have_its_own_variables(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROSSKV_CROSSING_MAX_QUEUE", "3")
    read_settings(Own)


@pytest.mark.parametrize("name", ["CROSSKV_STOER_URL", "CROSSKV_STORE_URI", "CROSSKV_CONTEXT_MAX"])
def test_an_unknown_variable_is_refused_by_name(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "1")
    with pytest.raises(SettingsError, match=f"{name}: unknown setting"):
        read_settings(Own)


def test_all_problems_are_named_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("CROSSKV_MODEL_CHECKPOINT")
    environment.setenv("CROSSKV_SERVER_PORT", "70000")
    environment.setenv("CROSSKV_CONTEXT_MAX_QUEUE", "0")
    with pytest.raises(SettingsError) as refusal:
        read_settings(Own)
    text = str(refusal.value)
    assert "CROSSKV_MODEL_CHECKPOINT: not set; it is required" in text
    assert "CROSSKV_SERVER_PORT: " in text
    assert "got '70000'" in text
    assert "CROSSKV_CONTEXT_MAX_QUEUE: " in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CROSSKV_MODEL_DEVICE", "gpu"),
        ("CROSSKV_MODEL_DEVICE", "cuda:99"),
        ("CROSSKV_STORE_URL", "http://127.0.0.1:6379"),
        ("CROSSKV_STORE_URL", "redis://127.0.0.1:notaport/0"),
        ("CROSSKV_STORE_URL", "redis://127.0.0.1:70000/0"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as refusal:
        read_settings(Own)
    assert (f"got '{value}'" in str(refusal.value)) == (name == "CROSSKV_MODEL_DEVICE")


def test_a_password_is_not_repeated(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROSSKV_STORE_URL", "redis+sentinel://:hunter2@store:26379/0")
    with pytest.raises(SettingsError, match="CROSSKV_STORE_URL: ") as refusal:
        read_settings(Own)
    assert "hunter2" not in str(refusal.value)


def test_the_reference_lists_every_variable_with_its_meaning() -> None:
    table = reference((StoreSettings, Own))
    for section in (StoreSettings, Own):
        for name, field in variables(section).items():
            assert f"| `{name}` |" in table
            assert section.model_fields[field].description
