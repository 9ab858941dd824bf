"""A figure's bound: what it must reach, what it is aimed at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bound:
    """How a figure is judged; without `must` it is stated only."""

    text: str
    must: float | None = None
    aim: float | None = None
    at_least: bool = True
    """Else at most."""

    def judged(self, value: float | None) -> dict[str, object]:
        """As it stands in a record.

        `reached` is "aim", "must", "missed", "stated" (nothing was asked) or "not measured".
        """
        return {
            "text": self.text,
            "value": None if value is None else round(value, 4),
            "at_least": self.at_least,
            "must": self.must,
            "aim": self.aim,
            "reached": self._reached(value),
        }

    def _reached(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        sign = 1 if self.at_least else -1
        for name, wanted in (("aim", self.aim), ("must", self.must)):
            if wanted is not None and sign * value >= sign * wanted:
                return name
        return "stated" if self.must is None else "missed"
