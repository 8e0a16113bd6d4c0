"""Stage `events`: charted values of the kept stays."""
