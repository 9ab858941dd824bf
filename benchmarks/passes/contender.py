"""One of our ways through both passes: a kind of entries, compiled or not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from benchmarks.graph_timing import Run, told
from benchmarks.passes.our_passes import OurPasses
from benchmarks.passes.workload import Variant

COMPILED = " compiled"
"""What stands behind the name of a compiled contender."""
MOST_DIFFERENCE = 0.02
"""Relative, between two ways to the same scores; bf16 gives a tenth of it."""


class Contender:
    """Checked, then timed."""

    def __init__(self, variant: Variant, passes: OurPasses, compiled: bool) -> None:
        self._name = f"{variant}{COMPILED}" if compiled else str(variant)
        self._passes, self._compiled = passes, compiled
        self.runs: dict[str, Run] = passes.runs(compiled=compiled)
        """Context and crossing pass."""
        self.about: dict[str, Any] = {
            "form": variant.form,
            "router_keys": "product" if variant.product_keys else "full",
            "pool_rows": variant.pool_rows,
            "compiled": compiled,
        }
        """What stands in the record besides times."""

    def __str__(self) -> str:
        return self._name

    def check(self) -> str | None:
        """Adds errors to `about`; tells what is wrong."""
        try:
            accuracy = self._passes.accuracy(compiled=self._compiled)
            self.about["error"] = {"ours": accuracy.ours, "torch": accuracy.torch}
            difference = self._passes.difference() if self._compiled else None
        except Exception as error:  # Triton's errors have no other base
            return told(error)
        if not accuracy.passed:
            return (
                f"relative error of the scores {accuracy.ours:.2e}, "
                f"torch on a CPU in bf16 {accuracy.torch:.2e}"
            )
        if difference is not None:
            self.about["difference"] = asdict(difference)
            if not difference.crossing <= MOST_DIFFERENCE:
                return f"scores differ by {difference.crossing:.2e} from those not compiled"
        return None
