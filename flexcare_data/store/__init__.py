"""The store that a lab shares: stage folders, pools, and the commands that maintain it."""
