# What a reader sees: the paper's tables and one page with everything.


rule report:
    """One page with cohorts, missing data, metrics and how they came about; the paper's tables beside it."""
    input:
        data=published(*PLAN.stages),
        runs=[*rules.flexcare.input, *rules.baselines.input],
    output:
        page=f"{OUT}/report.html",
        table2=multiext(f"{OUT}/tables/table2", ".csv", ".md"),
    params:
        output=subpath(output.page, parent=True),
        seeds=CONFIG.train.seeds,
        below=CONFIG.report.suppress_below,
        config=CONFIG.model_dump_json(),
        synthetic="--synthetic" if CONFIG.is_synthetic else "",
        code=code_digest("flexcare_model.report.commands"),
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
        "(python -m flexcare_model tables --output {params.output:q} --seeds {params.seeds}"
        " --suppress-below {params.below} && "
        "python -m flexcare_model report --output {params.output:q} --seeds {params.seeds}"
        " --suppress-below {params.below} --config {params.config:q} {params.synthetic} --out {output.page:q})"
        " > {log:q} 2>&1"
