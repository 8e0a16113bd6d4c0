# Who is asked what and when: one cohort per task, the audit of all of them, and the links below the output folder.


rule cohort:
    input:
        **built("stays", "splits", "hourly", "sections"),
        raw=cohort_raw_files,
        events=cohort_events,
    output:
        manifest=manifest("cohort-{task}"),
    params:
        raw=PLAN.raw_arguments("mimiciv", "mimic_cxr_jpg"),
        stays=subpath(input.stays, parent=True),
        splits=subpath(input.splits, parent=True),
        hourly=subpath(input.hourly, parent=True),
        sections=subpath(input.sections, parent=True),
        options=cohort_options,
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/cohort-{{task}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/cohort-{{task}}-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data cohort --task {wildcards.task} {params.raw} --stays {params.stays:q}"
        " --splits {params.splits:q} --hourly {params.hourly:q} --sections {params.sections:q}"
        " {params.options} --threads {threads} --out {params.out:q} > {log:q} 2>&1"


rule audit:
    input:
        **built("stays", "splits", "events", "hourly", "sections"),
        raw=raw_files("audit"),
        cohorts=list(built(*COHORTS).values()),
    output:
        manifest=manifest("audit"),
    params:
        raw=PLAN.raw_arguments("mimiciv", "mimic_cxr_jpg"),
        cohorts=folders(*COHORTS),
        stays=subpath(input.stays, parent=True),
        splits=subpath(input.splits, parent=True),
        events=subpath(input.events, parent=True),
        hourly=subpath(input.hourly, parent=True),
        sections=subpath(input.sections, parent=True),
        options=options("audit"),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/audit-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/audit-{{key}}.tsv"
    threads: CONFIG.resources.threads
    resources:
        mem_mb=growing(CONFIG.resources.memory_mb),
        runtime=growing(60),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data audit {params.raw} --stays {params.stays:q} --splits {params.splits:q}"
        " --events {params.events:q} --hourly {params.hourly:q} --sections {params.sections:q}"
        " --cohorts {params.cohorts} {params.options} --threads {threads} --out {params.out:q} > {log:q} 2>&1"


# Links below the output folder, in groups. A choice is an empty file named by the keys of its group. Where the links were
# made for another configuration, by anybody, the choice is missing. Making it removes the links, so that they are made
# anew even if a kill or a clock that was set back comes in between.
# The output folder is a wildcard to keep these rules out of `--list-target-rules`.
for group, stages in GROUPS.items():

    rule:
        name:
            f"choose_{group.replace('-', '_')}"
        localrule: True
        output:
            choice=touch(choice(group).replace(OUT, "{out}", 1)),
        params:
            others=f"{shlex.quote(OUT)}/.published/{group}-*",
            links=" ".join(shlex.quote(f"{OUT}/{link}") for stage in stages for link in links(stage)),
        log:
            f"{{out}}/logs/choose-{group}.log",
        conda:
            ENVIRONMENT
        shell:
            "rm -f {params.others} {params.links} > {log:q} 2>&1"

    rule:
        name:
            f"publish_{group.replace('-', '_')}"
        localrule: True
        input:
            choice=choice(group),
            manifests=list(built(*stages).values()),
        output:
            links=[f"{{out}}/{link}" for stage in stages for link in links(stage)],
        params:
            commands="; ".join(link_commands(stage) for stage in stages),
        log:
            f"{{out}}/logs/publish-{group}.log",
        conda:
            ENVIRONMENT
        shell:
            "({params.commands}) > {log:q} 2>&1"


rule cohorts:
    """The cohorts of all configured tasks, their data, and the proof that nothing leaks."""
    input:
        published("stays", "splits", "events", "hourly", "sections", "audit", *COHORTS),


rule samples:
    """All that a model of one's own needs: cohorts, series, radiographs, note vectors."""
    input:
        rules.cohorts.input,
        published("cxr", "notes"),


# A target for each task by its name.
for task in TASKS.values():

    rule:
        name:
            task.name
        input:
            task_files(task.name),

    workflow.get_rule(task.name).docstring = f"Cohort: {task.description}."


rule meds_labels:
    """The cohorts as label files of MEDS, one folder per task."""
    localrule: True
    input:
        cohorts=list(built(*COHORTS).values()),
    output:
        folder=directory(f"{OUT}/meds_labels"),
    params:
        cohorts=folders(*COHORTS),
    log:
        f"{OUT}/logs/meds_labels.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_data meds-labels --cohorts {params.cohorts} --out {output.folder:q} > {log:q} 2>&1"
