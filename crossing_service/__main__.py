"""`python -m crossing_service`."""

from __future__ import annotations

from crosskv_guard import refuse_shadowed_packages

refuse_shadowed_packages()

from crossing_service.app import main  # noqa: E402  only after the check above

main()
