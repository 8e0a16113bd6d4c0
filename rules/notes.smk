# Notes: sections of discharge summaries, or radiology reports, and one vector per word piece of each text that a cohort
# uses.


rule sections:
    input:
        unpack(stage_inputs("sections")),
    output:
        done=touch(mark("sections")),
    params:
        arguments=stage_arguments("sections"),
    log:
        f"{OUT}/logs/sections-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/sections-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    shell:
        "python -m flexcare_data sections {params.arguments} > {log:q} 2>&1"


# Only where the option notes is radiology.
rule reports:
    input:
        unpack(stage_inputs("reports")),
    output:
        done=touch(mark("reports")),
    params:
        arguments=stage_arguments("reports"),
    log:
        f"{OUT}/logs/reports-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/reports-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(120),
    shell:
        "python -m flexcare_data reports {params.arguments} > {log:q} 2>&1"


# A note encoder that is not a local folder: fetched from the hub, or a tiny random one, once per store.
rule encoder:
    input:
        unpack(stage_inputs("encoder")),
    output:
        done=touch(mark("encoder")),
    params:
        arguments=stage_arguments("encoder"),
        encoder=CONFIG.notes.encoder,
    log:
        f"{OUT}/logs/encoder-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/encoder-{{key}}.tsv"
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    shell:
        "python -m flexcare_model encoder --encoder {params.encoder:q} {params.arguments} > {log:q} 2>&1"


# With notes.jobs above 1 separate jobs embed the parts, and `notes` finds them done.
rule notes_part:
    input:
        unpack(stage_inputs("notes")),
    output:
        done=temp(touch(part_mark("notes"))),
    params:
        settings=note_settings,
        arguments=stage_arguments("notes"),
    log:
        f"{OUT}/logs/notes-{{key}}-part{{part}}of{{parts}}.log",
    benchmark:
        f"{OUT}/benchmarks/notes-{{key}}-part{{part}}of{{parts}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
        gpu=gpus(CONFIG.notes.device),
    shell:
        "python -m flexcare_model notes {params.settings} --part {wildcards.part}/{wildcards.parts} {params.arguments}"
        " --threads {threads} > {log:q} 2>&1"


rule notes:
    input:
        unpack(stage_inputs("notes")),
        parts=part_marks("notes", CONFIG.notes.jobs),
    output:
        done=touch(mark("notes")),
    params:
        settings=note_settings,
        arguments=stage_arguments("notes"),
    log:
        f"{OUT}/logs/notes-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/notes-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(8000),
        runtime=growing(720),
        gpu=gpus(CONFIG.notes.device) if CONFIG.notes.jobs == 1 else 0,
    shell:
        "python -m flexcare_model notes {params.settings} {params.arguments} --threads {threads} > {log:q} 2>&1"
