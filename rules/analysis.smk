# Numbers behind figures and tables. `inside`, `modalities` and `validation` need a trained model, `interaction` trains
# one, `statistics` reads predictions; each takes longer than drawing.


rule inside:
    input:
        unpack(analysis_inputs("inside")),
    output:
        manifest=f"{BY_KEY}/inside-{{model}}-{{experiment}}-seed{{seed}}-{{key}}/manifest.json",
    params:
        recipe=analysis_recipe("inside"),
        device=CONFIG.train.device,
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/inside/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/inside/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=gpus(CONFIG.train.device),
    shell:
        "python -m flexcare_model analyse --kind inside --recipe {params.recipe:q} --device {params.device}"
        " --out {params.out:q} > {log:q} 2>&1"


rule modalities:
    input:
        unpack(analysis_inputs("modalities")),
    output:
        manifest=f"{BY_KEY}/modalities-{{model}}-{{experiment}}-seed{{seed}}-{{key}}/manifest.json",
    params:
        recipe=analysis_recipe("modalities"),
        device=CONFIG.train.device,
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/modalities/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/modalities/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(240),
        gpu=gpus(CONFIG.train.device),
    shell:
        "python -m flexcare_model analyse --kind modalities --recipe {params.recipe:q} --device {params.device}"
        " --out {params.out:q} > {log:q} 2>&1"


rule validation:
    input:
        unpack(analysis_inputs("validation")),
    output:
        manifest=f"{BY_KEY}/validation-{{model}}-{{experiment}}-seed{{seed}}-{{key}}/manifest.json",
    params:
        recipe=analysis_recipe("validation"),
        device=CONFIG.train.device,
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/validation/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/validation/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(120),
        gpu=gpus(CONFIG.train.device),
    shell:
        "python -m flexcare_model analyse --kind validation --recipe {params.recipe:q} --device {params.device}"
        " --out {params.out:q} > {log:q} 2>&1"


rule interaction:
    input:
        unpack(analysis_inputs("interaction")),
    output:
        metrics=f"{BY_KEY}/runs/interaction-{{model}}-{{experiment}}-seed{{seed}}-{{key}}/metrics.json",
    params:
        recipe=analysis_recipe("interaction"),
        execution=EXECUTION,
        out=subpath(output.metrics, parent=True),
    log:
        f"{OUT}/logs/interaction/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/interaction/{{model}}/{{experiment}}/seed{{seed}}-{{key}}.tsv"
    threads: CONFIG.train.threads
    resources:
        mem_mb=growing(16000),
        runtime=growing(2880),
        gpu=gpus(CONFIG.train.device),
    shell:
        "python -m flexcare_model train --interaction --recipe {params.recipe:q} {params.execution} --threads {threads}"
        " --out {params.out:q} > {log:q} 2>&1"


rule bootstrap:
    input:
        unpack(product_inputs(lambda wildcards: MODELS.statistics)),
    output:
        manifest=f"{BY_KEY}/statistics-{{key}}/manifest.json",
    params:
        recipe=product_recipe(lambda wildcards: MODELS.statistics),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/statistics-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/statistics-{{key}}.tsv"
    resources:
        mem_mb=growing(8000),
        runtime=growing(240),
    shell:
        "python -m flexcare_model statistics --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"
