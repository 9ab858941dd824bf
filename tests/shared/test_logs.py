"""Logs: one JSON object a line, traces without the values that were on the stack."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import structlog
from shared.logs import configure_logs

configure_logs("crossing", "info")
log = structlog.get_logger()
log.debug("too detailed")
log.info("serving", address="here")

def score(user_id):
    raise ZeroDivisionError

try:
    score("secret-user")
except ZeroDivisionError:
    log.exception("unforeseen_error", rpc="ScoreCandidates")
"""


def test_lines_are_json_and_traces_hold_no_values() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert "secret-user" not in run.stderr
    serving, failure = map(json.loads, run.stderr.splitlines())
    assert (serving["event"], serving["level"], serving["service"]) == (
        "serving",
        "info",
        "crossing",
    )
    assert failure["rpc"] == "ScoreCandidates"
    (trace,) = failure["exception"]
    assert trace["exc_type"] == "ZeroDivisionError"
    assert trace["frames"][-1]["name"] == "score"
