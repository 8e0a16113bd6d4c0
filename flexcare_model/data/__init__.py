"""Samples of a task as PyTorch datasets and batches."""
