"""Pictures of trainings and of predictions, for hooks and tools; matplotlib is imported there."""
