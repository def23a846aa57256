"""Segment study after study: each is whole or not there, and one that fails stops no other."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from swin_ext.conversion.output_folder import locked
from swin_ext.inference.choices import FORMATS
from swin_ext.inference.inputs import FoundStudy, InputError, find_studies
from swin_ext.inference.outputs.study_folder import (
    is_finished,
    remove_leftovers,
    whole_folder,
    write_summary,
)
from swin_ext.inference.segmentation import FoundInstance, read_pixels, segment
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.inference.study_names import StudyNames, fingerprint_of
from swin_ext.inference.study_stack import StudyStack, read_stack
from swin_ext.study.errors import StudyError
from swin_ext.utils.errors import UserError
from swin_ext.utils.optional import MissingPackageError, require
from swin_ext.utils.program import SHOW_ALL

if TYPE_CHECKING:
    from swin_ext.inference.model import SegmentationModel


# With these, no study after this one could be written.
DISK_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EDQUOT)


class OutputError(UserError, OSError):
    """The folder of the results cannot be written."""


@dataclass(frozen=True)
class Settings:
    """How studies are segmented.

    Args:
        formats: Of `FORMATS`; None are all that fit the study and whose packages are there.
        series: See `short_axis.choose`.
        instances: See `segmentation.segment`.
        spacing_mm: See `study_stack.read_stack`; likewise `allow_burned_in`.
        anonymous: DICOM segmentations get no patient and no dates.
        names: See `StudyNames`.
        pdf: The report as PDF, too.
        nms_threshold: What the model was loaded with; likewise `precision`.
    """

    formats: tuple[str, ...] | None = None
    series: str | None = None
    instances: str = 'best'
    spacing_mm: tuple[float, ...] | None = None
    allow_burned_in: bool = False
    anonymous: bool = False
    names: str = 'pseudonym'
    pdf: bool = False
    nms_threshold: float | None = None
    precision: str = 'auto'


@dataclass
class Outcome:
    """What became of the studies.

    Args:
        segmented: Number of those that were written.
        resumed: Number of those that were finished before.
        failed: Label and what is wrong, of each that was not.
        skipped: Number of files that are none of a study, by reason.
    """

    segmented: int = 0
    resumed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)


def segment_studies(
    inputs: Sequence[Path],
    model: SegmentationModel,
    out: Path,
    settings: Settings = Settings(),  # noqa: B008
    batch_size: int = 8,
    workers: int = 2,
    show: Callable[[str], None] = print,
) -> Outcome:
    """Segment all studies of the inputs into `out/NAME/`.

    Studies are found, read, segmented and written one after the other; while the network works on
    one, the one before is written. So memory holds two at most.

    Args:
        workers: Threads that read frames and write; with 1 nothing is done meanwhile.
        show: Is told of each study.

    Raises:
        InputError: If there is no study.
        OutputError: If `out` cannot be written, or the disk is full; finished studies stay.
        MissingPackageError: If a format that is asked for needs a package that is missing.
        OutputFolderError: If another run is writing into `out`.
    """
    settings = replace(settings, formats=_available(settings.formats, show))
    run = _Run(model, out, settings, batch_size, show)
    _make(out)
    with locked(out), warnings.catch_warnings(), ThreadPoolExecutor(max(workers, 1)) as readers:
        # Libraries put values of headers into them; and contexts in threads would mix them up.
        warnings.simplefilter('ignore')
        remove_leftovers(out)
        with ThreadPoolExecutor(1) as writer:
            pending = None
            for found in find_studies(inputs, run.outcome.skipped, exclude=out):
                written = run.segment(found, readers if workers > 1 else None)
                if pending is not None:
                    run.finish(*pending)
                    pending = None
                if written is not None:
                    pending = (found, written, writer.submit(run.write, *written))
                    if workers <= 1:
                        run.finish(*pending)
                        pending = None
            if pending is not None:
                run.finish(*pending)
    outcome = run.outcome
    if not (outcome.segmented or outcome.resumed or outcome.failed):
        counts = ', '.join(f'{count} {reason}' for reason, count in outcome.skipped.items())
        raise InputError(
            f'There is no study in {", ".join(map(str, inputs))}: '
            f'{counts or "it has no file"}. Give files or folders of DICOM, NIfTI, PNG, JPEG or '
            'NumPy images.'
        )
    return outcome


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f'The folder {out} cannot be made: {error.strerror}. Choose another --out.'
        ) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise OutputError(f'{out} cannot be written. Choose another --out, or change its rights.')


def _available(
    formats: tuple[str, ...] | None, show: Callable[[str], None]
) -> tuple[str, ...] | None:
    """The formats that are asked for, after a look for their packages."""
    if formats is not None and 'dicomseg' not in formats:
        return formats
    try:
        require('highdicom', 'Writing DICOM segmentations')
    except MissingPackageError as error:
        if formats is not None:
            raise
        show(f'No DICOM segmentations are written: {error}')
        return tuple(name for name in FORMATS if name != 'dicomseg')
    return formats


class _Run:
    """A run over studies, with what has become of them."""

    def __init__(
        self,
        model: SegmentationModel,
        out: Path,
        settings: Settings,
        batch_size: int,
        show: Callable[[str], None],
    ):
        self.model, self.out, self.settings = model, out, settings
        self.batch_size, self.show = batch_size, show
        self.names = StudyNames(settings.names)
        self.outcome = Outcome()
        self.results_settings = {
            **asdict(settings),
            'score_threshold': model.identity.score_threshold,
            'model_name': model.identity.name,
        }

    def segment(self, found: FoundStudy, readers: ThreadPoolExecutor | None) -> tuple | None:
        """Arguments of `write`; None if the study was finished before, or fails."""
        from tqdm import tqdm

        try:
            name = self.names.name(found)
            fingerprint = fingerprint_of(found, self.model.identity.sha256, self.results_settings)
            if is_finished(self.out / name, fingerprint):
                self.outcome.resumed += 1
                return None
            settings = self.settings
            stack = read_stack(
                found, settings.series, settings.spacing_mm, settings.allow_burned_in
            )
            stack, formats = _with_formats(stack, settings.formats, found)
            pixels = read_pixels(stack, readers)
            with tqdm(
                total=len(pixels.frames), desc=name, unit=' frames', leave=False, disable=None
            ) as bar:
                study, instances = segment(
                    stack, pixels, self.model, name, settings.instances, self.batch_size, bar.update
                )
            return study, stack, instances, formats, fingerprint
        except Exception as error:  # of one study, which must not end the others
            self.fail(found, error)
            return None

    def write(
        self,
        study: SegmentedStudy,
        stack: StudyStack,
        instances: list[FoundInstance],
        formats: tuple[str, ...],
        fingerprint: str,
    ) -> None:
        """Write the folder of a study."""
        with whole_folder(self.out / study.name) as folder:
            write_formats(study, stack, instances, formats, self.model, self.settings, folder)
            write_summary(study, stack, self.results_settings, fingerprint, folder)

    def finish(self, found: FoundStudy, written: tuple, future) -> None:
        """Wait until a study is written.

        Raises:
            OutputError: If the disk is full or cannot be written.
        """
        study = written[0]
        try:
            future.result()
        except OSError as error:
            if error.errno in DISK_ERRORS and not isinstance(error, UserError):
                raise OutputError(
                    f'{self.out} cannot be written: {error.strerror}. {self.outcome.segmented} '
                    'studies are finished; when this is put right, run again to go on.'
                ) from error
            self.fail(found, error)
        except Exception as error:
            self.fail(found, error)
        else:
            self.outcome.segmented += 1
            phases, slices = study.present.shape
            self.show(
                f'{found.label}: {slices} slices x {phases} phases -> {self.out / study.name}'
            )
            for sentence in study.left_out:
                self.show(f'  left out: {sentence}')
            for sentence in study.assumptions:
                self.show(f'  assumed: {sentence}')

    def fail(self, found: FoundStudy, error: Exception) -> None:
        """Note a failed study, and tell of it."""
        text = str(error) if isinstance(error, UserError) else f'{type(error).__name__}: {error}'
        if os.environ.get(SHOW_ALL):
            traceback.print_exception(type(error), error, error.__traceback__, file=sys.stderr)
        self.outcome.failed.append((found.label, text))
        self.show(f'{found.label}: FAILED, nothing of it is written: {text}')


def _with_formats(
    stack: StudyStack, formats: tuple[str, ...] | None, found: FoundStudy
) -> tuple[StudyStack, tuple[str, ...]]:
    """The formats to write of a study; the stack says what none can be written of."""
    if stack.kind == 'dicom':
        chosen = FORMATS if formats is None else formats
        if formats is None:
            from swin_ext.inference.outputs.dicom_seg import check_source

            try:
                check_source(stack)
            except StudyError as error:
                chosen = tuple(name for name in FORMATS if name != 'dicomseg')
                sentence = f'no DICOM segmentation is written: {error.problem}'
                stack = replace(stack, left_out=(*stack.left_out, sentence))
        return stack, chosen
    if formats is not None and 'dicomseg' in formats:
        raise InputError(
            f'{found.files[0]} is no DICOM, so there is nothing that a DICOM segmentation could '
            'refer to. Leave dicomseg out of --formats.'
        )
    return stack, tuple(name for name in formats or FORMATS if name != 'dicomseg')


def write_formats(
    study: SegmentedStudy,
    stack: StudyStack,
    instances: list[FoundInstance],
    formats: tuple[str, ...],
    model: SegmentationModel,
    settings: Settings,
    folder: Path,
) -> None:
    """Write a study in each of the formats into a folder that is there and empty."""
    if 'nifti' in formats:
        from swin_ext.inference.outputs.label_nifti import write_label_nifti

        write_label_nifti(study, stack, folder)
    if 'dicomseg' in formats:
        from swin_ext.inference.outputs.dicom_seg import write_dicom_seg

        write_dicom_seg(study, stack, folder, settings.anonymous)
    if 'coco' in formats:
        from swin_ext.inference.outputs.coco_results import write_coco

        write_coco(study, stack.slice_numbers, instances, model.preprocessing, folder)
    if 'volumes' in formats:
        from swin_ext.inference.outputs.volumes_table import write_volumes

        write_volumes(study, stack.slice_numbers, folder)
    if 'report' in formats:
        from swin_ext.inference.report import write_report

        write_report(study, folder, settings.pdf)
