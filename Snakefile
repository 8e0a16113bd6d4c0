"""From raw MIMIC to seven cohorts, trained models and a report. The rules follow the flow of the data:

raw files -> stays -> events -> hourly series, images, notes -> cohorts -> training -> tables, figures, report
"""

import os
import sys

from snakemake.utils import min_version

min_version("9.20")

# The code beside this file counts, for the plan and for every job, whatever else is installed in the environment.
sys.path.insert(0, workflow.basedir)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [workflow.basedir, os.environ.get("PYTHONPATH")]))


include: "rules/common.smk"
include: "rules/raw.smk"
include: "rules/series.smk"
include: "rules/notes.smk"
include: "rules/cohorts.smk"
include: "rules/images.smk"
include: "rules/train.smk"
include: "rules/analysis.smk"
include: "rules/tables.smk"
include: "rules/report.smk"
include: "rules/publish.smk"


onstart:
    hold_output()


rule all:
    """Everything: cohorts, trained models and the report."""
    default_target: True
    input:
        rules.samples.input,
        reported_runs,
        rules.report.input,
