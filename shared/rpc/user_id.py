"""The one rule for user ids."""

from __future__ import annotations

from shared.errors import InvalidFieldError

MAX_USER_BYTES = 256


def prove_user_id(user_id: str) -> str:
    """`user_id` itself, which is 1 to 256 bytes of UTF-8.

    Raises:
        InvalidFieldError: it is empty or longer.
    """
    size = len(user_id.encode())
    if size == 0:
        raise InvalidFieldError("user_id", f"empty; send 1 to {MAX_USER_BYTES} bytes")
    if size > MAX_USER_BYTES:
        raise InvalidFieldError(
            "user_id",
            f"{size} bytes ({user_id[:16]!r} ...), at most {MAX_USER_BYTES} are allowed",
        )
    return user_id
