"""Note encoder and token vectors."""
