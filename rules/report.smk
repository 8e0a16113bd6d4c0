# What a reader opens: the page, the dataset card, the comparison of the protocols.
#
# A page shows all that lies in the output folder and names what does not. The three pages differ only in what they wait
# for: report.html for what `all` trains, paper.html for everything, so_far.html for nothing.


rule card:
    """Dataset card (Markdown) and Croissant description of the build."""
    localrule: True
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
    localrule: True
    input:
        data=published(*CONFIGURED),
        runs=[*rules.flexcare.input, *rules.baselines.input],
        card=rules.card.output,
        table2=rules.table2.output,
    output:
        page=report(f"{OUT}/report.html", caption="../workflow/report/report.rst", category="Report"),
    params:
        page=PAGE_ARGUMENTS,
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
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
        "python -m flexcare_model report {params.page} --out {output.page:q}) > {log:q} 2>&1"


rule so_far:
    """Tables and page of the runs that are finished, naming those that are not (so_far.html)."""
    localrule: True
    input:
        data=published(*CONFIGURED),
        card=rules.card.output,
        table2=rules.table2.output,
    output:
        page=f"{OUT}/so_far.html",
    params:
        runs=finished_runs(),
        page=PAGE_ARGUMENTS,
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/so_far.log",
    benchmark:
        f"{OUT}/benchmarks/so_far.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "(python -m flexcare_model tables --output {params.output:q} --seeds {params.seeds} --which 3 4 5 6 && "
        "python -m flexcare_model report {params.page} --out {output.page:q}) > {log:q} 2>&1"


rule paper:
    """Everything of the paper and beyond it: all runs, tables, figures, and one page with all of them (paper.html)."""
    localrule: True
    input:
        data=published(*CONFIGURED),
        card=rules.card.output,
        tables=table_files("table2", "table3", "table4", "table5", "table6"),
        figures=figure_files(*FIGURE_INPUTS),
        statistics=rules.statistics.output,
    output:
        page=report(f"{OUT}/paper.html", caption="../workflow/report/report.rst", category="Report"),
    params:
        page=PAGE_ARGUMENTS,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/paper.log",
    benchmark:
        f"{OUT}/benchmarks/paper.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model report {params.page} --out {output.page:q} > {log:q} 2>&1"


rule other_protocol:
    """The cohorts of the other protocol and what its models read, on the same store, for `compare_protocols`."""
    input:
        published(*COHORTS),
    output:
        config=f"{OUT}/protocols/{OTHER_PROTOCOL}.json",
        done=touch(f"{OUT}/protocols/{OTHER_PROTOCOL}.done"),
    params:
        config=other_config(),
        snakefile=workflow.main_snakefile,
        place=subpath(output.config, parent=True),
        code=code_digest("flexcare_data.plan"),
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
        " --directory {params.place:q} --cores {threads} samples > {log:q} 2>&1"


use rule train as train_other_protocol with:
    input:
        rules.other_protocol.output,
    output:
        metrics=other_file("metrics.json"),
        weights=other_file("model.safetensors"),
        config=other_file("config.json"),
        history=other_file("history.parquet"),
    log:
        f"{OUT}/logs/train_{OTHER_PROTOCOL}/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/train_{OTHER_PROTOCOL}/{{model}}/{{experiment}}/seed{{seed}}.tsv"


rule compare_protocols:
    """What the published quirks cost: sizes, labels, and metrics of FlexCare trained under both protocols, on one page."""
    localrule: True
    input:
        rules.other_protocol.output,
        ours=rules.flexcare.input,
        theirs=expand(other_file("metrics.json"), model="flexcare", experiment="six_tasks", seed=CONFIG.train.seeds),
    output:
        page=f"{OUT}/protocols/comparison.html",
    params:
        others=finished_runs(),
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
