# What a reader sees: tables, figures and one page with everything. Only `analyse` and `interaction` need a model; the rest
# reads cohorts and predictions, so that a table or figure is made again in seconds.
#
# A target that compares methods asks for all of their runs. With --keep-going a failed run stops only what needs it;
# `so_far` makes tables and page of the runs that are there, and says which are not.


rule analyse:
    input:
        unpack(run_inputs),
        weights=run_file("model.safetensors"),
        config=run_file("config.json"),
    output:
        representations=f"{ANALYSIS}/representations.parquet",
        experts=f"{ANALYSIS}/experts.parquet",
    params:
        run=subpath(input.weights, parent=True),
        out=subpath(output.experts, parent=True),
        output=subpath(output.experts, ancestor=5),
        device=CONFIG.train.device,
        encoder=ENCODER_FOR_TOKENS,
        code=code_digest("flexcare_model.analysis"),
    log:
        f"{OUT}/logs/analyse/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/analyse/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=gpus(CONFIG.train.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model analyse --run {params.run:q} --output {params.output:q} --parts inside"
        " --device {params.device} {params.encoder} --out {params.out:q} > {log:q} 2>&1"


rule fewer_modalities:
    input:
        unpack(run_inputs),
        weights=run_file("model.safetensors"),
        config=run_file("config.json"),
    output:
        scores=f"{ANALYSIS}/modalities.parquet",
    params:
        run=subpath(input.weights, parent=True),
        out=subpath(output.scores, parent=True),
        output=subpath(output.scores, ancestor=5),
        device=CONFIG.train.device,
        encoder=ENCODER_FOR_TOKENS,
        code=code_digest("flexcare_model.analysis"),
    log:
        f"{OUT}/logs/fewer_modalities/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/fewer_modalities/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
        gpu=gpus(CONFIG.train.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model analyse --run {params.run:q} --output {params.output:q} --parts modalities"
        " --device {params.device} {params.encoder} --out {params.out:q} > {log:q} 2>&1"


rule interaction:
    input:
        unpack(run_inputs),
    output:
        history=f"{ANALYSIS}/interaction/history.parquet",
    params:
        settings=TRAIN_SETTINGS,
        encoder=ENCODER_FOR_TOKENS,
        out=subpath(output.history, parent=True),
        output=subpath(output.history, ancestor=6),
        code=code_digest("flexcare_model.train"),
    log:
        f"{OUT}/logs/interaction/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/interaction/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(2880),
        gpu=gpus(CONFIG.train.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model train --output {params.output:q} --model {wildcards.model}"
        " --experiment {wildcards.experiment} --seed {wildcards.seed} --settings {params.settings:q} --interaction"
        " {params.encoder} --threads {threads} --out {params.out:q} > {log:q} 2>&1"


rule bootstrap:
    """Numbers behind `statistics`: intervals, paired tests, calibration and groups, from the predictions."""
    input:
        runs=METHOD_RUNS,
        data=published("stays", *COHORTS),
    output:
        estimates=STATISTICS,
        others=expand(
            f"{OUT}/analysis/statistics/{{name}}.parquet", name=["comparisons", "curves", "calibration", "subgroups"]
        ),
    params:
        output=subpath(output.estimates, ancestor=3),
        below=CONFIG.report.suppress_below,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/bootstrap.log",
    benchmark:
        f"{OUT}/benchmarks/bootstrap.tsv"
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model statistics --output {params.output:q} --suppress-below {params.below} > {log:q} 2>&1"


rule table2:
    """Table 2: samples and missing modalities of each task."""
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
    input:
        lambda wildcards: RUNS_OF_TABLE[wildcards.number],
    output:
        table_files("table{number}"),
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
        table_files("table3"),


rule table4:
    """Table 4: ablations."""
    input:
        table_files("table4"),


rule table5:
    """Table 5: transfer to drg with 1 % and all of the training samples."""
    input:
        table_files("table5"),


rule table6:
    """Table 6: without and with the task token."""
    input:
        table_files("table6"),


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


rule card:
    """Dataset card (Markdown) and Croissant description of the build."""
    input:
        published("stays", "splits", *COHORTS),
    output:
        card=f"{OUT}/card/DATASET_CARD.md",
        croissant=f"{OUT}/card/croissant.json",
    params:
        output=subpath(output.card, ancestor=2),
        below=CONFIG.report.suppress_below,
        config=CONFIG.model_dump_json(),
        synthetic=SYNTHETIC_MARK,
        out=subpath(output.card, parent=True),
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/card.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model card --output {params.output:q} --suppress-below {params.below}"
        " --config {params.config:q} {params.synthetic} --out {params.out:q} > {log:q} 2>&1"


rule report:
    """One page with cohorts, missing data, metrics and how they came about; the paper's tables beside it."""
    input:
        data=published(*PLAN.stages),
        runs=[*rules.flexcare.input, *rules.baselines.input],
        card=rules.card.output,
        table2=rules.table2.output,
    output:
        page=report(f"{OUT}/report.html", caption="../workflow/report/report.rst", category="Report"),
    params:
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
        below=CONFIG.report.suppress_below,
        config=CONFIG.model_dump_json(),
        synthetic=SYNTHETIC_MARK,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/report.log",
    benchmark:
        f"{OUT}/benchmarks/report.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        # Tables of runs that are not there say so; their own targets ask for all runs.
        "(python -m flexcare_model tables --output {params.output:q} --seeds {params.seeds} --which 3 4 5 6 && "
        "python -m flexcare_model report --output {params.output:q} --seeds {params.seeds}"
        " --suppress-below {params.below} --config {params.config:q} {params.synthetic} --out {output.page:q})"
        " > {log:q} 2>&1"


rule paper:
    """Everything of the paper and beyond it: all runs, tables, figures, and one page with all of them (paper.html)."""
    input:
        rules.card.output,
        rules.table2.output,
        table_files("table3", "table4", "table5", "table6"),
        figure_files(*FIGURE_INPUTS),
        rules.statistics.output,
        f"{OUT}/report.html",
    output:
        page=report(f"{OUT}/paper.html", caption="../workflow/report/report.rst", category="Report"),
    params:
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
        below=CONFIG.report.suppress_below,
        config=CONFIG.model_dump_json(),
        synthetic=SYNTHETIC_MARK,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/paper.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model report --output {params.output:q} --seeds {params.seeds}"
        " --suppress-below {params.below} --config {params.config:q} {params.synthetic} --out {output.page:q}"
        " > {log:q} 2>&1"


rule so_far:
    """Tables and page of the runs that are finished, naming those that are not (so_far.html)."""
    input:
        data=published(*PLAN.stages),
        runs=finished_runs(),
        table2=rules.table2.output,
    output:
        page=f"{OUT}/so_far.html",
    params:
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
        below=CONFIG.report.suppress_below,
        config=CONFIG.model_dump_json(),
        synthetic=SYNTHETIC_MARK,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/so_far.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "(python -m flexcare_model tables --output {params.output:q} --seeds {params.seeds} --which 3 4 5 6 && "
        "python -m flexcare_model report --output {params.output:q} --seeds {params.seeds}"
        " --suppress-below {params.below} --config {params.config:q} {params.synthetic} --out {output.page:q})"
        " > {log:q} 2>&1"


rule other_protocol:
    """The cohorts of the other protocol, on the same store, for `compare_protocols`."""
    input:
        published(*COHORTS),
    output:
        config=f"{OUT}/protocols/{OTHER_PROTOCOL}.json",
        done=touch(f"{OUT}/protocols/{OTHER_PROTOCOL}.done"),
    params:
        config=other_config(),
        snakefile=workflow.main_snakefile,
        place=subpath(output.config, parent=True),
        code=code_digest("flexcare_data.stages"),
    log:
        f"{OUT}/logs/other_protocol.log",
    threads: workflow.resource_settings.cores or 1
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(720),
    conda:
        ENVIRONMENT
    shell:
        "printf '%s' {params.config:q} > {output.config:q} && "
        "python -m snakemake --snakefile {params.snakefile:q} --configfile {output.config:q}"
        " --directory {params.place:q} --cores {threads} cohorts > {log:q} 2>&1"


rule compare_protocols:
    """What the published quirks cost: sizes, labels and metrics under both protocols, on one page."""
    input:
        rules.other_protocol.output,
        finished_runs(),
    output:
        page=f"{OUT}/protocols/comparison.html",
    params:
        below=CONFIG.report.suppress_below,
        synthetic=SYNTHETIC_MARK,
        sides=protocol_arguments(),
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/compare_protocols.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model compare-protocols {params.sides}"
        " --suppress-below {params.below} {params.synthetic} --out {output.page:q} > {log:q} 2>&1"
