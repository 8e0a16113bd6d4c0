# Models. A run is a model, an experiment, a seed, and a key, the hash of everything that determines its content.


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
        published(lambda: MODELS.baseline_runs(CONFIG.train.baselines)),


rule ablations:
    """FlexCare without one of its parts at a time."""
    input:
        published(lambda: MODELS.runs(MODELS.variants, ["six_tasks"])),


rule drg_transfer:
    """FlexCare on drg with 1 % and 100 % of the training data, from the multi-task weights and from scratch."""
    input:
        published(lambda: MODELS.transfer_runs(CONFIG.train.baselines)),
