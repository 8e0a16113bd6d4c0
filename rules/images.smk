# Radiographs that the cohorts need, each decoded once for everybody who shares the store. With images.jobs above 1 the
# shares are decoded by jobs of their own, and `cxr` finds them done.


rule cxr_share:
    input:
        raw=raw_files("cxr"),
        cohorts=list(built(*COHORTS).values()),
    output:
        done=temp(touch(share_mark("cxr"))),
    params:
        raw=PLAN.raw_arguments("mimic_cxr_jpg"),
        cohorts=folders(*COHORTS),
        which=CONFIG.images.which,
        options=options("cxr"),
        out=PLAN.dir("cxr"),
    log:
        f"{OUT}/logs/cxr-{{key}}-share{{share}}of{{shares}}.log",
    benchmark:
        f"{OUT}/benchmarks/cxr-{{key}}-share{{share}}of{{shares}}.tsv"
    threads: CONFIG.resources.image_processes
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(720),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data images {params.raw} --cohorts {params.cohorts} --which {params.which} {params.options}"
        " --processes {threads} --share {wildcards.share}/{wildcards.shares} --out {params.out:q} > {log:q} 2>&1"


rule cxr:
    input:
        raw=raw_files("cxr"),
        cohorts=list(built(*COHORTS).values()),
        shares=share_marks("cxr", CONFIG.images.jobs),
    output:
        manifest=manifest("cxr"),
    params:
        raw=PLAN.raw_arguments("mimic_cxr_jpg"),
        cohorts=folders(*COHORTS),
        which=CONFIG.images.which,
        broken_share=CONFIG.images.broken_share,
        allow_missing="--allow-missing" if CONFIG.images.allow_missing else "",
        options=options("cxr"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/cxr-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/cxr-{{key}}.tsv"
    threads: CONFIG.resources.image_processes if CONFIG.images.jobs == 1 else 1
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(720),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data images {params.raw} --cohorts {params.cohorts} --which {params.which}"
        " --broken-share {params.broken_share} {params.allow_missing} {params.options} --processes {threads}"
        " --out {params.out:q} > {log:q} 2>&1"


rule image_list:
    """The radiographs that the configured tasks need, as a list for wget, with their number and size."""
    localrule: True
    input:
        cohorts=list(built(*COHORTS).values()),
    output:
        list=f"{OUT}/image_list.txt",
    params:
        raw=PLAN.raw_arguments("mimic_cxr_jpg"),
        cohorts=folders(*COHORTS),
    log:
        f"{OUT}/logs/image_list.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data image-list {params.raw} --cohorts {params.cohorts} --out {output.list:q}"
        " 2>&1 | tee {log:q}"
