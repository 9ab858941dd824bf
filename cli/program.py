"""How the command is called here, for messages that tell the reader what to type next."""

from __future__ import annotations

import os
import shutil
import sys

_NAME = "crosskv"


def program() -> str:
    """`crosskv`, or its path as it was called when the name alone does not lead to it."""
    called = sys.argv[0]
    if os.path.basename(called) != _NAME or os.sep not in called:
        return _NAME
    found = shutil.which(_NAME)  # a shell that finds it in PATH passes the path it has found
    return _NAME if found and os.path.realpath(found) == os.path.realpath(called) else called
