"""Tables, figures and pages from an output folder, without a model or a GPU.

In: `cohorts/`, `data/` and `runs/` of an output folder. Out: `tables/`, `figures/`, `report.html`, the dataset card.
A missing input is named in the result; it is not an error.
"""
