"""The model half: cohorts to trained models, metrics and the report."""
