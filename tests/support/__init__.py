"""What several tests share: builders, fabricated data, injected faults."""
