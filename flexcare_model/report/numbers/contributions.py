"""What each modality contributes, and what losing data costs, from the analyses `modalities` of the runs of table 3.

In: `analysis/<model>/<experiment>/seed<k>/modalities.parquet` of `Results`. Out: frames and their `Layout`s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import polars as pl

from flexcare_data.modalities import COMBINATIONS, LETTERS, MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers.layout import NOT_DEFINED, Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.methods import compared
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_in

SUBSETS = ("", *COMBINATIONS)
CONTRIBUTIONS = {
    "task": pl.String, "metric": pl.String, "method": pl.String, "n": pl.Int64, "n_seeds": pl.Int64,
    "none": pl.Float64, **dict.fromkeys(MODALITIES, pl.Float64), "all": pl.Float64,
}  # fmt: skip
"""Value of no modality, contribution of each, value of all three; ``none`` and contributions sum to ``all``."""
LOSSES = {
    "drop_rate": "modalities, at random",
    "informative": "modalities, more of the sicker",
    "inside_time_series": "hours of the series",
    "inside_image": "patches of the image",
    "inside_note": "tokens of the note",
}
"""Kinds of loss and their titles."""


def collected_modalities(results: Results) -> pl.DataFrame | None:
    """Scores with less data of the runs of table 3: a mean over seeds per method and condition.

    The mean is null where the metric is not defined for one of the seeds.
    """
    frames = []
    for task in results.compared_tasks:
        for method in compared():
            for path in results.analysis_files(method.model, method.experiment_for(task), "modalities.parquet"):
                frames.append(pl.read_parquet(path).filter(task=task).with_columns(method=pl.lit(method.title)))
    if not frames:
        return None
    keys = ["method", "task", "kind", "kept", "rate", "metric"]
    defined = pl.col("value").is_not_nan() & pl.col("value").is_not_null()
    value = pl.when(defined.all()).then(pl.col("value").mean())
    return pl.concat(frames).group_by(keys).agg(value, pl.col("n", "n_patients").first(), n_seeds=pl.len()).sort(keys)


def shapley(values: Mapping[str, float]) -> dict[str, float]:
    """Shapley value of each modality, by its letter, of the values of all subsets (letters; "" for the empty one).

    The mean, over all orders in which modalities can be added, of what a modality adds. They sum to the value of all
    modalities minus that of none.

    Example:
        >>> shapley({"": 0.5, "T": 0.7, "I": 0.5, "N": 0.6, "TI": 0.7, "TN": 0.8, "IN": 0.6, "TIN": 0.8})
        {'T': 0.2, 'I': 0.0, 'N': 0.1}
    """
    found = {}
    for letter in LETTERS:
        total = 0.0
        for subset in SUBSETS:
            if letter in subset:
                continue
            weight = math.factorial(len(subset)) * math.factorial(len(LETTERS) - len(subset) - 1)
            larger = "".join(other for other in LETTERS if other in subset or other == letter)
            total += weight / math.factorial(len(LETTERS)) * (values[larger] - values[subset])
        found[letter] = round(total, 12)
    return found


def contributions(results: Results, *, below: int) -> pl.DataFrame | None:
    """CONTRIBUTIONS of the runs of table 3 on the samples with all modalities; None without an analysis.

    Tasks with such samples of few patients have no rows. Numbers are null where the metric is not defined.
    """
    frame = collected_modalities(results)
    if frame is None:
        return None
    rows = []
    for task in tasks_in(frame):
        for method in (method.title for method in compared()):
            for metric in TASKS[task].metrics:
                part = frame.filter(task=task, method=method, metric=metric, kind="subset")
                values = dict(part.select("kept", "value").iter_rows())
                if set(values) != set(SUBSETS) or part["n_patients"][0] < max(below, 1):
                    continue
                row = {"task": task, "metric": metric, "method": method, "n": part["n"][0]}
                row["n_seeds"] = part["n_seeds"].min()
                if None not in values.values():
                    added = shapley(values)
                    row |= {"none": values[""], "all": values[LETTERS]}
                    row |= {name: added[letter] for name, letter in zip(MODALITIES, LETTERS, strict=True)}
                rows.append(dict.fromkeys(CONTRIBUTIONS) | row)
    return pl.DataFrame(rows, schema=CONTRIBUTIONS)


def modality_tables(results: Results, *, below: int) -> tuple[Layout, ...]:
    """Contributions of the modalities, and scores with lost data; none without an analysis."""
    frame = contributions(results, below=below)
    return () if frame is None else (_contributions_table(frame), _losses_table(results, below))


def _contributions_table(frame: pl.DataFrame) -> Layout:
    rows = []
    for row in frame.to_dicts():
        cells = [words(f"{TASKS[row['task']].abbreviation} {METRIC_TITLES[row['metric']]}"), words(row["method"])]
        cells += [_value(row["none"]), *(_signed(row[name]) for name in MODALITIES), _value(row["all"])]
        rows.append((*cells, number(str(row["n_seeds"]))))
    order = {text: place for place, text in enumerate(dict.fromkeys(row[0].text for row in rows))}
    rows.sort(key=lambda row: order[row[0].text])
    header = ("Task, metric", "Method", "nothing", "series", "image", "note", "all three", "Seeds")
    notes = [
        "Shapley values of the modalities, on the test samples that have all three; mean over seeds. The columns from "
        "`nothing` to `note` sum to `all three`. Nothing: the same answer for every sample, which has an AUROC of 0.5, "
        "an AUPRC equal to the prevalence, and the F1 of the most frequent class.",
    ]
    if frame["all"].null_count():
        notes.append(NOT_DEFINED)
    title = "Contribution of each modality"
    return Layout("contributions", title, header, tuple(rows), frame, tuple(notes), grouped=1)


def losses(results: Results, *, below: int) -> pl.DataFrame | None:
    """Scores with lost data: task, method, kind, rate, metric, value, n; without those of few patients."""
    frame = collected_modalities(results)
    if frame is None:
        return None
    kept = frame.filter(pl.col("kind").is_in(list(LOSSES)), pl.col("n_patients") >= max(below, 1))
    return kept.select("task", "method", "kind", "rate", "metric", "value", "n", "n_seeds")


def _losses_table(results: Results, below: int) -> Layout:
    """First metric of each task under each kind of loss, of the last method of table 3 that was analysed."""
    frame = losses(results, below=below)
    assert frame is not None
    analysed = set(frame["method"])
    method = next((method.title for method in reversed(compared()) if method.title in analysed), "")
    own = frame.filter(method=method)
    rates = sorted(set(own["rate"]))
    rows = []
    for task in tasks_in(own):
        metric = TASKS[task].metrics[0]
        for kind, title in LOSSES.items():
            part = own.filter(task=task, kind=kind, metric=metric)
            if not part.height:
                continue
            found = dict(part.select("rate", "value").iter_rows())
            cells = [words(f"{TASKS[task].abbreviation} {METRIC_TITLES[metric]}"), words(title)]
            rows.append((*cells, *(_value(found.get(rate)) for rate in rates)))
    header = ("Task, metric", "Lost", *(f"{rate:.0%}" for rate in rates))
    notes = [
        f"{method}, test split, mean over seeds. Rows differ in their samples: a loss inside a modality is measured on "
        "the samples that have this modality. The CSV has all methods and metrics.",
        "More of the sicker: the probability of a loss rises with the number of measurements in the last 24 hours, and "
        "is on average the share of the column. One modality always remains.",
    ]
    return Layout("lost_data", "Scores with lost data", header, tuple(rows), frame, tuple(notes), grouped=1)


def _value(value: float | None) -> Cell:
    return not_defined() if value is None else number(f"{value:.4f}")


def _signed(value: float | None) -> Cell:
    return absent("–") if value is None else number(f"{value:+.4f}".replace("-", "−"))
