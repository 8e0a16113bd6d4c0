# Models. A run is a model, an experiment, a seed, and the key of all that decides it.


@told
def run_of(wildcards):
    """The run of a job, under this configuration or under the other protocol."""
    begin()
    run = MODELS.run(wildcards.model, wildcards.experiment, int(wildcards.seed))
    if run.key != wildcards.key:
        renew_marks(other_models().data)
        run = other_models().run(wildcards.model, wildcards.experiment, int(wildcards.seed))
    return run


def run_inputs(wildcards):
    """Cohorts, series, radiographs and notes of a run, and the run whose weights it starts from."""
    return inputs_of(run_of(wildcards))


def run_recipe(wildcards):
    """The recipe of a run."""
    run = run_of(wildcards)
    pretrained = run.inputs.get("pretrained")
    return recipe(run, pretrained=str(pretrained.folder.absolute()) if pretrained else None, encoder=TOKEN_ENCODER)


# Only where the notes are stored as word-piece ids, which are embedded while training.
TOKEN_ENCODER = CONFIG.notes.encoder if CONFIG.notes.storage == "tokens" and CONFIG.notes.encoder != "tiny" else None
# Where and how fast a run is computed; this decides no result, so it is not in the key.
EXECUTION = shlex.join(
    f"--{name.replace('_', '-')}={getattr(CONFIG.train, name)}" for name in ("device", "workers", "data_device")
)


rule train:
    input:
        unpack(run_inputs),
    output:
        metrics=f"{BY_KEY}/runs/{{model}}-{{experiment}}-seed{{seed}}-{{key}}/metrics.json",
    params:
        recipe=run_recipe,
        execution=EXECUTION,
        out=subpath(output.metrics, parent=True),
    log:
        f"{OUT}/logs/train/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(1440),
        gpu=gpus(CONFIG.train.device),
    shell:
        "python -m flexcare_model train --recipe {params.recipe:q} {params.execution} --threads {threads}"
        " --out {params.out:q} > {log:q} 2>&1"


def reported_runs(wildcards):
    """Runs of `all`, by their published names."""
    return published(lambda: MODELS.reported_runs)(wildcards)


rule flexcare:
    """FlexCare trained on all tasks together, for each seed."""
    input:
        published(lambda: MODELS.runs(["flexcare"], ["six_tasks"])),


rule flexcare_st:
    """FlexCare trained on each task alone."""
    input:
        published(lambda: MODELS.runs(["flexcare"], MODELS.trained_tasks)),


rule baselines:
    """The configured baselines, each trained on each task."""
    input:
        published(lambda: MODELS.runs(CONFIG.train.baselines, MODELS.trained_tasks)),


rule ablations:
    """FlexCare without one of its parts at a time."""
    input:
        published(lambda: MODELS.runs(MODELS.variants, ["six_tasks"])),


rule drg_transfer:
    """FlexCare on drg with 1 % and 100 % of the training data, from the multi-task weights and from scratch."""
    input:
        published(lambda: MODELS.transfer_runs(CONFIG.train.baselines)),
