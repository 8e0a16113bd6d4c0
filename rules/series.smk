# From the raw tables to the stays, their folds, what was charted for them, and the hourly grids.


rule stays:
    input:
        raw=raw_files("stays"),
    output:
        manifest=manifest("stays"),
    params:
        raw=PLAN.raw_arguments("mimiciv"),
        options=options("stays"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/stays-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/stays-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data stays {params.raw} {params.options} --out {params.out:q} > {log:q} 2>&1"


rule splits:
    input:
        raw=raw_files("splits"),
    output:
        manifest=manifest("splits"),
    params:
        raw=PLAN.raw_arguments("mimiciv"),
        options=options("splits"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/splits-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/splits-{{key}}.tsv"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data splits {params.raw} {params.options} --out {params.out:q} > {log:q} 2>&1"


rule events:
    input:
        **built("stays"),
        raw=raw_files("events"),
    output:
        manifest=manifest("events"),
    params:
        raw=PLAN.raw_arguments("mimiciv"),
        stays=subpath(input.stays, parent=True),
        options=options("events"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/events-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/events-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(240),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data events {params.raw} --stays {params.stays:q}"
        " {params.options} --threads {threads} --out {params.out:q} > {log:q} 2>&1"


rule hourly:
    input:
        **built("stays", "splits", "events"),
    output:
        manifest=manifest("hourly"),
    params:
        stays=subpath(input.stays, parent=True),
        splits=subpath(input.splits, parent=True),
        events=subpath(input.events, parent=True),
        options=options("hourly"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/hourly-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/hourly-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(120),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data hourly --stays {params.stays:q} --splits {params.splits:q} --events {params.events:q}"
        " {params.options} --threads {threads} --out {params.out:q} > {log:q} 2>&1"
