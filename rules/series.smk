# From the raw tables to the stays, the split of the patients, what was charted for them, and the hourly grids.


rule stays:
    input:
        unpack(stage_inputs("stays")),
    output:
        done=touch(mark("stays")),
    params:
        arguments=stage_arguments("stays"),
    log:
        f"{OUT}/logs/stays-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/stays-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    shell:
        "python -m flexcare_data stays {params.arguments} > {log:q} 2>&1"


rule splits:
    input:
        unpack(stage_inputs("splits")),
    output:
        done=touch(mark("splits")),
    params:
        arguments=stage_arguments("splits"),
        groups=year_groups,
    log:
        f"{OUT}/logs/splits-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/splits-{{key}}.tsv"
    resources:
        mem_mb=growing(2000),
        runtime=growing(30),
    shell:
        "python -m flexcare_data splits {params.groups} {params.arguments} > {log:q} 2>&1"


rule events:
    input:
        unpack(stage_inputs("events")),
    output:
        done=touch(mark("events")),
    params:
        arguments=stage_arguments("events"),
    log:
        f"{OUT}/logs/events-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/events-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(240),
    shell:
        "python -m flexcare_data events {params.arguments} --threads {threads} > {log:q} 2>&1"


rule hourly:
    input:
        unpack(stage_inputs("hourly")),
    output:
        done=touch(mark("hourly")),
    params:
        arguments=stage_arguments("hourly"),
    log:
        f"{OUT}/logs/hourly-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/hourly-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(120),
    shell:
        "python -m flexcare_data hourly {params.arguments} --threads {threads} > {log:q} 2>&1"
