# Published names below the output folder: links that show the products of this configuration. One rule makes all of them.


wildcard_constraints:
    published="|".join(PUBLISHED),


rule publish:
    localrule: True
    input:
        shown,
    output:
        link=f"{OUT}/{{published}}",
    params:
        commands=lambda wildcards: link_commands(
            product_of(wildcards.published), CONFIG.output, summaries_beside(wildcards.published)
        ),
    log:
        f"{OUT}/logs/publish/{{published}}.log",
    shell:
        "({params.commands}) > {log:q} 2>&1"


# A target that does not exist: Snakemake takes it for a file, and the message says what was probably meant.
rule no_such_target:
    input:
        no_such_target,
    output:
        "{target}",
    wildcard_constraints:
        target="[A-Za-z0-9_-]+",
