"""Exports of the benchmark for other tools and for people."""
