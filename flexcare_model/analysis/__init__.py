"""Analyses of trained models; bootstrap and tests."""
