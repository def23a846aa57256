"""Which values of a metric are better, told from its name."""

from __future__ import annotations

from mmengine.hooks import CheckpointHook

from swin_ext.engine.errors import SettingError

RULES = ('greater', 'less')
# Parts of a metric's name; what mmengine knows comes first.
GREATER = (*CheckpointHook._default_greater_keys, 'dice', 'jaccard', 'iou')
LESS = (*CheckpointHook._default_less_keys, 'hd95', 'assd', 'error')


def rule_of(metric: str, rule: str | None = None) -> str:
    """Tell which values of a metric are better.

    Args:
        metric: Its name, as the validation logs it.
        rule: 'greater' or 'less', if given; else the name must tell.

    Returns:
        'greater' or 'less'.

    Raises:
        SettingError: If `rule` is another, or the name tells nothing or both.
    """
    if rule is not None:
        if rule not in RULES:
            raise SettingError(f"rule must be 'greater', 'less' or None, not {rule!r}.")
        return rule
    found = [
        rule
        for rule, parts in zip(RULES, (GREATER, LESS))
        if any(part.lower() in metric.lower() for part in parts)
    ]
    if len(found) != 1:
        raise SettingError(
            f"The name of the metric '{metric}' does not tell which values are better. "
            "Set rule='greater' or rule='less'."
        )
    return found[0]


def gain(rule: str, value: float, best: float) -> float:
    """By how much `value` is better than `best`; negative if it is worse."""
    return value - best if rule == 'greater' else best - value
