"""Runs a command that dies with the process that started it, even if that one is killed -9.

Started as a script (`python -I -S leash.py PARENT_PID COMMAND...`), so that the parent need not run
Python code between fork and exec, which is unsafe once gRPC has started threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call above could tie us to it
            raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
