"""Stage `synthetic`: the embedded fabricated data, used where no raw data is set.

In: number of patients, seed, edition. Out: mimiciv/, mimic_cxr_jpg/ and mimic_iv_note/ in the layout of that edition.
"""

from __future__ import annotations

from flexcare_data.stages.work import StageWork
from flexcare_data.synthetic.write import write_data_set


def run(work: StageWork) -> None:
    """Fabricate the three data sets."""
    with work.folder() as folder:
        write_data_set(
            folder,
            patients=int(work.settings["patients"]),
            seed=int(work.settings["seed"]),
            edition=str(work.settings["edition"]),
        )
