# Pages: the report, the dataset card, the comparisons of the protocols and of the splits. A page shows its inputs and
# names those that do not exist. The three pages of `page` differ in their inputs: report.html has what `all` trains,
# paper.html everything, so_far.html what is finished.


wildcard_constraints:
    page="|".join(PAGES),


rule write_card:
    localrule: True
    input:
        unpack(product_inputs(lambda wildcards: MODELS.card)),
    output:
        manifest=f"{BY_KEY}/card-{{key}}/manifest.json",
    params:
        recipe=product_recipe(lambda wildcards: MODELS.card),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/card-{{key}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    shell:
        "python -m flexcare_model card --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule write_page:
    localrule: True
    input:
        unpack(product_inputs(page_of)),
    output:
        manifest=f"{BY_KEY}/page-{{page}}-{{key}}/manifest.json",
        page=report(
            f"{BY_KEY}/page-{{page}}-{{key}}/page.html", caption="../workflow/report/report.rst", category="Report"
        ),
    params:
        recipe=product_recipe(page_of),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/page-{{page}}-{{key}}.log",
    benchmark:
        f"{OUT}/benchmarks/page-{{page}}-{{key}}.tsv"
    resources:
        mem_mb=growing(4000),
        runtime=growing(60),
    shell:
        "python -m flexcare_model report --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule card:
    """Dataset card (Markdown) and Croissant description of the build."""
    input:
        published(lambda: [MODELS.card]),


rule report:
    """One page with cohorts, missing data, metrics and their settings; also table 2 and the dataset card."""
    input:
        published(lambda: [MODELS.page("report"), MODELS.card, MODELS.table("table2")]),


rule so_far:
    """Page and tables of the runs that are finished, naming those that are not (so_far.html)."""
    input:
        published(lambda: [MODELS.page("so_far"), MODELS.card, MODELS.table("table2")]),


rule paper:
    """Everything of the paper and beyond it: all runs, tables, figures, and one page with all of them (paper.html)."""
    input:
        published(
            lambda: [
                MODELS.page("paper"),
                MODELS.card,
                MODELS.statistics,
                *map(MODELS.table, TABLE_STEMS),
                *map(MODELS.figure, FIGURES),
            ]
        ),


rule write_comparison:
    localrule: True
    input:
        unpack(product_inputs(comparison)),
    output:
        manifest=f"{BY_KEY}/comparison-{{key}}/manifest.json",
    params:
        recipe=product_recipe(comparison),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/comparison-{{key}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    shell:
        "python -m flexcare_model compare-protocols --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule compare_protocols:
    """Effect of the published defects: sizes, labels and metrics of FlexCare under both protocols, on one page."""
    input:
        published(lambda: [comparison()]),


rule write_temporal_split:
    localrule: True
    input:
        unpack(product_inputs(temporal_split)),
    output:
        manifest=f"{BY_KEY}/temporal_split-{{key}}/manifest.json",
    params:
        recipe=product_recipe(temporal_split),
        out=subpath(output.manifest, parent=True),
    log:
        f"{OUT}/logs/temporal_split-{{key}}.log",
    resources:
        mem_mb=growing(4000),
        runtime=growing(30),
    shell:
        "python -m flexcare_model temporal-split --recipe {params.recipe:q} --out {params.out:q} > {log:q} 2>&1"


rule temporal_split:
    """Loss of FlexCare on later years: metrics and calibration by groups of years, and against the random split."""
    input:
        published(lambda: [temporal_split()]),
