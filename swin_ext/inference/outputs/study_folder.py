"""The folder of a study's results: written aside and moved, so that it is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np

from swin_ext.inference.clinical_figures import FIGURE_UNITS, clinical_figures
from swin_ext.inference.findings import find
from swin_ext.inference.inputs import InputError
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.inference.study_stack import StudyStack
from swin_ext.utils.files import ASIDE, replacing_text
from swin_ext.version import __version__

SUMMARY_FILE = 'study.json'
OLD = '.old'


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds a study with the results that the fingerprint stands for.

    Raises:
        InputError: If it holds something else than results of this program.
    """
    if not os.path.lexists(folder):
        return False
    try:
        found = json.loads((folder / SUMMARY_FILE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or 'fingerprint' not in found:
        raise InputError(
            f'{folder} is there, but holds no results of this program (no {SUMMARY_FILE}), so it '
            'is not replaced. Move it away, or choose another --out.'
        )
    return found['fingerprint'] == fingerprint


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder beside `folder` to write into, which takes its place at the end.

    Raises:
        OSError: If it cannot be written. `folder` is as before, and nothing is left beside it.
    """
    aside = folder.with_name(f'.{folder.name}{ASIDE}')
    old = folder.with_name(f'.{folder.name}{OLD}')
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(out: Path) -> None:
    """Remove what a run that was killed has left; an old result that nothing replaced stays."""
    for aside in out.glob(f'.*{ASIDE}'):
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
    for old in out.glob(f'.*{OLD}'):
        folder = out / old.name[1 : -len(OLD)]
        if not (old / SUMMARY_FILE).is_file():
            continue
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            with suppress(OSError):
                old.rename(folder)


def write_summary(
    study: SegmentedStudy, stack: StudyStack, settings: dict, fingerprint: str, folder: Path
) -> None:
    """Write `study.json`: figures, findings, what segmented it, where it lies, what was assumed.

    Raises:
        OSError: If it cannot be written.
    """
    phases, slices, rows, columns = study.labels.shape
    clinical = clinical_figures(study)
    content = dict(
        name=study.name,
        program=f'swin_ext {__version__}',
        fingerprint=fingerprint,
        model=asdict(study.model),
        settings=settings,
        labels={'0': 'background', **{str(i): name for i, name in enumerate(study.classes, 1)}},
        source=stack.kind,
        phases=phases,
        slices=slices,
        slice_numbers=list(stack.slice_numbers),
        rows=rows,
        columns=columns,
        missing_frames=np.argwhere(~study.present).tolist(),
        pixel_spacing_mm=list(study.pixel_spacing_mm),
        slice_spacing_mm=study.slice_spacing_mm,
        slice_positions_mm=study.slice_positions_mm.tolist(),
        times_ms=None if study.times_ms is None else study.times_ms.tolist(),
        affine_ras_mm=None if stack.affine is None else stack.affine.tolist(),
        height_m=study.body.height_m,
        weight_kg=study.body.weight_kg,
        assumptions=list(study.assumptions),
        left_out=list(study.left_out),
        ed_phase=clinical.ed,
        es_phase=clinical.es,
        decided_by=clinical.decided_by,
        figures=_finite(clinical.figures),
        figures_per_m2=_finite(clinical.indexed),
        units={name: FIGURE_UNITS[name] for name in clinical.figures},
        body_surface_m2=clinical.body_surface_m2,
        curves_ml=dict(zip(study.classes, clinical.curves_ml.T.round(3).tolist())),
        notes=list(clinical.notes),
        findings=[asdict(finding) for finding in find(study, clinical)],
        note='Not a medical device.',
    )
    with replacing_text(folder / SUMMARY_FILE) as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.write('\n')


def _finite(figures: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what could not be measured is null."""
    return {name: value if np.isfinite(value) else None for name, value in figures.items()}
