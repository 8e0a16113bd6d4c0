"""The paper's tables 2 to 6 from an output folder, with the published values next to ours where they may be compared.

In: `Results`, the expected seeds. Out: `Layout`s. A missing run is named in its cell and below the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from flexcare_data.discovery import MARKS
from flexcare_data.modalities import MODALITIES
from flexcare_data.tasks import TASKS
from flexcare_model.report.numbers import methods
from flexcare_model.report.numbers.layout import NOT_DEFINED, Cell, Layout, absent, not_defined, number, words
from flexcare_model.report.numbers.methods import Method
from flexcare_model.report.numbers.population import Population, paper_values, population
from flexcare_model.report.numbers.results import METRIC_TITLES, Results, tasks_text
from flexcare_model.report.numbers.suppression import count_text, share_text

MODALITY_COLUMNS = dict(zip(MODALITIES, ("stay_id", "dicom_id", "note_id"), strict=True))
"""Modality and the column of COHORT that is null where a sample lacks it."""


@dataclass(frozen=True)
class Block:
    """A group of rows of a comparison: one task of one setting. ``methods`` are its rows, ``short`` heads columns."""

    title: str
    task: str
    methods: tuple[Method, ...]
    short: str


def table2(results: Results, *, below: int) -> tuple[Layout]:
    """Samples and share of missing values per modality and task; counts under ``below`` are suppressed."""
    paper, people = paper_values("table2"), population(results)
    header = ["Task", "Samples", *people.headings]
    for title in ("Time series", "Image", "Note"):
        header += [f"{title} missing %", *people.headings]
    rows, records = [], []
    tensors = results.parquet("data/cxr/index.parquet")
    broken = set() if tensors is None else set(tensors.filter(pl.col("row").is_null())["dicom_id"])
    for task in TASKS.values():
        cohort = results.cohorts.get(task.name)
        size = 0 if cohort is None else cohort.height
        known = paper.get(("", "", task.name, "samples"))
        cells: list[Cell] = [words(task.abbreviation)]
        cells.append(absent("not built") if cohort is None else number(count_text(size, below)))
        if people.headings:
            cells.append(number("–" if known is None else f"{known:,.0f}"))
        record: dict[str, Any] = {"task": task.name, "samples": _shown(size, below) if cohort is not None else None}
        record["samples_published"] = None if known is None else int(known)
        for modality, column in MODALITY_COLUMNS.items():
            known = paper.get(("", "", task.name, f"missing_{modality}"))
            missing = None
            if cohort is not None:
                gone = pl.col(column).is_null()
                if modality == "image" and broken:
                    gone = gone | pl.col(column).is_in(list(broken))
                missing = cohort.select(gone.sum()).item()
            cells.append(absent("–") if missing is None else number(share_text(missing, size, below)))
            if people.headings:
                cells.append(number("–" if known is None else f"{known:.2f}"))
            percent = None
            if missing is not None and size:
                shown = _shown(missing, below) is not None and _shown(size - missing, below) is not None
                percent = 100 * missing / size if shown else None
            record[f"missing_{modality}_percent"] = percent
            record[f"missing_{modality}_percent_published"] = known
        rows.append(tuple(cells))
        records.append(record)
    notes = ["Missing: share of samples without the modality, in percent.", *people.notes]
    if broken:
        notes.append("An image whose JPEG is absent or broken counts as missing.")
    if unbuilt := [task.abbreviation for task in TASKS.values() if task.name not in results.cohorts]:
        notes.append(f"Not built: {', '.join(unbuilt)} (target `cohorts`).")
    schema = dict.fromkeys(records[0], pl.Float64) | {
        "task": pl.String,
        "samples": pl.Int64,
        "samples_published": pl.Int64,
    }
    title = "Table 2: samples and missing modalities per task"
    frame = people.renamed(pl.DataFrame(records, schema=schema))
    return (Layout("table2", title, tuple(header), tuple(rows), frame, tuple(notes)),)


def table3(results: Results, *, seeds: Sequence[int] | None = None) -> tuple[Layout, Layout]:
    """All methods on all compared tasks: the comparison with the paper, and the same in the paper's wide form."""
    blocks = _task_blocks(results, methods.compared({run.model for run in results.runs}))
    text = f"methods on {tasks_text(len(blocks))}"
    compared = _comparison(results, "table3", f"Table 3: {text}, test split", blocks, seeds=seeds)
    wide = _wide(compared, blocks, "table3_wide", f"Table 3, one row per method: {text}")
    compared, wide = (_with_parameters(layout, compared.frame, results.parameters) for layout in (compared, wide))
    return compared, wide


def table4(results: Results, *, seeds: Sequence[int] | None = None) -> tuple[Layout, Layout]:
    """Ablations: combination tokens (CT), decorrelation (RD), experts (MoE)."""
    blocks = _task_blocks(results, methods.ablations())
    title = f"Table 4: ablations, {tasks_text(len(blocks))} trained together, test split"
    compared = _comparison(results, "table4", title, blocks, seeds=seeds, mark_titles=MARKS)
    return compared, _wide(compared, blocks, "table4_wide", "Table 4, one row per method: ablations")


def table5(results: Results, *, seeds: Sequence[int] | None = None) -> tuple[Layout, Layout]:
    """DRG with 1 % and all of the training samples."""
    settings = (
        ("drg_1pct", "1 % of the training samples", "DRG 1 %"),
        ("drg_100pct", "all training samples", "DRG 100 %"),
    )
    blocks = [Block(f"DRG, {title}", "drg", methods.transferred(name), short) for name, title, short in settings]
    compared = _comparison(results, "table5", "Table 5: transfer to DRG, test split", blocks, seeds=seeds)
    return compared, _wide(compared, blocks, "table5_wide", "Table 5, one row per method: transfer to DRG")


def table6(results: Results, *, seeds: Sequence[int] | None = None) -> tuple[Layout, Layout]:
    """FlexCare without and with the task token."""
    blocks = _task_blocks(results, methods.task_token_variants())
    title = "Table 6: without and with the task token, test split"
    compared = _comparison(results, "table6", title, blocks, seeds=seeds)
    return compared, _wide(compared, blocks, "table6_wide", "Table 6, one row per method: task token")


def summarise(scores: pl.DataFrame) -> pl.DataFrame:
    """Mean and sample standard deviation (ddof = 1) over seeds per (model, experiment, task, metric).

    The deviation of a single seed is null. ``seeds`` lists all that were run. Where the metric is not defined for one
    of them, mean and deviation are null, so that no seed is left out of a mean.
    """
    defined = pl.col("value").null_count() == 0
    return (
        scores.group_by("model", "experiment", "task", "metric")
        .agg(
            mean=pl.when(defined).then(pl.col("value").mean()),
            std=pl.when(defined).then(pl.col("value").std(ddof=1)),
            seeds=pl.col("seed").sort(),
        )
        .sort("model", "experiment", "task", "metric")
    )


def mean_text(mean: float, std: float | None) -> str:
    """The paper's format: four decimals, the deviation with three in brackets.

    >>> mean_text(0.88234, 0.0031), mean_text(0.5, None)
    ('0.8823 (0.003)', '0.5000 (–)')
    """
    return f"{mean:.4f} ({'–' if std is None or math.isnan(std) else f'{std:.3f}'})"


def _task_blocks(results: Results, rows: tuple[Method, ...]) -> list[Block]:
    """A block for each compared task."""
    blocks = []
    for name in results.compared_tasks:
        first, second = (METRIC_TITLES[metric] for metric in TASKS[name].metrics)
        short = TASKS[name].abbreviation
        blocks.append(Block(f"{short}: {first}, {second}", name, rows, short))
    return blocks


def _comparison(
    results: Results,
    name: str,
    title: str,
    blocks: Iterable[Block],
    *,
    seeds: Sequence[int] | None,
    mark_titles: tuple[str, ...] = (),
) -> Layout:
    blocks = list(blocks)
    found = {
        (row["model"], row["experiment"], row["task"], row["metric"]): row
        for row in summarise(results.scores).to_dicts()
    }
    wanted = tuple(sorted(seeds)) if seeds else tuple(sorted({run.seed for run in results.runs}))
    paper, people = paper_values(name), population(results)
    records = []
    for block in blocks:
        for metric in TASKS[block.task].metrics:
            keys = [(method.model, method.experiment_for(block.task), block.task, metric) for method in block.methods]
            means = [round(found[key]["mean"], 4) for key in keys if key in found and found[key]["mean"] is not None]
            # With one method nothing is compared.
            best = max(means) if len(means) > 1 else None
            for method in block.methods:
                key = (method.model, method.experiment_for(block.task), block.task, metric)
                ours, known = found.get(key), paper.get(key)
                has, mean = (ours["seeds"], ours["mean"]) if ours else ([], None)
                records.append(
                    {
                        "block": block.title,
                        "task": block.task,
                        "metric": metric,
                        "method": method.title,
                        "model": method.model,
                        "experiment": key[1],
                        "mean": mean,
                        "std": ours["std"] if ours else None,
                        "n_seeds": len(has),
                        "is_defined": mean is not None if ours else None,
                        "missing_seeds": " ".join(str(seed) for seed in wanted if seed not in has),
                        "published": known,
                        "difference": mean - known if mean is not None and known is not None else None,
                        "best": mean is not None and round(mean, 4) == best,
                    }
                )
    frame = pl.DataFrame(
        records,
        schema_overrides={
            "mean": pl.Float64, "std": pl.Float64, "published": pl.Float64, "difference": pl.Float64,
            "best": pl.Boolean, "is_defined": pl.Boolean,
        },
    )  # fmt: skip
    frame = people.renamed(frame)
    header = ("Task: first, second metric", *mark_titles, "Method")
    beside = (*people.headings, *(("difference",) if people.is_comparable else ()))
    header += ("first, mean (std)", *beside, "second, mean (std)", *beside)
    by_cell = {(row["block"], row["model"], row["experiment"], row["metric"]): row for row in records}
    rows = []
    for block in blocks:
        for method in block.methods:
            cells = [words(block.title), *(words(mark) for mark in method.marks), words(method.title)]
            for metric in TASKS[block.task].metrics:
                row = by_cell[(block.title, method.model, method.experiment_for(block.task), metric)]
                cells += _cells(row, people)
            rows.append(tuple(cells))
    notes = (*_notes(frame, wanted), *people.notes)
    return Layout(name, title, header, tuple(rows), frame, notes, grouped=1)


def _ours(row: dict) -> Cell:
    """Our number; its run is absent, or the metric is not defined."""
    if row["mean"] is not None:
        return Cell(mean_text(row["mean"], row["std"]), best=row["best"])
    return absent() if row["is_defined"] is None else not_defined()


def _cells(row: dict, people: Population) -> list[Cell]:
    """Our number, the published one and the difference, as far as they are shown."""
    cells = [_ours(row)]
    if people.headings:
        cells.append(number("–" if row["published"] is None else f"{row['published']:.4f}"))
    if people.is_comparable:
        difference = row["difference"]
        cells.append(absent("–") if difference is None else number(f"{difference:+.4f}".replace("-", "−")))
    return cells


def _notes(frame: pl.DataFrame, wanted: Sequence[int]) -> list[str]:
    notes = [
        "Mean over seeds, sample standard deviation (n - 1) in brackets. "
        "Best mean of each block and metric in bold where two or more methods were run, with ties at four decimals.",
    ]
    if not frame["is_defined"].drop_nulls().all():
        notes.append(NOT_DEFINED)
    runs = frame.group_by("method", "model", "experiment", maintain_order=True).agg(
        pl.col("n_seeds").max(), pl.col("missing_seeds").first()
    )
    never = [row for row in runs.to_dicts() if row["n_seeds"] == 0]
    partly = [row for row in runs.to_dicts() if row["n_seeds"] > 0 and row["missing_seeds"]]
    if never:
        listed: dict[str, list[str]] = {}
        for row in never:
            listed.setdefault(row["method"], []).append(_setting(row["experiment"]))
        texts = [f"{method} ({', '.join(dict.fromkeys(settings))})" for method, settings in listed.items()]
        notes.append("Not run: " + "; ".join(texts) + ".")
    fewer: dict[tuple[str, str], list[str]] = {}
    for row in partly:
        fewer.setdefault((row["method"], row["missing_seeds"]), []).append(_setting(row["experiment"]))
    for (method, gone), settings in fewer.items():
        seeds = gone.split()
        found = f"{len(wanted) - len(seeds)} of {len(wanted)} seeds, without {', '.join(seeds)}"
        notes.append(f"{method} ({', '.join(dict.fromkeys(settings))}): {found}.")
    if wanted and not partly and len(wanted) > len(never) >= 0:
        notes.append(f"Seeds: {', '.join(map(str, wanted))}.")
    return notes


def _setting(experiment: str) -> str:
    return TASKS[experiment].abbreviation if experiment in TASKS else experiment.replace("_", " ")


def _wide(compared: Layout, blocks: Sequence[Block], name: str, title: str) -> Layout:
    """The paper's form: a row per method, two columns per block, ours only."""
    header = ["Method"]
    for block in blocks:
        header += [f"{block.short} {METRIC_TITLES[metric]}" for metric in TASKS[block.task].metrics]
    cells = {(row["block"], row["metric"], row["method"]): row for row in compared.frame.to_dicts()}
    rows, records = [], []
    for method in blocks[0].methods:
        row, record = [words(method.title)], {"method": method.title}
        for block in blocks:
            for metric in TASKS[block.task].metrics:
                found = cells[(block.title, metric, method.title)]
                cell = _ours(found)
                row.append(absent("–") if found["is_defined"] is None else cell)
                record[f"{block.short}_{metric}"] = "" if found["is_defined"] is None else cell.text
        rows.append(tuple(row))
        records.append(record)
    return Layout(name, title, tuple(header), tuple(rows), pl.DataFrame(records), compared.notes)


FUSION_NOTE = (
    "A baseline is the fusion mechanism of the named method on the common embedding and encoders, not its original "
    "model: docs/models.md says what is kept, changed and left out."
)


def _with_parameters(layout: Layout, compared: pl.DataFrame, known: Mapping[tuple[str, str], int]) -> Layout:
    """``layout`` with a column of trained parameters after the method, and the note on what a baseline is.

    Models of single tasks differ in the size of their heads. One row for all tasks has the largest number.
    """
    numbers: dict[tuple[str, str], int] = {}
    for row in compared.select("block", "method", "model", "experiment").unique(maintain_order=True).to_dicts():
        count = known.get((row["model"], row["experiment"]), 0)
        for place in (row["block"], ""):
            numbers[place, row["method"]] = max(count, numbers.get((place, row["method"]), 0))
    at = layout.header.index("Method")
    rows = []
    for cells in layout.rows:
        count = numbers[cells[0].text if at else "", cells[at].text]
        shown = number(f"{count / 1e6:.2f}") if count else absent("–")
        rows.append((*cells[: at + 1], shown, *cells[at + 1 :]))
    keys = [(row["block"] if at else "", row["method"]) for row in layout.frame.to_dicts()]
    counts = pl.Series("parameters", [numbers[key] or None for key in keys], dtype=pl.Int64)
    return replace(
        layout,
        header=(*layout.header[: at + 1], "Parameters (million)", *layout.header[at + 1 :]),
        rows=tuple(rows),
        frame=layout.frame.with_columns(counts),
        notes=(*layout.notes, FUSION_NOTE),
    )


def _shown(count: int, below: int) -> int | None:
    return None if 1 <= count < below else count
