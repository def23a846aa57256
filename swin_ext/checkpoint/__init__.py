"""Checkpoints: read safely, matched to a model, written whole, found again."""
