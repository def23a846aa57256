"""Choices of the command line, without what it takes to segment."""

from __future__ import annotations

FORMATS = ('nifti', 'dicomseg', 'coco', 'volumes', 'report')
INSTANCES = ('best', 'all')
NAMES = ('pseudonym', 'path')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
# As CMRMetric's, whose Dice and volumes say how good a model is at it.
SCORE_THRESHOLD = 0.3
