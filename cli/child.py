"""One process of the local stack: in a group of its own, logged to a file, never left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from cli.failure import CommandError

_LEASH = Path(__file__).with_name("leash.py")
_TAIL_LINES = 12
_TAIL_BYTES = 64 << 10


class ChildProcess:
    """A running command.

    It has a process group of its own, so that Ctrl-C reaches only the parent, which then stops its
    children in order; and it dies with the parent whatever happens to that.
    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id; also the id of its group."""
        return self._process.pid

    def check(self) -> None:
        """Return if the process runs.

        Raises:
            CommandError: it has ended; the message holds the end of its log.
        """
        status = self._process.poll()
        if status is not None:
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            raise CommandError(f"the {self.name} ended with {how}. {self.log_tail()}")

    def log_tail(self) -> str:
        """Where the log is and its last lines, to be put behind a message."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        if not lines:
            return f"Its log {self.log} is empty."
        return f"Its log {self.log} ends with:\n  " + "\n  ".join(lines)

    def terminate(self) -> None:
        """Ask the process to end; returns at once."""
        self._signal_group(signal.SIGTERM)

    def wait(self, grace_s: float) -> None:
        """Wait until the process has ended, for at most `grace_s` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)

    def kill(self) -> None:
        """End the process and all it has started, whatever they do; returns when it has ended."""
        self._signal_group(signal.SIGKILL)
        self._process.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # the whole group has ended
            os.killpg(self.pid, number)
