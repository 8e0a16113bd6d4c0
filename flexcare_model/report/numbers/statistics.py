"""Numbers behind the target `statistics`, from the predictions: intervals, tests, calibration, decisions, groups.

In: `Results` with the runs of table 3. Out: the parquet files of `catalogue.STATISTICS`. Minutes on full data.
"""

from __future__ import annotations

from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.report.catalogue import REPLICATES, REPLICATES_SEED, STATISTICS
from flexcare_model.report.numbers import groups, uncertainty
from flexcare_model.report.numbers.decisions import decisions, selective
from flexcare_model.report.numbers.gaps import gaps
from flexcare_model.report.numbers.label_calibration import label_calibration
from flexcare_model.report.numbers.results import Results


def run(results: Results, out: Path, *, below: int, replicates: int = REPLICATES, seed: int = REPLICATES_SEED) -> None:
    """Write the files of `STATISTICS`.

    Args:
        below: counts in [1, below) are not shown.
        replicates: draws of patients.
        seed: of the draws.
    """
    estimates, compared = uncertainty.bootstrap(results, replicates=replicates, seed=seed)
    curves, summaries = groups.calibration(results, below=below)
    labels, label_curves = label_calibration(results, below=below)
    frames = {
        "estimates": estimates,
        "comparisons": compared,
        "curves": curves,
        "calibration": summaries,
        "subgroups": groups.subgroups(results, below=below),
        "label_calibration": labels,
        "label_curves": label_curves,
        "selective": selective(results, below=below),
        "decisions": decisions(results, below=below),
        "gaps": gaps(results, below=below, replicates=replicates, seed=seed),
    }
    for name in STATISTICS:
        atomic_write(out / f"{name}.parquet", frames[name].write_parquet)
