"""What is on disk: a run's folder, its records, its checkpoints."""
