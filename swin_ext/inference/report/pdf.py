"""`report.pdf`: the page on paper."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from swin_ext.inference.clinical_figures import ClinicalFigures
from swin_ext.inference.findings import Finding
from swin_ext.inference.report.curve import draw_curves
from swin_ext.inference.report.page import slices_from_base
from swin_ext.inference.report.pictures import crop_of, for_eyes, outlines
from swin_ext.inference.report.wording import (
    CONSENSUS,
    choices,
    figure_rows,
    group,
    ventricles_of,
)
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.utils.files import replacing
from swin_ext.version import __version__
from swin_ext.visualization.colours import colours_of

A4_INCHES = (8.27, 11.69)
COLUMNS = 4  # of pictures
ROWS = 5
LINES_PER_PAGE = 78
CHARACTERS = 108  # of a line
DISCLAIMER = 'Not a medical device. Segmented by a computer and checked by nobody: for research.'


def write_pdf(
    study: SegmentedStudy, figures: ClinicalFigures, findings: list[Finding], path: Path
) -> None:
    """Write figures and curve, the pictures of ED and ES, findings and choices, without a date."""
    colours = colours_of(study.classes)
    buffer = io.BytesIO()
    with PdfPages(buffer, metadata=dict(Title=f'Study {study.name}', CreationDate=None)) as pdf:
        pdf.savefig(_first_page(study, figures, len(group(findings)), colours))
        for name, phase in (('ED', figures.ed), ('ES', figures.es)):
            if phase is not None:
                for page in _picture_pages(study, figures, name, phase, colours):
                    pdf.savefig(page)
        for page in _text_pages(_lines(study, figures, findings)):
            pdf.savefig(page)
    with replacing(path) as file:
        file.write(buffer.getvalue())


def _new_page(title: str) -> Figure:
    figure = Figure(figsize=A4_INCHES)
    figure.text(0.07, 0.955, title, fontsize=15, fontweight='bold', parse_math=False)
    figure.text(0.07, 0.025, DISCLAIMER, fontsize=8, color='0.35')
    return figure


def _first_page(
    study: SegmentedStudy, figures: ClinicalFigures, num_findings: int, colours: dict[str, str]
) -> Figure:
    page = _new_page('Ventricular volumes and function')
    num_phases, num_slices = study.labels.shape[:2]
    about = f'Study {study.name}: {num_slices} slices, {num_phases} phases'
    page.text(0.07, 0.93, about, fontsize=10, color='0.35', parse_math=False)
    page.text(0.07, 0.905, DISCLAIMER, fontsize=10, fontweight='bold', color='#7a4b00')
    draw_curves(page.add_axes([0.11, 0.6, 0.82, 0.27]), study, figures, colours)
    y = 0.53
    places = dict(zip(ventricles_of(figures), (0.5, 0.78)))
    for ventricle, x in places.items():
        page.text(x, y, ventricle, fontsize=11, fontweight='bold', ha='right')
    for row in figure_rows(figures):
        y -= 0.023
        page.text(0.07, y, row.name, fontsize=10)
        for ventricle, x in places.items():
            if row.values[ventricle]:
                page.text(x, y, f'{row.values[ventricle]} {row.unit}', fontsize=10, ha='right')
            if row.indexed[ventricle]:
                text = f'{row.indexed[ventricle]} {row.unit}/m\u00b2'
                page.text(x + 0.15, y, text, fontsize=9, ha='right', color='0.35')
    y -= 0.05
    text = f'Findings to look at: {num_findings}, listed behind the pictures.'
    page.text(0.07, y, text, fontsize=10)
    model = f'Model {study.model.name} (swin_ext {study.model.version}), page by {__version__}'
    page.text(0.07, y - 0.021, model, fontsize=10, parse_math=False)
    return page


def _picture_pages(
    study: SegmentedStudy,
    figures: ClinicalFigures,
    name: str,
    phase: int,
    colours: dict[str, str],
) -> list[Figure]:
    crop = crop_of(study)
    frames = for_eyes(study.images, crop)[phase]
    order = slices_from_base(study, figures)
    pages = []
    for start in range(0, len(order), COLUMNS * ROWS):
        page = _new_page(f'{name}, phase {phase}, from base to apex')
        axes = page.subplots(
            ROWS, COLUMNS, gridspec_kw=dict(left=0.07, right=0.93, bottom=0.08, top=0.9)
        )
        for ax in axes.flat:
            ax.set_axis_off()
        for ax, item in zip(axes.flat, order[start : start + COLUMNS * ROWS]):
            height, width = frames[item].shape
            # Outlines count from the corner of the first pixel, and so does the extent.
            ax.imshow(frames[item], 'gray', vmin=0, vmax=255, extent=(0, width, height, 0))
            ax.set_aspect(study.pixel_spacing_mm[0] / study.pixel_spacing_mm[1])
            for label, of_class in reversed(list(enumerate(study.classes, 1))):
                for line in outlines(crop.of(study.labels[phase, item]), label):
                    ax.plot(*line.T, color=colours[of_class], linewidth=1)
            ax.set_title(f'slice {item}', fontsize=8)
        page.legend(
            handles=[Line2D([], [], color=colour, label=key) for key, colour in colours.items()],
            loc='lower right',
            ncols=len(colours),
            frameon=False,
            bbox_to_anchor=(0.95, 0.04),
        )
        pages.append(page)
    return pages


def _lines(
    study: SegmentedStudy, figures: ClinicalFigures, findings: list[Finding]
) -> list[tuple[str, bool]]:
    """Lines of text, and whether each is a heading."""
    paragraphs = [('To look at', True)]
    paragraphs += [
        (f'{item.first.severity}: {item.first.kind}, {item.where}: {item.first.text}', False)
        for item in group(findings)
    ] or [('None of the checks found anything. They do not find every error.', False)]
    paragraphs.append(('How the figures were made', True))
    paragraphs.append((f'As asked for by {CONSENSUS}.', False))
    paragraphs += [(f'{topic}: {text}', False) for topic, text in choices(study, figures)]
    for title, texts in (('Assumed', study.assumptions), ('Left out', study.left_out)):
        paragraphs.append((title, True))
        paragraphs += [(text, False) for text in texts] or [('Nothing.', False)]
    return [
        (line, heading)
        for text, heading in paragraphs
        for line in textwrap.wrap(text, CHARACTERS, subsequent_indent='   ') or ['']
    ]


def _text_pages(lines: list[tuple[str, bool]]) -> list[Figure]:
    pages = []
    for start in range(0, len(lines), LINES_PER_PAGE):
        page = _new_page('Findings and choices')
        some = lines[start : start + LINES_PER_PAGE]
        for y, (line, heading) in zip(np.linspace(0.92, 0.06, LINES_PER_PAGE), some):
            weight = 'bold' if heading else 'normal'
            page.text(0.07, y, line, fontsize=8, fontweight=weight, parse_math=False)
        pages.append(page)
    return pages
