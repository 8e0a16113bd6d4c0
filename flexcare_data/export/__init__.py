"""What leaves the benchmark for other tools and for people."""
