# Tables and figures, from cohorts, metrics and what analysis.smk left: each is made again in seconds, on a cluster too
# where snakemake runs (localrule).
#
# A target that compares methods asks for all of their runs. With --keep-going a failed run stops only what needs it.


rule table2:
    """Table 2: samples and missing modalities of each task."""
    localrule: True
    input:
        published(*COHORTS),
    output:
        table_files("table2"),
    params:
        output=subpath(output[0], ancestor=2),
        below=CONFIG.report.suppress_below,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/table2.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model tables --output {params.output:q} --suppress-below {params.below} --which 2"
        " > {log:q} 2>&1"


rule table_of_runs:
    localrule: True
    input:
        lambda wildcards: RUNS_OF_TABLE[wildcards.number],
    output:
        table_files("table{number}", "table{number}_wide"),
    params:
        output=subpath(output[0], ancestor=2),
        seeds=CONFIG.train.seeds,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/table{{number}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model tables --output {params.output:q} --seeds {params.seeds} --which {wildcards.number}"
        " > {log:q} 2>&1"


rule figure:
    localrule: True
    input:
        lambda wildcards: FIGURE_INPUTS[wildcards.figure],
    output:
        figure_files("{figure}"),
    params:
        output=subpath(output[0], ancestor=2),
        below=CONFIG.report.suppress_below,
        synthetic=SYNTHETIC_MARK,
        which=lambda wildcards: wildcards.figure.removeprefix("figure").removesuffix("_modalities"),
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/{{figure}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model figures --output {params.output:q} --suppress-below {params.below}"
        " {params.synthetic} --which {params.which} > {log:q} 2>&1"


rule table3:
    """Table 3: methods on six tasks."""
    input:
        table_files("table3", "table3_wide"),


rule table4:
    """Table 4: ablations."""
    input:
        table_files("table4", "table4_wide"),


rule table5:
    """Table 5: transfer to drg with 1 % and all of the training samples."""
    input:
        table_files("table5", "table5_wide"),


rule table6:
    """Table 6: without and with the task token."""
    input:
        table_files("table6", "table6_wide"),


rule figure1:
    """Figure 1b and 1c: labels and modalities per sample."""
    input:
        figure_files("figure1b", "figure1c"),


rule figure4:
    """Figure 4: bar charts of the ablations."""
    input:
        figure_files("figure4"),


rule figure5:
    """Figure 5: representations without and with the task token."""
    input:
        figure_files("figure5"),


rule figure6:
    """Figure 6: which experts are chosen, by task and by modality combination."""
    input:
        figure_files("figure6"),


rule figure7:
    """Figure 7: all tasks after each task of each epoch (a training of its own)."""
    input:
        figure_files("figure7"),


rule missing_modalities:
    """Trained models scored with fewer modalities, on the same samples."""
    input:
        figure_files("missing_modalities"),


rule statistics:
    """Intervals for every metric, paired tests, calibration, groups of patients; tables and figure."""
    localrule: True
    input:
        STATISTICS,
        figure_files("calibration"),
    output:
        expand(
            f"{OUT}/tables/{{name}}{{suffix}}",
            name=["uncertainty", "comparisons", "calibration", "subgroups"],
            suffix=TABLE_FILES,
        ),
    params:
        output=subpath(output[0], ancestor=2),
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/statistics.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model tables --output {params.output:q} --which statistics > {log:q} 2>&1"
