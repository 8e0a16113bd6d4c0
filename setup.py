"""Packages of the distribution. Everything else about it is in pyproject.toml.

The files of the workflow (Snakefile, rules, configuration, templates, profiles) are at the top of a checkout. An
installed distribution has them in a package folder beside the code, `flexcare_workflow`, where
`flexcare_data.package_files` finds them; `[tool.setuptools.package-data]` in pyproject.toml names them.
"""

from setuptools import find_namespace_packages, setup

setup(
    script_name="setup.py",  # setuptools leaves it out of the package at the top
    packages=[*find_namespace_packages(include=["flexcare_data*", "flexcare_model*"]), "flexcare_workflow"],
    package_dir={"flexcare_workflow": "."},
)
