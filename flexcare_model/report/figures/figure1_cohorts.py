"""Figure 1b, labels per episode, and figure 1c, modalities per sample, from the cohorts.

In: the cohorts of `Results`, the count below which a bar is suppressed. Out: figures; None without cohorts.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from flexcare_data.modalities import MODALITIES
from flexcare_model.report.figures.style import COLOURS, PAGE, house_style, new_figure
from flexcare_model.report.numbers.results import Results, tasks_text
from flexcare_model.report.numbers.suppression import is_small
from flexcare_model.report.numbers.tables import MODALITY_COLUMNS


def labels_per_sample(results: Results, *, below: int) -> Figure | None:
    """Figure 1b: number of compared tasks with a label, per episode.

    An episode is a hospital admission with an ICU stay or, outside of such an admission, a radiograph study.
    """
    asked = [
        cohort.select(episode=_episode(), task=pl.lit(name)).unique()
        for name, cohort in results.cohorts.items()
        if name in results.compared_tasks
    ]
    if not asked:
        return None
    per_episode = pl.concat(asked).group_by("episode").agg(pl.col("task").n_unique())
    sizes = dict(per_episode.group_by("task").len().rows())
    numbers = list(range(1, len(results.compared_tasks) + 1))
    with house_style():
        figure = new_figure(PAGE / 2, 2.4)
        axes = figure.subplots()
        _count_bars(axes, [str(number) for number in numbers], [sizes.get(number, 0) for number in numbers], below)
        axes.set(xlabel="tasks with a label", ylabel="episodes", title="Labels per episode")
    return figure


def _episode() -> pl.Expr:
    return (
        pl.when(pl.col("hadm_id").is_not_null())
        .then(pl.lit("a") + pl.col("hadm_id").cast(pl.String))
        .otherwise(pl.lit("s") + pl.col("sample_id"))
    )


def modalities_per_sample(results: Results, *, below: int) -> Figure | None:
    """Figure 1c: samples of the compared tasks by number of modalities, split by which ones they are."""
    cohorts = [cohort for name, cohort in results.cohorts.items() if name in results.compared_tasks]
    if not cohorts:
        return None
    columns = list(MODALITY_COLUMNS.values())
    present = pl.concat([cohort.select(pl.col(column).is_not_null() for column in columns) for cohort in cohorts])
    sizes = {row[:-1]: row[-1] for row in present.group_by(columns).len().rows()}
    titles = {"time_series": "series", "image": "image", "note": "note"}
    with house_style():
        figure = new_figure(PAGE / 2, 2.4)
        axes = figure.subplots()
        names, counts, colours = [], [], []
        for number in (1, 2, 3):
            for chosen in combinations(MODALITIES, number):
                names.append(" + ".join(titles[modality] for modality in chosen))
                counts.append(sizes.get(tuple(modality in chosen for modality in MODALITIES), 0))
                colours.append(COLOURS[number - 1])
        _count_bars(axes, names, counts, below, colours=colours, horizontal=True)
        axes.set(xlabel=f"samples of {tasks_text(len(results.compared_tasks))}", title="Modalities per sample")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
    return figure


def _count_bars(
    axes: Axes,
    names: list[str],
    counts: list[int],
    below: int,
    *,
    colours: list[str] | None = None,
    horizontal: bool = False,
) -> None:
    """Bars of counts; a small count gets no bar, only its bound."""
    shown = [0 if is_small(count, below) else count for count in counts]
    texts = [f"<{below}" if is_small(count, below) else f"{count:,}" for count in counts]
    place = np.arange(len(names))
    if horizontal:
        bars = axes.barh(place, shown, color=colours or COLOURS[0], height=0.7)
        axes.set_yticks(place, names)
        axes.invert_yaxis()
        axes.margins(x=0.18)
    else:
        bars = axes.bar(place, shown, color=colours or COLOURS[0], width=0.7)
        axes.set_xticks(place, names)
        axes.margins(y=0.12)
    axes.bar_label(bars, texts, padding=2, fontsize=6.5)
