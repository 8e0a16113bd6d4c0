# Raw data: the embedded synthetic data, or a check of the real data, which is used in place.


rule synthetic:
    output:
        done=touch(mark("synthetic")),
    params:
        arguments=stage_arguments("synthetic"),
        settings=shlex.join(word for name, value in CONFIG.synthetic for word in (f"--{name}", str(value))),
    log:
        f"{OUT}/logs/synthetic-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/synthetic-{{key}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    shell:
        "python -m flexcare_data synthetic {params.settings} {params.arguments} > {log:q} 2>&1"


rule check_raw:
    localrule: True
    output:
        done=touch(f"{BY_KEY}/checked/{{key}}"),
    params:
        config=doctor_config,
    log:
        f"{OUT}/logs/check_raw-{{key}}.log",
    shell:
        "python -m flexcare_data doctor --fast --configfile {params.config:q} > {log:q} 2>&1"


rule doctor:
    """Check data sets, note encoder, disk, memory and GPU before anything runs."""
    localrule: True
    params:
        config=doctor_config,
    log:
        f"{OUT}/logs/doctor.log",
    shell:
        "python -m flexcare_data doctor --configfile {params.config:q} 2>&1 | tee {log:q}"
