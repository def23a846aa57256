"""The annotation format: entries, masks, categories and their checks."""
