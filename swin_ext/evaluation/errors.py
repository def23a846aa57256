"""Errors of metrics that a user can mend."""

from __future__ import annotations

from swin_ext.utils.errors import UserError


class EvaluationError(UserError, ValueError):
    """An argument of a metric, the ground truth or a prediction cannot be used."""


class PredictionTypeError(UserError, TypeError):
    """Predictions of another type than the metrics take."""
