"""Training, evaluation, prediction and their files."""
