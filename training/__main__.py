"""`python -m training`: the study that makes `checkpoints/ml-100k`."""

from __future__ import annotations

import argparse
from pathlib import Path

from shared.errors import CrossKVError
from training.study import run_study


def main() -> None:
    """Parse the command line and run the study."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with ml-100k.inter and ml-100k.item")
    parser.add_argument("--out", type=Path, default=Path("checkpoints/ml-100k"))
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant (default 3)")
    options = parser.parse_args()
    try:
        run_study(options.data, options.out, options.seeds)
    except (CrossKVError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; nothing was written\n")


if __name__ == "__main__":
    main()
