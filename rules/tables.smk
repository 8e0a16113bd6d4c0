# Tables and figures. Each takes seconds, so on a cluster it is made where snakemake runs (localrule). The target of a
# comparison requests the runs of all its methods. With --keep-going a failed run stops only what needs it.
# flexcare_model/report/catalogue.py declares what each needs.


wildcard_constraints:
    table="|".join(TABLE_STEMS),
    figure="|".join(FIGURES),


rule tables:
    localrule: True
    input:
        unpack(product_inputs(table_of)),
    output:
        manifest=f"{BY_KEY}/tables-{{table}}-{{key}}/manifest.json",
    params:
        recipe=product_recipe(table_of),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/tables-{{table}}-{{key}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    shell:
        "python -m flexcare_model tables {wildcards.table} --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule figure:
    localrule: True
    input:
        unpack(product_inputs(figure_of)),
    output:
        manifest=f"{BY_KEY}/figures-{{figure}}-{{key}}/manifest.json",
    params:
        recipe=product_recipe(figure_of),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/figures-{{figure}}-{{key}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    shell:
        "python -m flexcare_model figure {wildcards.figure} --recipe {params.recipe:q} --out {params.out:q}"
        " > {log:q} 2>&1"


rule table2:
    """Table 2: samples and missing modalities of each task."""
    input:
        published(lambda: [MODELS.table("table2")]),


rule table3:
    """Table 3: methods on the trained tasks."""
    input:
        published(lambda: [MODELS.table("table3")]),


rule table4:
    """Table 4: ablations."""
    input:
        published(lambda: [MODELS.table("table4")]),


rule table5:
    """Table 5: transfer to drg with 1 % and all of the training samples."""
    input:
        published(lambda: [MODELS.table("table5")]),


rule table6:
    """Table 6: without and with the task token."""
    input:
        published(lambda: [MODELS.table("table6")]),


rule figure1:
    """Figure 1b and 1c: labels and modalities per sample."""
    input:
        published(lambda: [MODELS.figure("figure1b"), MODELS.figure("figure1c")]),


rule figure4:
    """Figure 4: bar charts of the ablations."""
    input:
        published(lambda: [MODELS.figure("figure4")]),


rule figure5:
    """Figure 5: representations without and with the task token."""
    input:
        published(lambda: [MODELS.figure("figure5")]),


rule figure6:
    """Figure 6: which experts are chosen, by task and by modality combination."""
    input:
        published(lambda: [MODELS.figure("figure6")]),


rule figure7:
    """Figure 7: all tasks after each task of each epoch (one separate training)."""
    input:
        published(lambda: [MODELS.figure("figure7")]),


rule missing_modalities:
    """Trained models scored with less data on the same samples; contribution of each modality; tables and figures."""
    input:
        published(
            lambda: [
                MODELS.table("modalities"),
                *map(MODELS.figure, ("missing_modalities", "contributions", "lost_data")),
            ]
        ),


rule statistics:
    """Intervals, paired tests, calibration, selective prediction, decision curves, groups; tables and figures."""
    input:
        published(
            lambda: [
                MODELS.statistics,
                MODELS.table("statistics"),
                *(MODELS.figure(name) for name, entry in FIGURES.items() if entry.needs == ("statistics",)),
            ]
        ),
