"""Attention within windows: the cutting, and one implementation a file."""
