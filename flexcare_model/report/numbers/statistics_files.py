"""The files of the command `statistics`, and those of them that a page can also compute itself, as they take seconds.

In: `Results`, the count below which a cell is suppressed. Out: frames; None where there is nothing to show.
"""

from __future__ import annotations

import polars as pl

from flexcare_model.report.numbers.decisions import decisions, selective
from flexcare_model.report.numbers.label_calibration import label_calibration
from flexcare_model.report.numbers.results import Results


def statistic(results: Results, name: str, *, below: int) -> pl.DataFrame | None:
    """A file of `catalogue.STATISTICS`. If it is absent, calibration of labels and decisions are made of the runs."""
    found = results.parquet(f"analysis/statistics/{name}.parquet")
    if found is not None:
        return found
    if not results.computed and any(run.folder.joinpath("predictions").is_dir() for run in results.runs):
        labels, curves = label_calibration(results, below=below)
        results.computed.update(
            label_calibration=labels,
            label_curves=curves,
            selective=selective(results, below=below),
            decisions=decisions(results, below=below),
        )
    return results.computed.get(name)
