"""What will go wrong, reported before anything runs."""
