"""The cohorts as tables that may be published: sizes, prevalence, missing values, dropped values, leakage certificate.

In: `Results`, the count below which a cell is suppressed. Out: `Layout`s; None where an input is absent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from flexcare_data.scaler import implausible
from flexcare_data.tasks import TASKS
from flexcare_data.variables import VARIABLES
from flexcare_model.report.numbers.layout import Cell, Layout, number, words
from flexcare_model.report.numbers.results import SPLITS, Results
from flexcare_model.report.numbers.suppression import (
    HIDDEN,
    count_text,
    is_count,
    is_near,
    is_small,
    partition_texts,
    share_text,
)

MOST_CLASSES = 30
"""A task with more classes is summarised instead of listed."""


def cohort_sizes(results: Results, *, below: int) -> Layout | None:
    """Samples and patients per task and split."""
    if not results.cohorts:
        return None
    rows, records = [], []
    for name, cohort in results.cohorts.items():
        samples = [cohort.filter(pl.col("split") == split).height for split in SPLITS]
        patients = [cohort.filter(pl.col("split") == split)["subject_id"].n_unique() for split in SPLITS]
        cells = [words(TASKS[name].abbreviation), words(TASKS[name].description)]
        cells += [number(count_text(cohort.height, below)), *map(number, partition_texts(samples, below))]
        cells += map(number, partition_texts(patients, below))
        rows.append(tuple(cells))
        record: dict[str, Any] = {"task": name}
        for split, text in zip(SPLITS, partition_texts(samples, below), strict=True):
            record[f"samples_{split}"] = text.replace(",", "")
        for split, text in zip(SPLITS, partition_texts(patients, below), strict=True):
            record[f"patients_{split}"] = text.replace(",", "")
        records.append(record)
    header = ("Task", "Question", "Samples", *SPLITS, "Patients train", "val", "test")
    return Layout("cohorts", "Samples and patients by split", header, tuple(rows), pl.DataFrame(records))


def prevalence(results: Results, *, below: int) -> list[Layout]:
    """Share of each answer among the samples of a split, one table per task.

    Entries that were not assessed (below 0: uncertain, blank) are not counted.
    """
    layouts = []
    for name, cohort in results.cohorts.items():
        task = TASKS[name]
        parts = {split: cohort.filter(pl.col("split") == split) for split in SPLITS}
        title = f"{task.abbreviation}: {task.description}"
        if task.kind == "multiclass":
            layout = _classes(name, title, parts, below)
        else:
            layout = _positives(name, title, task.labels, parts, below)
        layouts.append(layout)
    return layouts


def _positives(name: str, title: str, labels: tuple[str, ...], parts: dict[str, pl.DataFrame], below: int) -> Layout:
    rows, records = [], []
    for label in labels:
        values = {split: part[label].to_numpy() for split, part in parts.items()}
        known = {split: int((found >= 0).sum()) for split, found in values.items()}
        sizes = dict(zip(parts, partition_texts(list(known.values()), below), strict=True))
        # Other tables show the samples of a split. A small number of unassessed samples must not be computable.
        sizes = {s: HIDDEN if is_near(known[s], [parts[s].height], below) else text for s, text in sizes.items()}
        cells: list[Cell] = [words("positive" if label == "label" else label)]
        record: dict[str, Any] = {"label": label}
        for split, found in values.items():
            share = share_text(int((found == 1).sum()), known[split], below, decimals=1)
            if not is_count(sizes[split]):
                share = HIDDEN  # the bound of a small share would reveal the size
            cells += [number(share), number(sizes[split])]
            record |= {f"positive_percent_{split}": share, f"assessed_{split}": sizes[split]}
        rows.append(tuple(cells))
        records.append(record)
    header = ["Label"]
    for split in parts:
        header += [f"{split} positive %", "assessed"]
    return Layout(f"prevalence_{name}", title, tuple(header), tuple(rows), pl.DataFrame(records))


def _classes(name: str, title: str, parts: dict[str, pl.DataFrame], below: int) -> Layout:
    counts = {split: np.bincount(part["label"].to_numpy()) for split, part in parts.items()}
    n_classes = max(len(found) for found in counts.values()) if counts else 0
    counts = {split: np.pad(found, (0, n_classes - len(found))) for split, found in counts.items()}
    header = ["Class", *(f"{split} %" for split in parts)]
    if n_classes > MOST_CLASSES:
        facts = (
            ("classes", lambda found: str(int((found > 0).sum()))),
            ("classes without a sample", lambda found: str(int((found == 0).sum()))),
            (f"classes with 1 to {below - 1} samples", lambda found: str(int(((found > 0) & (found < below)).sum()))),
            ("largest class, %", lambda found: share_text(int(found.max()), int(found.sum()), below, decimals=1)),
        )
        rows = tuple((words(fact), *(number(count(counts[split])) for split in parts)) for fact, count in facts)
    else:
        shown = {split: _partition_shares(found.tolist(), below) for split, found in counts.items()}
        rows = tuple(
            (words(_class_title(name, index)), *(number(shown[split][index]) for split in parts))
            for index in range(n_classes)
        )
    frame = pl.DataFrame(
        [{"class": row[0].text} | dict(zip(parts, (c.text for c in row[1:]), strict=True)) for row in rows]
    )
    return Layout(f"prevalence_{name}", title, tuple(header), rows, frame)


def _partition_shares(counts: list[int], below: int) -> list[str]:
    total = sum(counts)
    texts = partition_texts(counts, below)
    return [
        HIDDEN if text == HIDDEN else share_text(count, total, below, decimals=1)
        for text, count in zip(texts, counts, strict=True)
    ]


def _class_title(task: str, index: int) -> str:
    classes = TASKS[task].classes
    return classes[index] if classes else str(index)


def missing_values(results: Results, *, below: int) -> Layout | None:
    """Share of (stay, hour) cells without a charted value, per variable and split."""
    index, splits, stays = (results.parquet(f"data/{name}.parquet") for name in ("hourly/index", "splits", "stays"))
    path = results.root / "data/hourly/observed.npy"
    if index is None or splits is None or stays is None or not path.is_file():
        return None
    observed = np.load(path, mmap_mode="r", allow_pickle=False)
    named = (
        index.join(stays.select("stay_id", "subject_id"), on="stay_id", how="left", validate="1:1")
        .join(splits, on="subject_id", how="left", validate="m:1")
        .sort("offset")
    )
    hours = dict.fromkeys(SPLITS, 0)
    charted = {split: np.zeros(len(VARIABLES), dtype=np.int64) for split in SPLITS}
    for split in SPLITS:
        of_split = (named["split"] == split).fill_null(False).to_numpy()
        offsets, lengths = named["offset"].to_numpy()[of_split], named["n_hours"].to_numpy()[of_split]
        hours[split] = int(lengths.sum())
        for offset, length in zip(offsets, lengths, strict=True):
            charted[split] += observed[offset : offset + length].sum(axis=0, dtype=np.int64)
    rows, records = [], []
    for position, variable in enumerate(VARIABLES):
        texts = [share_text(hours[split] - int(charted[split][position]), hours[split], below) for split in SPLITS]
        rows.append((words(variable), *map(number, texts)))
        records.append({"variable": variable} | {f"missing_percent_{s}": t for s, t in zip(SPLITS, texts, strict=True)})
    total = ", ".join(f"{split} {count_text(hours[split], below)}" for split in SPLITS)
    return Layout(
        "missing_values",
        "Hours without a charted value, percent of all (stay, hour) cells",
        ("Variable", *SPLITS),
        tuple(rows),
        pl.DataFrame(records),
        (f"Hours: {total}. Filled forward, then by default, for the models; the mask columns keep what was charted.",),
    )


def implausible_scaling(results: Results) -> Layout | None:
    """Standard deviations of the scaler that no plausible values have; None where there are none."""
    scaler = results.json("data/hourly/scaler.json")
    found = implausible(scaler) if scaler else []
    if not found:
        return None
    rows, records = [], []
    for of in found:
        texts = [f"{of.std:,.0f}", "–" if of.published is None else f"{of.published:,.1f}", f"{of.highest:,.1f}"]
        rows.append((words(of.variable), *map(number, texts)))
        records.append({"variable": of.variable, "std": of.std, "published": of.published, "highest": of.highest})
    schema = {"variable": pl.String} | dict.fromkeys(("std", "published", "highest"), pl.Float64)
    header = ("Variable", "Standard deviation", "published", "highest of plausible values")
    notes = (
        "Numbers between two limits have a standard deviation of at most half their distance. A larger one proves that "
        "values outside the plausible limits were used (`scaler: train` without `ranges: on`); the standardised values "
        "of this variable are almost constant.",
    )
    title = "Standard deviations that no plausible values have"
    return Layout("implausible_scaling", title, header, tuple(rows), pl.DataFrame(records, schema=schema), notes)


def dropped(results: Results, *, below: int) -> Layout | None:
    """Values that were dropped or nulled, by table, variable and reason."""
    written = results.json("data/dropped.json")
    if written is None:
        return None
    rows, records = [], []
    read = results.json("data/flow.json") or {}
    for table in sorted(written):
        cells = [(v, reason, int(n)) for v in sorted(written[table]) for reason, n in sorted(written[table][v].items())]
        counts = [count for _, _, count in cells]
        # Of a table whose rows read and used are shown, all that was dropped is known.
        texts = partition_texts(counts, below) if table in read else [count_text(count, below) for count in counts]
        for (variable, reason, _), text in zip(cells, texts, strict=True):
            named = (words(table), words(variable or "–"), words(reason.replace("_", " ")), number(text))
            rows.append(named)
            records.append({"table": table, "what": variable, "reason": reason, "count": text.replace(",", "")})
    frame = pl.DataFrame(
        records, schema={"table": pl.String, "what": pl.String, "reason": pl.String, "count": pl.String}
    )
    header = ("Table", "What", "Reason", "Count")
    return Layout("dropped", "Dropped and nulled values by reason", header, tuple(rows), frame, grouped=2)


def audit(results: Results, *, below: int) -> list[Layout]:
    """The leakage certificate: each check with its question, and what breaks it by the published design, by task.

    A build with a violation fails, so the certificate of a finished build has none.
    """
    written = results.json("data/leakage.json")
    if written is None:
        return []
    checks = written["checks"]
    rows = [
        (
            words(_title(name)),
            words(check["question"]),
            number(count_text(check["rows_checked"], below)),
            words(f"{check['violations']} violations" if "violations" in check else "counted by task below"),
        )
        for name, check in checks.items()
    ]
    frame = pl.DataFrame([[cell.text for cell in row] for row in rows], orient="row", schema=list(_CHECKS))
    chosen = ", ".join(f"{words(name).text} {value}" for name, value in written["options"].items())
    layouts = [
        Layout(
            "leakage", "Checks of every sample", tuple(_CHECKS.values()), tuple(rows), frame, (f"Options: {chosen}.",)
        )
    ]
    by_design = [name for name, check in checks.items() if "by_design" in check]
    return [*layouts, _by_design(written["tasks"], by_design, below)] if by_design else layouts


_CHECKS = {"check": "Check", "question": "Question", "rows_checked": "Rows checked", "found": "Found"}


def _by_design(tasks: dict[str, Any], checks: list[str], below: int) -> Layout:
    """What breaks a check by the published design: by task the samples concerned, and the rows where they differ."""
    named = [name for name in TASKS if name in tasks]
    rows, records = [], []
    shown: dict[str, list[int]] = {name: [] for name in named}
    for check in checks:
        found = {name: tasks[name].get(check) for name in named}
        lines = {"samples": {n: f and f.get("samples", f["by_design"]) for n, f in found.items()}}
        if any(f and "samples" in f for f in found.values()):
            lines["values"] = {name: f and f["by_design"] for name, f in found.items()}
        for what, counts in lines.items():
            texts = [_checked(counts[name], shown[name], below) for name in named]
            rows.append((words(_title(check)), words(what), *map(number, texts)))
            columns = dict(zip(named, (text.replace(",", "") for text in texts), strict=True))
            records.append({"check": check, "of": what} | columns)
    header = ("Check", "Of", *(TASKS[name].abbreviation for name in named))
    title = "Used although known only later, by the published design"
    notes = (
        "Options correct each of them: availability, notes, asked, after_death and nested. `protocol: corrected` sets "
        "all of them but notes.",
    )
    return Layout("leakage_by_design", title, header, tuple(rows), pl.DataFrame(records), notes, grouped=1)


def _title(check: str) -> str:
    return check.replace("_", " ")


def _checked(value: int | None, shown: list[int], below: int) -> str:
    """A count of some of the samples; hidden where it is small, or near one ``shown`` before (the total is first)."""
    if value is None:
        return "–"
    if value and is_near(value, shown, below):
        return HIDDEN
    if value and not is_small(value, below):
        shown.append(value)
    return count_text(value, below)
