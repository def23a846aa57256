"""The volumes over the cardiac cycle."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from swin_ext.inference.clinical_figures import ClinicalFigures, roles
from swin_ext.inference.segmented_study import SegmentedStudy

INCHES = (7.2, 3.4)
# Shares of the figure, fixed, so that a page knows where a phase lies.
LEFT, RIGHT, BOTTOM, TOP = 0.09, 0.985, 0.16, 0.97


def draw_curves(
    ax: Axes, study: SegmentedStudy, figures: ClinicalFigures, colours: dict[str, str]
) -> None:
    """Volume of each structure over time; ED and ES are marked."""
    times = phase_times(study)
    muscle = roles(study.classes).get('myo')
    for label, name in enumerate(study.classes):
        curve = figures.curves_ml[:, label]
        if curve.any():
            style = dict(linewidth=2, marker='o', markersize=3.5)
            if label == muscle:  # incompressible: its curve is a check, and no figure
                style = dict(linewidth=1.2, linestyle='dashed')
            ax.plot(times, curve, color=colours[name], label=name, **style)
    for name, phase in (('ED', figures.ed), ('ES', figures.es)):
        if phase is not None:
            ax.axvline(times[phase], color='0.45', linewidth=1, linestyle='dotted', zorder=0)
            volume = figures.curves_ml[phase, study.classes.index(figures.decided_by)]
            ax.plot(times[phase], volume, 'o', markersize=9, markerfacecolor='none', color='black')
            ax.annotate(
                f'{name}  {volume:.0f} ml',
                (times[phase], volume),
                xytext=(0, 10 if name == 'ED' else -17),
                textcoords='offset points',
                ha='right' if phase > len(times) * 0.8 else 'left' if phase < 2 else 'center',
                fontweight='bold',
            )
    ax.set_xlabel('time after the R wave [ms]' if study.times_ms is not None else 'phase')
    ax.set_ylabel('volume [ml]')
    ax.set_xlim(*x_limits(times))
    ax.set_ylim(0, 1.18 * max(1.0, figures.curves_ml.max()))
    ax.grid(color='0.5', alpha=0.25, linewidth=0.6)
    ax.spines[['top', 'right']].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False, ncols=3, loc='lower left')


def phase_times(study: SegmentedStudy) -> np.ndarray:
    """Time of each phase in ms, or its number where the study does not say it; (T,)."""
    if study.times_ms is None:
        return np.arange(len(study.labels), dtype=float)
    return np.asarray(study.times_ms, float)


def x_limits(times: np.ndarray) -> tuple[float, float]:
    room = 0.03 * (times.max() - times.min()) or 1.0
    return times.min() - room, times.max() + room


def cursor_places(study: SegmentedStudy) -> list[float]:
    """Where each phase lies in the drawing, in percent of its width."""
    times = phase_times(study)
    first, last = x_limits(times)
    shares = LEFT + (RIGHT - LEFT) * (times - first) / (last - first)
    return [round(100 * share, 2) for share in shares]


def curve_svg(study: SegmentedStudy, figures: ClinicalFigures, colours: dict[str, str]) -> str:
    """An `<svg>` element with text as text, without a background, a date or an address."""
    settings = {'svg.fonttype': 'none', 'svg.hashsalt': 'swin_ext', 'font.size': 10}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=INCHES)
        ax = figure.add_axes([LEFT, BOTTOM, RIGHT - LEFT, TOP - BOTTOM])
        ax.patch.set_visible(False)
        draw_curves(ax, study, figures, colours)
        file = io.StringIO()
        nothing = dict.fromkeys(('Creator', 'Date', 'Format', 'Type'))
        figure.savefig(file, format='svg', transparent=True, metadata=nothing)
    text = file.getvalue()
    # Axes are as light or dark as the text around the figure.
    return text[text.index('<svg') :].replace('#000000', 'currentColor')
