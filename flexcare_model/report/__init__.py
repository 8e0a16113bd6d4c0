"""Tables, figures and the page that are made from an output folder. Nothing here needs a model or a GPU.

In: `cohorts/`, `data/` and `runs/` of an output folder. Out: `tables/`, `figures/`, `report.html`, the dataset card.
Whatever is absent is named in the result; it is never an error.
"""
