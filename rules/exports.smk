# Exports for other tools: a DuckDB database over the tables, the radiographs to download, label files of MEDS.


rule write_catalogue:
    localrule: True
    input:
        unpack(product_inputs(lambda wildcards: MODELS.catalogue)),
    output:
        manifest=f"{BY_KEY}/catalogue-{{key}}/manifest.json",
    params:
        recipe=product_recipe(lambda wildcards: MODELS.catalogue),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/catalogue-{{key}}.log",
    shell:
        "python -m flexcare_data catalogue --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule catalogue:
    """The published tables as views of one DuckDB database, benchmark.duckdb."""
    input:
        published(lambda: [MODELS.catalogue, *map(stage, PLAN.shared), *map(stage, PLAN.cohorts)]),


rule list_images:
    localrule: True
    input:
        unpack(product_inputs(lambda wildcards: MODELS.image_list)),
    output:
        manifest=f"{BY_KEY}/image_list-{{key}}/manifest.json",
    params:
        root=lambda wildcards: (
            f"--mimic-cxr-jpg {shlex.quote(str(PLAN.root('mimic_cxr_jpg')))}" if PLAN.root("mimic_cxr_jpg") else ""
        ),
        cohorts=cohort_folders,
        recipe=product_recipe(lambda wildcards: MODELS.image_list),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/image_list-{{key}}.log",
    shell:
        "python -m flexcare_data image-list {params.root} {params.cohorts} --recipe {params.recipe:q}"
        " --out {params.out:q} 2>&1 | tee {log:q}"


rule image_list:
    """The radiographs that the configured tasks need, as a list for wget, with their number and size."""
    input:
        published(lambda: [MODELS.image_list]),


rule write_meds_labels:
    localrule: True
    input:
        unpack(product_inputs(lambda wildcards: MODELS.meds_labels)),
    output:
        manifest=f"{BY_KEY}/meds_labels-{{key}}/manifest.json",
    params:
        cohorts=cohort_folders,
        recipe=product_recipe(lambda wildcards: MODELS.meds_labels),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/meds_labels-{{key}}.log",
    shell:
        "python -m flexcare_data meds-labels {params.cohorts} --recipe {params.recipe:q} --out {params.out:q}"
        " > {log:q} 2>&1"


rule meds_labels:
    """The cohorts as label files of MEDS, one folder per task."""
    input:
        published(lambda: [MODELS.meds_labels]),
