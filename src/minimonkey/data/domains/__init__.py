"""Task formats of domains: one file each makes rows of its annotations, and reads what the model answers."""
