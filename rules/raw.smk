# Raw data: the embedded synthetic set. Real data is used where it lies.


rule synthesize:
    output:
        done=touch(SYNTHETIC_DONE),
    params:
        folder=subpath(output.done, parent=True),
        patients=SYNTHETIC["patients"],
        seed=SYNTHETIC["seed"],
        edition=SYNTHETIC["edition"],
    log:
        f"{OUT}/logs/synthesize.log",
    benchmark:
        f"{OUT}/benchmarks/synthesize.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "rm -rf {params.folder:q} && "
        "python -m flexcare_data synthesize --patients {params.patients} --seed {params.seed}"
        " --edition {params.edition} --out {params.folder:q} > {log:q} 2>&1"
