"""Comparison of the protocols `flexcare` and `corrected`.

In: the output folders of both. Out: `Layout`s (cohort sizes, labels, options, metrics).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.layout import Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.prices import life_and_death, values_not_stored
from flexcare_model.report.numbers.results import METRIC_TITLES, Results
from flexcare_model.report.numbers.suppression import HIDDEN, count_text, is_near, is_small
from flexcare_model.report.numbers.tables import mean_text, summarise

SIDES = ("flexcare", "corrected")


def build_comparison(
    published: Results, corrected: Results, *, below: int, alone: Mapping[str, Results] | None = None
) -> list[Layout]:
    """All tables of the comparison, in the order of the page.

    ``alone``: results of protocol flexcare where one option has its value of corrected, by option.
    """
    return [
        _options(),
        _sizes(published, corrected, below),
        _labels(published, corrected, below),
        values_not_stored(published, corrected, SIDES, below=below),
        life_and_death(published, corrected, SIDES, below=below),
        _metrics(published, corrected, alone or {}),
    ]


def _options() -> Layout:
    """Options in which the protocols differ, with their meaning."""
    first, second = (PROTOCOLS[side].model_dump() for side in SIDES)
    rows = []
    for name, field in Options.model_fields.items():
        if first[name] != second[name]:
            rows.append((words(name), words(first[name]), words(second[name]), words(field.description or "")))
    frame = pl.DataFrame(
        [[cell.text for cell in row] for row in rows], orient="row", schema=["option", *SIDES, "meaning"]
    )
    header = ("Option", *SIDES, "What it decides")
    return Layout("protocols_options", "Options that differ", header, tuple(rows), frame)


def _sizes(published: Results, corrected: Results, below: int) -> Layout:
    """Samples under either protocol, and the number that both have, matched by key."""
    rows, records = [], []
    for name, task in TASKS.items():
        sides = [results.cohorts.get(name) for results in (published, corrected)]
        cells: list[Cell] = [words(task.abbreviation)]
        if sides[0] is None or sides[1] is None:
            rows.append(
                (
                    *cells,
                    *[
                        absent("not built") if side is None else number(count_text(side.height, below))
                        for side in sides
                    ],
                    *[absent("–")] * 3,
                )
            )
            continue
        both = sides[0].join(sides[1], on="sample_id", how="inner", validate="1:1").height
        counts = [sides[0].height, sides[1].height, both, sides[0].height - both, sides[1].height - both]
        texts = [count_text(count, below) for count in counts]
        if is_small(counts[3], below) or is_small(counts[4], below):
            # Both sides are known: the common samples and those of one side only would reveal a small number.
            texts[2:] = [text if is_small(count, below) else HIDDEN for text, count in zip(texts, counts, strict=True)][
                2:
            ]
        rows.append((*cells, *map(number, texts)))
        records.append({"task": name} | dict(zip(_SIZES, (text.replace(",", "") for text in texts), strict=True)))
    frame = pl.DataFrame(records, schema={"task": pl.String} | dict.fromkeys(_SIZES, pl.String))
    header = ("Task", *SIDES, "in both", "only flexcare", "only corrected")
    return Layout("protocols_sizes", "Samples", header, tuple(rows), frame)


_SIZES = ("flexcare", "corrected", "in_both", "only_flexcare", "only_corrected")


def _labels(published: Results, corrected: Results, below: int) -> Layout:
    """Labels that change for samples of both protocols, and inputs that differ."""
    columns = ("label", "split", "period_length", "dicom_id", "note_id")
    rows, records = [], []
    for name, task in TASKS.items():
        left, right = published.cohorts.get(name), corrected.cohorts.get(name)
        if left is None or right is None:
            continue
        joined = left.join(right, on="sample_id", how="inner", validate="1:1", suffix="_other")
        changed = {
            "label": pl.any_horizontal(pl.col(label).ne_missing(pl.col(f"{label}_other")) for label in task.labels),
            **{column: pl.col(column).ne_missing(pl.col(f"{column}_other")) for column in columns[1:]},
        }
        counts = joined.select(expression.sum().alias(column) for column, expression in changed.items()).row(0)
        both = count_text(joined.height, below)
        if is_near(joined.height, [left.height, right.height], below):
            both = HIDDEN
        changes = [int(count or 0) for count in counts]
        texts = [HIDDEN if is_near(count, [joined.height], below) else count_text(count, below) for count in changes]
        rows.append((words(task.abbreviation), number(both), *map(number, texts)))
        records.append({"task": name} | {c: t.replace(",", "") for c, t in zip(columns, texts, strict=True)})
    frame = pl.DataFrame(records, schema={"task": pl.String} | dict.fromkeys(columns, pl.String))
    header = (
        "Task",
        "Samples in both",
        "label changed",
        "split changed",
        "period changed",
        "image changed",
        "note changed",
    )
    notes = (
        "Of the samples that both protocols have. DRG classes are ranks among all codes of a protocol, so that one "
        "code more or less shifts many labels.",
    )
    return Layout("protocols_labels", "Answers and inputs that change", header, tuple(rows), frame, notes)


def _metrics(published: Results, corrected: Results, alone: Mapping[str, Results]) -> Layout:
    """Test metrics of the methods that were trained under both protocols, and with options of ``alone``."""
    sides = dict(zip(SIDES, (published, corrected), strict=True)) | dict(alone)
    found = {
        side: {(r["model"], r["experiment"], r["task"], r["metric"]): r for r in summarise(results.scores).to_dicts()}
        for side, results in sides.items()
    }
    compared_sides = [side for side in sides if side != "flexcare"]
    rows, records = [], []
    for name, task in TASKS.items():
        for method in compared():
            for metric in task.metrics:
                key = (method.model, method.experiment_for(name), name, metric)
                if any(found[side].get(key, {}).get("mean") is None for side in SIDES):
                    continue
                numbers = {side: found[side].get(key) for side in sides}
                base = found["flexcare"][key]["mean"]
                means = {side: None if row is None else row["mean"] for side, row in numbers.items()}
                cells = [
                    absent()
                    if row is None
                    else not_defined()
                    if row["mean"] is None
                    else number(mean_text(row["mean"], row["std"]))
                    for row in numbers.values()
                ]
                cells += [_difference(means[side], base) for side in compared_sides]
                title = f"{task.abbreviation} {METRIC_TITLES[metric]}"
                rows.append((words(title), words(method.title), *cells))
                records.append({"task": name, "metric": metric, "method": method.title} | means)
    schema = {"task": pl.String, "metric": pl.String, "method": pl.String} | dict.fromkeys(sides, pl.Float64)
    notes = [
        "Each side is tested on its own test split, whose samples and labels differ. The target `compare_protocols` "
        "trains FlexCare only. To compare the baselines too, run `snakemake all --config protocol=flexcare output=one` "
        "and `snakemake all --config protocol=corrected output=two`, then "
        "`python -m flexcare_model compare-protocols --flexcare one --corrected two --out comparison`.",
    ]
    if not rows:
        notes = ["No method was trained under both protocols: run the target `compare_protocols`."]
    for option in alone:
        value = getattr(PROTOCOLS["corrected"], option)
        notes.append(f"{option}: protocol flexcare with `{option}: {value}`, which is one of the options of corrected.")
    header = ("Task, metric", "Method", *sides, *(f"{side} − flexcare" for side in compared_sides))
    frame = pl.DataFrame(records, schema=schema)
    return Layout("protocols_metrics", "Metrics", header, tuple(rows), frame, tuple(notes), grouped=1)


def _difference(value: float | None, base: float) -> Cell:
    return absent("–") if value is None else number(f"{value - base:+.4f}".replace("-", "−"))
