# Numbers behind figures and tables. `analyse` and `fewer_modalities` need a trained model, `interaction` trains one,
# `bootstrap` reads predictions; each takes longer than drawing, and is kept below {output}/analysis/.


rule analyse:
    input:
        unpack(run_inputs),
        weights=run_file("model.safetensors"),
        config=run_file("config.json"),
    output:
        representations=f"{ANALYSIS}/representations.parquet",
        experts=f"{ANALYSIS}/experts.parquet",
    params:
        run=subpath(input.weights, parent=True),
        out=subpath(output.experts, parent=True),
        output=subpath(output.experts, ancestor=5),
        device=CONFIG.train.device,
        encoder=ENCODER_FOR_TOKENS,
        code=code_digest("flexcare_model.analysis.inside"),
    log:
        f"{OUT}/logs/analyse/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/analyse/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=gpus(CONFIG.train.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model analyse --run {params.run:q} --output {params.output:q} --parts inside"
        " --device {params.device} {params.encoder} --out {params.out:q} > {log:q} 2>&1"


rule fewer_modalities:
    input:
        unpack(run_inputs),
        weights=run_file("model.safetensors"),
        config=run_file("config.json"),
    output:
        scores=f"{ANALYSIS}/modalities.parquet",
    params:
        run=subpath(input.weights, parent=True),
        out=subpath(output.scores, parent=True),
        output=subpath(output.scores, ancestor=5),
        device=CONFIG.train.device,
        encoder=ENCODER_FOR_TOKENS,
        code=code_digest("flexcare_model.analysis.inside"),
    log:
        f"{OUT}/logs/fewer_modalities/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/fewer_modalities/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
        gpu=gpus(CONFIG.train.device),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model analyse --run {params.run:q} --output {params.output:q} --parts modalities"
        " --device {params.device} {params.encoder} --out {params.out:q} > {log:q} 2>&1"


rule interaction:
    input:
        unpack(run_inputs),
    output:
        history=f"{ANALYSIS}/interaction/history.parquet",
    params:
        settings=TRAIN_SETTINGS,
        encoder=ENCODER_FOR_TOKENS,
        out=subpath(output.history, parent=True),
        output=subpath(output.history, ancestor=6),
        code=training_code,
    log:
        f"{OUT}/logs/interaction/{{model}}/{{experiment}}/seed{{seed}}.log",
    benchmark:
        f"{OUT}/benchmarks/interaction/{{model}}/{{experiment}}/seed{{seed}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(2880),
        gpu=gpus(CONFIG.train.device),
        workers=CONFIG.train.workers,
        data_device=CONFIG.train.data_device,
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model train --output {params.output:q} --model {wildcards.model}"
        " --experiment {wildcards.experiment} --seed {wildcards.seed} --settings {params.settings:q} --interaction"
        " {params.encoder} --workers {resources.workers} --data-device {resources.data_device}"
        " --threads {threads} --code {params.code} --out {params.out:q} > {log:q} 2>&1"


rule bootstrap:
    """Numbers behind `statistics`: intervals, paired tests, calibration and groups, from the predictions."""
    input:
        runs=METHOD_RUNS,
        data=published("stays", *COHORTS),
    output:
        estimates=STATISTICS,
        others=expand(
            f"{OUT}/analysis/statistics/{{name}}.parquet", name=["comparisons", "curves", "calibration", "subgroups"]
        ),
    params:
        output=subpath(output.estimates, ancestor=3),
        below=CONFIG.report.suppress_below,
        code=REPORT_CODE,
    log:
        f"{OUT}/logs/bootstrap.log",
    benchmark:
        f"{OUT}/benchmarks/bootstrap.tsv"
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    conda:
        ENVIRONMENT
    shell:
        "python -m flexcare_model statistics --output {params.output:q} --suppress-below {params.below} > {log:q} 2>&1"
