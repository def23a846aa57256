"""A study segmented by the fake model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from segmentable import ThresholdModel
from swin_ext.inference.inputs import find_studies
from swin_ext.inference.segmentation import read_pixels, segment
from swin_ext.inference.study_stack import read_stack


def segmented(path: Path, instances: str = 'best', **options):
    """The segmented study, its stack and its instances."""
    (found,) = find_studies([path], Counter())
    stack = read_stack(found, **options)
    study, found_instances = segment(
        stack, read_pixels(stack), ThresholdModel(), 'p0123456789', instances
    )
    return study, stack, found_instances
