# Discharge summaries: their sections, and one vector per token of each section that a cohort uses.


rule sections:
    input:
        raw=raw_files("sections"),
    output:
        manifest=manifest("sections"),
    params:
        raw=PLAN.raw_arguments("mimic_iv_note"),
        options=options("sections"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/sections-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/sections-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data sections {params.raw} {params.options} --out {params.out:q} > {log:q} 2>&1"


# With notes.jobs above 1 the shares are embedded by jobs of their own, and `notes` finds them done.
rule notes_share:
    input:
        **built("sections"),
        cohorts=list(built(*COHORTS).values()),
    output:
        done=temp(touch(share_mark("notes"))),
    params:
        cohorts=folders(*COHORTS),
        sections=subpath(input.sections, parent=True),
        encoder=CONFIG.notes.encoder,
        storage=CONFIG.notes.storage,
        max_tokens=CONFIG.notes.max_tokens,
        batch_tokens=CONFIG.notes.batch_tokens,
        device=CONFIG.notes.device,
        options=options("notes"),
        out=PLAN.dir("notes"),
    log:
        f"{OUT}/logs/notes-{{key}}-share{{share}}of{{shares}}.log",
    benchmark:
        f"{OUT}/benchmarks/notes-{{key}}-share{{share}}of{{shares}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
        gpu=gpus(CONFIG.notes.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model embed --cohorts {params.cohorts} --sections {params.sections:q}"
        " --encoder {params.encoder:q} --storage {params.storage} --max-tokens {params.max_tokens}"
        " --batch-tokens {params.batch_tokens} --device {params.device} {params.options} --threads {threads}"
        " --share {wildcards.share}/{wildcards.shares} --out {params.out:q} > {log:q} 2>&1"


rule notes:
    input:
        **built("sections"),
        cohorts=list(built(*COHORTS).values()),
        shares=share_marks("notes", CONFIG.notes.jobs),
    output:
        manifest=manifest("notes"),
    params:
        cohorts=folders(*COHORTS),
        sections=subpath(input.sections, parent=True),
        encoder=CONFIG.notes.encoder,
        storage=CONFIG.notes.storage,
        max_tokens=CONFIG.notes.max_tokens,
        batch_tokens=CONFIG.notes.batch_tokens,
        device=CONFIG.notes.device,
        options=options("notes"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/notes-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/notes-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
        gpu=gpus(CONFIG.notes.device) if CONFIG.notes.jobs == 1 else 0,
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model embed --cohorts {params.cohorts} --sections {params.sections:q}"
        " --encoder {params.encoder:q} --storage {params.storage} --max-tokens {params.max_tokens}"
        " --batch-tokens {params.batch_tokens} --device {params.device} {params.options} --threads {threads}"
        " --out {params.out:q} > {log:q} 2>&1"
