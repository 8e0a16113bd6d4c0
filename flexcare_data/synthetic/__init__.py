"""Fabricated raw data in the layout of the real releases, with labels that a model can learn.

The data has all three modalities and no real values. Every root has a file `SYNTHETIC`.
"""
