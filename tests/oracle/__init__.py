"""A second, slow and obvious computation of the benchmark, to compare the package with.

Plain Python over csv rows: dicts and loops, no data frame, nothing imported from flexcare_data. Options are a dict
of option names to values. Choices that the specification leaves open are those of the package, each with a comment.
"""
