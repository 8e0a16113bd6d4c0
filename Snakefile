"""From raw MIMIC to seven cohorts, trained models and a report. The rules follow the flow of the data:

raw files -> stays -> events -> hourly series, images, notes -> cohorts -> training -> tables, figures, report
"""

from snakemake.utils import min_version

min_version("9.20")


include: "rules/common.smk"
include: "rules/raw.smk"
include: "rules/series.smk"
include: "rules/images.smk"
include: "rules/notes.smk"
include: "rules/cohorts.smk"
include: "rules/train.smk"
include: "rules/analysis.smk"
include: "rules/tables.smk"
include: "rules/report.smk"


onstart:
    hold_output()


rule all:
    """Everything: cohorts, trained models, tables and the report."""
    default_target: True
    input:
        cohorts=rules.cohorts.input,
        models=REPORTED_RUNS,
        report=rules.report.output.page,
