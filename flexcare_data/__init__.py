"""The data half: raw PhysioNet tables to seven cohorts."""
