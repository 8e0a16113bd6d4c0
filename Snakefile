"""From raw MIMIC to seven cohorts, trained models and a report. The rules follow the flow of the data:

raw files -> stays -> events -> hourly series, images, notes -> cohorts -> training -> tables, figures, report
"""

import os
import sys
from importlib.util import find_spec

from snakemake.utils import min_version

min_version("9.20")

# The code of the copy that this file belongs to counts, for the plan and for every job. In a checkout it is beside this
# file; in an installed distribution it is one folder up, where Python finds it unless other code comes first.
code = workflow.basedir
if not os.path.isdir(f"{code}/flexcare_data"):
    code = os.path.dirname(code)
found = find_spec("flexcare_data")
if code == workflow.basedir or not found or found.origin != f"{code}/flexcare_data/__init__.py":
    sys.path.insert(0, code)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [code, os.environ.get("PYTHONPATH")]))
# The working directory of a job may hold another checkout: Python does not look there.
os.environ["PYTHONSAFEPATH"] = "1"


include: "rules/helpers/plan.smk"
include: "rules/helpers/runs.smk"
include: "rules/helpers/published.smk"
include: "rules/raw.smk"
include: "rules/series.smk"
include: "rules/notes.smk"
include: "rules/cohorts.smk"
include: "rules/images.smk"
include: "rules/exports.smk"
include: "rules/train.smk"
include: "rules/analysis.smk"
include: "rules/tables.smk"
include: "rules/report.smk"
include: "rules/publish.smk"


onstart:
    lock_output()


onsuccess:
    print_fingerprint()


rule all:
    """Everything: cohorts, trained models and the report."""
    default_target: True
    input:
        rules.samples.input,
        reported_runs,
        rules.report.input,
