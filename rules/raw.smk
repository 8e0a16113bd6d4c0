# Raw data: the embedded synthetic set, or a first look at the real one, which is used where it lies.


rule synthesize:
    output:
        done=touch(f"{OUT}/synthetic_raw/complete-{{key}}"),
    params:
        folder=subpath(output.done, parent=True),
        patients=SYNTHETIC["patients"],
        seed=SYNTHETIC["seed"],
        edition=SYNTHETIC["edition"],
    log:
        f"{OUT}/logs/synthesize-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/synthesize-{{key}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "rm -rf {params.folder:q} && "
        "python -m flexcare_data synthesize --patients {params.patients} --seed {params.seed}"
        " --edition {params.edition} --out {params.folder:q} > {log:q} 2>&1"


rule check_raw:
    localrule: True
    output:
        done=touch(f"{OUT}/.checked/raw-{{key}}"),
    params:
        config=CONFIG.model_dump_json(),
    log:
        f"{OUT}/logs/check-raw-{{key}}.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data doctor --fast --config-json {params.config:q} > {log:q} 2>&1"


rule doctor:
    """What will go wrong, told before anything runs: data sets, note encoder, disk, memory, GPU."""
    localrule: True
    params:
        config=CONFIG.model_dump_json(),
    log:
        f"{OUT}/logs/doctor.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data doctor --config-json {params.config:q} 2>&1 | tee {log:q}"
