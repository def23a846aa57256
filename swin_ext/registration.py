"""Registers all that configs can name in MMEngine's registries, by importing it."""

from swin_ext import datasets, engine, evaluation
from swin_ext.models import swin, synced_heads

__all__ = ['datasets', 'engine', 'evaluation', 'swin', 'synced_heads']
