# Samples and labels: one cohort per task, the audit of all cohorts, and their fingerprint.


rule cohort:
    input:
        unpack(stage_inputs("cohort-{task}")),
    output:
        done=touch(mark("cohort-{task}")),
    params:
        arguments=stage_arguments("cohort-{task}"),
    log:
        f"{OUT}/logs/cohort-{{task}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/cohort-{{task}}-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    shell:
        "python -m flexcare_data cohort --task {wildcards.task} {params.arguments} --threads {threads} > {log:q} 2>&1"


rule audit:
    input:
        unpack(stage_inputs("audit")),
    output:
        done=touch(mark("audit")),
    params:
        arguments=stage_arguments("audit"),
    log:
        f"{OUT}/logs/audit-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/audit-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    shell:
        "python -m flexcare_data audit {params.arguments} --memory-mb {resources.mem_mb} --threads {threads}"
        " > {log:q} 2>&1"


rule fingerprint:
    input:
        unpack(product_inputs(lambda wildcards: MODELS.fingerprint)),
    output:
        manifest=f"{BY_KEY}/fingerprint-{{key}}/manifest.json",
    params:
        recipe=product_recipe(lambda wildcards: MODELS.fingerprint),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/fingerprint-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/fingerprint-{{key}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    shell:
        "python -m flexcare_data fingerprint --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule cohorts:
    """The cohorts of all configured tasks, their data, the audit for leakage, their fingerprint and catalogue."""
    input:
        published(
            lambda: [
                *map(stage, PLAN.shared),
                *map(stage, PLAN.cohorts),
                stage("audit"),
                MODELS.fingerprint,
                MODELS.catalogue,
            ]
        ),


rule samples:
    """All inputs for your own models: cohorts, series, radiographs, note vectors."""
    input:
        rules.cohorts.input,
        published(lambda: [stage("images"), stage("notes")]),


# A target for each task by its name.
for task in task_names():

    rule:
        name:
            task
        input:
            cohort_and_its_data(task),

    workflow.get_rule(task).docstring = f"The cohort of {task.replace('_', ' ')}, and the data of its samples."
