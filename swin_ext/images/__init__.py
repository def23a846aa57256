"""Pixels of one file and how they become an image that a network takes."""
