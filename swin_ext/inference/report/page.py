"""`report.html`: what was found in a study, on one page that asks no server for anything."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from swin_ext.inference.clinical_figures import ClinicalFigures, clinical_figures
from swin_ext.inference.findings import Finding, find
from swin_ext.inference.report.pictures import (
    Crop,
    crop_of,
    for_eyes,
    sheet_of,
    shrunk,
    svg_path,
    webp_uri,
)
from swin_ext.inference.report.wording import (
    CONSENSUS,
    choices,
    figure_rows,
    group,
    ventricles_of,
)
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.utils.files import replacing_text
from swin_ext.version import __version__
from swin_ext.visualization.colours import colours_of

SHOWN_GROUPS = 12  # of findings; more are folded up
FRAME_MS = 50.0  # where the study does not say its times
MIN_FRAME_MS = 30.0  # browsers draw 60 pictures a second at most, and eyes follow fewer


def write_report(study: SegmentedStudy, folder: Path, pdf: bool = False) -> None:
    """Write `report.html`, and `report.pdf` if wanted, each whole or not at all.

    Neither has a name, an id or a date of a patient but what `study` has in its texts, nor any
    address that a browser would ask.

    Raises:
        OSError: If the folder cannot be written.
    """
    figures = clinical_figures(study)
    findings = find(study, figures)
    with replacing_text(folder / 'report.html') as file:
        file.write(render(study, figures, findings))
    if pdf:
        from swin_ext.inference.report.pdf import write_pdf

        write_pdf(study, figures, findings, folder / 'report.pdf')


def render(study: SegmentedStudy, figures: ClinicalFigures, findings: list[Finding]) -> str:
    """The page as text; whatever the study says is escaped."""
    import jinja2

    from swin_ext.inference.report.curve import cursor_places, curve_svg

    template = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).from_string(Path(__file__).with_name('page.html').read_text(encoding='utf-8'))
    colours = colours_of(study.classes)
    crop = crop_of(study)
    frames = for_eyes(study.images, crop)
    order = slices_from_base(study, figures)
    phases = {
        name: phase for name, phase in (('ED', figures.ed), ('ES', figures.es)) if phase is not None
    }
    groups = group(findings)
    return template.render(
        study=study,
        version=__version__,
        figures=figures,
        ventricles=ventricles_of(figures),
        rows=figure_rows(figures),
        phases=phases,
        colours={name: colours[name] for name in study.classes},
        curve=curve_svg(study, figures, colours),
        crop=crop,
        overlays=[
            (name, phase, [overlay(study, frames, phase, item, crop, colours) for item in order])
            for name, phase in phases.items()
        ],
        groups=groups,
        shown_groups=SHOWN_GROUPS,
        choices=choices(study, figures),
        consensus=CONSENSUS,
        cine=dict(cine_of(study, frames, crop, order, colours), cursor=cursor_places(study)),
        start_slice=order[len(order) // 2],
    )


def slices_from_base(study: SegmentedStudy, figures: ClinicalFigures) -> list[int]:
    """Indices of the slices; the end at which the cavity is larger is taken as the base."""
    order = list(range(study.labels.shape[1]))
    if figures.decided_by is None:
        return order
    volumes = figures.volumes_ml[figures.ed, :, study.classes.index(figures.decided_by)]
    found = np.flatnonzero(volumes)
    centre = (found * volumes[found]).sum() / volumes[found].sum()
    return order[::-1] if centre > (found[0] + found[-1]) / 2 else order


def overlay(
    study: SegmentedStudy,
    frames: np.ndarray,
    phase: int,
    item: int,
    crop: Crop,
    colours: dict[str, str],
) -> dict:
    """One of `frames` (see `for_eyes`) with its outlines, as the template takes it."""
    labels = study.labels[phase, item]
    found = [name for label, name in enumerate(study.classes, 1) if (labels == label).any()]
    return dict(
        slice=item,
        position_mm=float(study.slice_positions_mm[item]),
        present=bool(study.present[phase, item]),
        found=found,
        image=webp_uri(shrunk(frames[phase, item])),
        paths=[(colours[name], d) for name, d in _outlines(study, phase, item, crop)],
    )


def _outlines(study: SegmentedStudy, phase: int, item: int, crop: Crop) -> list[tuple[str, str]]:
    """Name and path of each structure, from the last class to the first, which lies on top."""
    paths = [
        (name, svg_path(study.labels[phase, item], label, crop))
        for label, name in enumerate(study.classes, 1)
    ]
    return [(name, path) for name, path in reversed(paths) if path]


def cine_of(
    study: SegmentedStudy,
    frames: np.ndarray,
    crop: Crop,
    order: list[int],
    colours: dict[str, str],
) -> dict:
    """All `frames` (see `for_eyes`) and outlines for the canvas; a sheet has a slice's phases."""
    num_phases = len(study.labels)
    columns = math.ceil(math.sqrt(num_phases))
    pictures = np.stack([[shrunk(frame) for frame in frames[:, item]] for item in order])
    step_ms = FRAME_MS
    if study.times_ms is not None and num_phases > 1:
        step_ms = float(np.median(np.diff(study.times_ms)))
    names = list(study.classes)
    return dict(
        width=crop.width,
        height=round(crop.height, 2),
        frame=list(pictures.shape[:1:-1]),
        columns=columns,
        phases=num_phases,
        slices=order,
        sheets=[webp_uri(sheet_of(of_slice, columns)) for of_slice in pictures],
        colours=[colours[name] for name in names],
        outlines=[
            [
                [[names.index(name), d] for name, d in _outlines(study, phase, item, crop)]
                for phase in range(num_phases)
            ]
            for item in order
        ],
        present=study.present.T[order].tolist(),
        times=None if study.times_ms is None else [round(float(t)) for t in study.times_ms],
        step_ms=max(MIN_FRAME_MS, step_ms),
    )
