"""What single corrections concern under either protocol: values that were not stored yet, life and death.

In: data/leakage.json, data/dropped.json and the cohorts of both sides. Out: `Layout`s.
"""

from __future__ import annotations

import polars as pl

from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.layout import Cell, Layout, absent, number, words
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.suppression import HIDDEN, count_text, is_near

SAMPLES = {
    "asked": ("dead_at_prediction_time_but_asked", "samples asked after the patient's death"),
    "after_death": ("after_death_but_used", "samples of an admission after the patient's death"),
    "nested": ("nested_admission_but_counted", "answers that rest on a nested admission"),
}
"""Option -> reason in the counts of a task, and what it counts."""
TABLES = (
    ("after_death", "admissions", "", "after_death", "admissions after the patient's death"),
    ("nested", "admissions", "", "nested", "admissions that begin before an earlier discharge"),
    ("–", "patients", "dod", "over_a_year_before_admission", "patients with a dod over a year before an admission"),
    ("–", "admissions", "deathtime", "over_a_year_before_admission", "deathtimes over a year before an admission"),
)
"""Option, table, column and reason of the counts of the raw tables, and what they count; used rows or not."""


def values_not_stored(published: Results, corrected: Results, sides: tuple[str, str], *, below: int) -> Layout:
    """Per task: charted values of the inputs that could be read only after the prediction time, and their samples.

    The certificates of both sides count them. A side without a certificate is `not built`.
    """
    both = (published, corrected)
    written = [results.json("data/leakage.json") for results in both]
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, str | None]] = []
    for name, task in TASKS.items():
        found = [counts and counts["tasks"].get(name, {}).get("value_stored_after_prediction") for counts in written]
        if not any(found):
            continue
        texts: list[str | None] = []
        for counts, results in zip(found, both, strict=True):
            values = counts and counts.get("by_design", counts.get("violations", 0))
            samples = counts and counts.get("samples", values)
            hidden = samples and _text(samples, results, name, below) == HIDDEN
            texts += [
                *(None if n is None else HIDDEN if hidden else count_text(n, below) for n in (values, samples)),
            ]
        cells = [absent("not built") if text is None else number(text) for text in texts]
        rows.append((words(task.abbreviation), *cells))
        columns = [f"{side}_{what}" for side in sides for what in ("values", "samples")]
        values = [None if text is None else text.replace(",", "") for text in texts]
        records.append({"task": name, **dict(zip(columns, values, strict=True))})
    columns = [f"{side}_{what}" for side in sides for what in ("values", "samples")]
    frame = pl.DataFrame(records, schema={"task": pl.String} | dict.fromkeys(columns, pl.String))
    header = ("Task", *(f"{side}: {what}" for side in sides for what in ("values", "samples")))
    notes = ("What `availability: storetime` alone costs each task is a column of the table of metrics.",)
    title = "Values used although they could be read only after the prediction time"
    return Layout("protocols_availability", title, header, tuple(rows), frame, notes)


def life_and_death(published: Results, corrected: Results, sides: tuple[str, str], *, below: int) -> Layout:
    """Per option: rows of the raw tables, then samples of each task that the published benchmark uses.

    A side whose counts are missing is `not built`. Counts in [1, below) are not shown, nor those that would reveal such
    a number next to the size of the cohort.
    """
    both = (published, corrected)
    written = [results.json("data/dropped.json") for results in both]
    rows: list[tuple[Cell, ...]] = []
    records: list[dict[str, str | None]] = []

    def add(option: str, what: str, texts: list[str | None]) -> None:
        cells = [absent("not built") if text is None else number(text) for text in texts]
        rows.append((words(option), words(what), *cells))
        values = [None if text is None else text.replace(",", "") for text in texts]
        records.append({"option": option, "what": what, **dict(zip(sides, values, strict=True))})

    for option, table, column, reason, what in TABLES:
        texts: list[str | None] = []
        for counts in written:
            if counts is None:
                texts.append(None)
                continue
            reasons = counts.get(table, {}).get(column, {})
            texts.append(count_text(reasons.get(reason, 0) + reasons.get(f"{reason}_but_used", 0), below))
        add(option, what, texts)
    for option, (reason, what) in SAMPLES.items():
        for name, task in TASKS.items():
            found = [None if counts is None else int(_of(counts, name).get(reason, 0)) for counts in written]
            if not any(found):
                continue
            texts = [
                None if n is None else _text(n, results, name, below) for n, results in zip(found, both, strict=True)
            ]
            add(option, f"{task.abbreviation}: {what}", texts)
    schema = {"option": pl.String, "what": pl.String} | dict.fromkeys(sides, pl.String)
    notes = (
        "Rows of the raw tables are counted in both protocols; samples and answers are those that the cohorts still "
        "have. A task without a row has none.",
    )
    title = "What the corrections of life and death concern"
    header = ("Option", "What", *sides)
    return Layout(
        "protocols_deaths", title, header, tuple(rows), pl.DataFrame(records, schema=schema), notes, grouped=1
    )


def _of(counts: dict, task: str) -> dict[str, int]:
    return counts.get(task, {}).get("", {})


def _text(count: int, results: Results, task: str, below: int) -> str:
    """The count, hidden where almost all samples of the cohort have it."""
    cohort = results.cohorts.get(task)
    if cohort is not None and count and is_near(count, [cohort.height], below):
        return HIDDEN
    return count_text(count, below)
