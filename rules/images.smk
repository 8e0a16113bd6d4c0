# Radiographs: when they were taken, and the tensors of those that the cohorts need; each is decoded once per store. With images.jobs above 1 separate jobs decode the
# parts, and `images` finds them done.


rule radiographs:
    input:
        unpack(stage_inputs("radiographs")),
    output:
        done=touch(mark("radiographs")),
    params:
        arguments=stage_arguments("radiographs"),
    log:
        f"{OUT}/logs/radiographs-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/radiographs-{{key}}.tsv"
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(30),
    shell:
        "python -m flexcare_data radiographs {params.arguments} > {log:q} 2>&1"


rule images_part:
    input:
        unpack(stage_inputs("images")),
    output:
        done=temp(touch(part_mark("images"))),
    params:
        settings=image_settings,
        arguments=stage_arguments("images"),
    log:
        f"{OUT}/logs/images-{{key}}-part{{part}}of{{parts}}.log",
    benchmark:
        f"{OUT}/benchmarks/images-{{key}}-part{{part}}of{{parts}}.tsv"
    threads: CONFIG.resources.image_processes
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(720),
    shell:
        "python -m flexcare_data images {params.settings} --part {wildcards.part}/{wildcards.parts} {params.arguments}"
        " --processes {threads} > {log:q} 2>&1"


rule images:
    input:
        unpack(stage_inputs("images")),
        parts=part_marks("images", CONFIG.images.jobs),
    output:
        done=touch(mark("images")),
    params:
        settings=image_settings,
        arguments=stage_arguments("images"),
    log:
        f"{OUT}/logs/images-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/images-{{key}}.tsv"
    threads: CONFIG.resources.image_processes if CONFIG.images.jobs == 1 else 1
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(720),
    shell:
        "python -m flexcare_data images {params.settings} {params.arguments} --processes {threads} > {log:q} 2>&1"
