"""Stage `synthetic`: the embedded fabricated data, used where no raw data is set.

In: number of patients, seed, edition. Out: mimiciv/, mimic_cxr_jpg/ and mimic_iv_note/ in the layout of that edition.
"""

from __future__ import annotations

from flexcare_data import synthetic
from flexcare_data.stages.work import StageWork


def run(work: StageWork) -> None:
    """Fabricate the three data sets."""
    with work.folder() as folder:
        synthetic.write(
            folder,
            patients=int(work.settings["patients"]),
            seed=int(work.settings["seed"]),
            edition=str(work.settings["edition"]),
        )
