# Models. A run is a model, an experiment and a seed; each is a target: {output}/runs/{model}/{experiment}/seed{seed}/.


rule train:
    input:
        unpack(run_inputs),
    output:
        metrics=run_file("metrics.json"),
        weights=run_file("model.safetensors"),
        config=run_file("config.json"),
        history=run_file("history.parquet"),
    params:
        settings=TRAIN_SETTINGS,
        pretrained=pretrained_argument,
        encoder=ENCODER_FOR_TOKENS,
        code=training_code,
        output=subpath(output.metrics, ancestor=5),
    log:
        f"{OUT}/logs/train/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/train/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(1440),
        gpu=gpus(CONFIG.train.device),
        workers=CONFIG.train.workers,
        data_device=CONFIG.train.data_device,
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model train --output {params.output:q} --model {wildcards.model}"
        " --experiment {wildcards.experiment} --seed {wildcards.seed} --settings {params.settings:q}"
        " {params.pretrained} {params.encoder} --workers {resources.workers} --data-device {resources.data_device}"
        " --threads {threads} --code {params.code} > {log:q} 2>&1"


rule flexcare:
    """FlexCare trained on all tasks together, for each seed."""
    input:
        runs(["flexcare"], ["six_tasks"]),


rule flexcare_st:
    """FlexCare trained on each task alone."""
    input:
        runs(["flexcare"], CONFIG.train.tasks),


rule baselines:
    """The configured baselines, each trained on each task."""
    input:
        runs(CONFIG.train.baselines, CONFIG.train.tasks),


rule ablations:
    """FlexCare without one of its parts at a time."""
    input:
        runs(ABLATIONS, ["six_tasks"]),


rule drg_transfer:
    """FlexCare on drg with 1 % and 100 % of the training data, from the multi-task weights and from scratch."""
    input:
        runs(["flexcare"], DRG_EXPERIMENTS),
        runs(CONFIG.train.baselines, [name for name in DRG_EXPERIMENTS if not name.endswith("_pretrained")]),
