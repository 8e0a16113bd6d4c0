"""Numbers behind the target `statistics`: intervals, paired tests, calibration and groups, from the predictions.

In: `Results` with the runs of table 3. Out: five parquet files. Minutes on full data.
"""

from __future__ import annotations

from pathlib import Path

from flexcare_data.store.folders import atomic_write
from flexcare_model.report.catalogue import REPLICATES, REPLICATES_SEED, STATISTICS
from flexcare_model.report.numbers import groups, uncertainty
from flexcare_model.report.numbers.results import Results


def run(results: Results, out: Path, *, below: int, replicates: int = REPLICATES, seed: int = REPLICATES_SEED) -> None:
    """Write estimates, comparisons, curves, calibration and subgroups.

    Args:
        below: counts in [1, below) are not shown.
        replicates: draws of patients.
        seed: of the draws.
    """
    estimates, compared = uncertainty.bootstrap(results, replicates=replicates, seed=seed)
    curves, summaries = groups.calibration(results, below=below)
    frames = {
        "estimates": estimates,
        "comparisons": compared,
        "curves": curves,
        "calibration": summaries,
        "subgroups": groups.subgroups(results, below=below),
    }
    for name in STATISTICS:
        atomic_write(out / f"{name}.parquet", frames[name].write_parquet)
