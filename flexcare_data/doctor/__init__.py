"""Checks of data sets, settings and machine before anything runs."""
