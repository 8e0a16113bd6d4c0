"""Provenance and cost of a build: the stages behind its files, and the time and memory of its jobs.

In: `Results`. Out: `StageOrigin`s, the fingerprint of the cohorts, and `Layout`s of the workflow's benchmark files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.store.folders import MANIFEST
from flexcare_model.report.numbers.layout import Cell, Layout, number, words
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.suppression import count_text, is_small


@dataclass(frozen=True)
class StageOrigin:
    """Origin of a published part of the output: its stage's key and the spec behind the key."""

    parts: tuple[str, ...]
    stage: str
    spec: dict[str, Any]
    versions: dict[str, str]


def origins(results: Results) -> list[StageOrigin]:
    """The stored stages behind `data/` and `cohorts/`, found by following the links, sorted by name."""
    behind: dict[Path, list[str]] = {}
    for top in ("data", "cohorts"):
        for path in sorted((results.root / top).rglob("*")):
            if path.is_file():
                stage = next((parent for parent in path.resolve().parents if (parent / MANIFEST).is_file()), None)
                if stage is not None:
                    behind.setdefault(stage, []).append(path.relative_to(results.root).as_posix())
    found = []
    for stage, parts in behind.items():
        manifest = json.loads((stage / MANIFEST).read_text())
        found.append(StageOrigin(tuple(parts), stage.name, manifest.get("spec", {}), manifest.get("versions", {})))
    return sorted(found, key=lambda origin: origin.stage)


def fingerprint(results: Results, *, below: int) -> tuple[tuple[str, ...], list[tuple[str, ...]], str] | None:
    """Header and rows of the fingerprint by task, and its total; None where it was not made.

    A task with few samples has no digests: in the file it has none, and here its number is a bound.
    """
    written = results.json("data/fingerprint.json")
    if not written:
        return None
    parts = list(dict.fromkeys(part for task in written["tasks"].values() for part in task["parts"]))
    rows = []
    for name, task in written["tasks"].items():
        n = task["samples"]
        hidden = not isinstance(n, int) or is_small(n, below)
        digests = ["–" if hidden else task["parts"][part]["digest"][:8] for part in parts]
        rows.append((name, count_text(n, below) if isinstance(n, int) else str(n), *digests))
    return ("Task", "Samples", *map(str.capitalize, parts)), rows, written["total"]


def resources(results: Results, keys: Collection[str] | None = None) -> tuple[Layout, Layout] | None:
    """Wall time and peak memory from the workflow's benchmark files: by rule, and of every job.

    Args:
        keys: of the products whose jobs are shown; None: all jobs that are found.
    """
    jobs = []
    newest: dict[str, Path] = {}
    for path in sorted((results.root / "benchmarks").rglob("*.tsv"), key=lambda path: path.stat().st_mtime):
        # A name has its key at its end, or before the number of a part; the section on sources shows the key.
        name = path.relative_to(results.root / "benchmarks").with_suffix("").as_posix()
        stem, key, part = re.fullmatch(r"(.*?)(?:-([0-9a-f]{12}))?(-part\w+)?", name).groups("")  # type: ignore[union-attr]
        if keys is None or key in keys:
            newest[stem + part] = path
    for name, path in sorted(newest.items()):
        measured = pl.read_csv(path, separator="\t", infer_schema=False, null_values=["-", "NA"])
        if not {"s", "max_rss"} <= set(measured.columns) or measured.height == 0:
            continue
        seconds, memory = (measured[column].cast(pl.Float64, strict=False).max() for column in ("s", "max_rss"))
        jobs.append({"rule": name.split("/")[0], "job": name, "seconds": seconds, "max_rss_mb": memory})
    if not jobs:
        return None
    schema = {"rule": pl.String, "job": pl.String, "seconds": pl.Float64, "max_rss_mb": pl.Float64}
    frame = pl.DataFrame(jobs, schema=schema)
    rules = frame.group_by("rule", maintain_order=True).agg(
        jobs=pl.len(),
        seconds=pl.col("seconds").sum(),
        longest=pl.col("seconds").max(),
        max_rss_mb=pl.col("max_rss_mb").max(),
    )
    header = ("Rule", "Jobs", "Time, s", "Longest job, s", "Peak memory, MB")
    rows = tuple(
        (words(row["rule"]), number(str(row["jobs"])), *map(_one_decimal, list(row.values())[2:]))
        for row in rules.to_dicts()
    )
    by_rule = Layout("resources", "Time and peak memory per rule", header, rows, rules)
    rows = tuple(
        (words(row["job"]), _one_decimal(row["seconds"]), _one_decimal(row["max_rss_mb"])) for row in frame.to_dicts()
    )
    return by_rule, Layout("jobs", "Time and peak memory per job", ("Job", "Time, s", "Peak memory, MB"), rows, frame)


def _one_decimal(value: float | None) -> Cell:
    return number("–" if value is None else f"{value:,.1f}")
