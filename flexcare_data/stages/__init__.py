"""The stages of the data half: one module each, with the function that builds its table and its `run`."""
