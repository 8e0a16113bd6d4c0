"""Looking inside trained models; bootstrap and tests."""
