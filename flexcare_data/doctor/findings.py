"""Findings of the doctor: what was checked, expected and found, and what to do; and the report of all findings."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One check: its subject, what was expected and found, and what to do."""

    level: Level
    what: str
    found: str
    expected: str = ""
    do: str = ""


@dataclass
class Report:
    """All findings, and the numbers behind them.

    Attributes:
        editions: data set -> edition(s) that it can be.
        rows: table -> rows, and whether they were counted or estimated.
        needs: bytes of disk and memory that the build needs, by part, and that are available.
    """

    findings: list[Finding] = field(default_factory=list)
    editions: dict[str, str] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True without errors."""
        return not any(finding.level == "error" for finding in self.findings)

    def add(self, level: Level, what: str, found: str, *, expected: str = "", do: str = "") -> None:
        self.findings.append(Finding(level, what, found, expected, do))

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {"ok": self.ok} | dataclasses.asdict(self)

    def text(self, levels: tuple[Level, ...] = LEVELS) -> str:
        """Findings as lines, errors first."""
        lines = []
        for level in levels:
            for finding in self.findings:
                if finding.level == level:
                    expected = f"; expected {finding.expected}" if finding.expected else ""
                    lines.append(f"{level:8} {finding.what}: {finding.found}{expected}")
                    lines += [f"         -> {finding.do}"] if finding.do else []
        n = {level: sum(finding.level == level for finding in self.findings) for level in LEVELS}
        counts = ", ".join(f"{n[level]} {level}{'s' * (n[level] != 1)}" for level in LEVELS[:2])
        return "\n".join([*lines, f"{'no problem found' if self.ok and not n['warning'] else counts}"])
