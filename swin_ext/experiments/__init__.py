"""Trainings that belong together: folds of cross-validation, configs compared, what they say."""
