"""The command line of `tools/segment.py`, described there; torch is imported when it is needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from swin_ext.utils.program import run_tool

DESCRIPTION = """Segment the short-axis cine of cardiac MR studies: a folder in, a folder out.

    python tools/segment.py STUDY --out results
    python tools/segment.py TREE_OF_STUDIES --model inference_mask_rcnn.pth --out results
    python tools/segment.py sa_ED.nii.gz --formats nifti volumes --out results

INPUT is any of: image files or a folder of them (PNG, JPEG, npy), NIfTI of 2 to 4 axes, a DICOM
file, series or study, or a tree of many studies. Each study gets a folder below OUT:

    labels.nii.gz       labels on the grid of the source; 4-D for a cine
    dicom_seg/*.dcm     DICOM segmentations, one per phase (of DICOM alone)
    coco.json, coco_results.json, images/    instances in the COCO format
    volumes.csv         area and volume of each class, slice and phase
    report.html         curve, ED and ES, ejection fraction, overlays, findings
    study.json          figures, findings, model, settings, geometry, what was assumed and left out

Of a DICOM study, the stack is taken that lies across the heart and has most phases and slices;
--series chooses another. A study that fails is reported and nothing of it is written; finished ones
are skipped when the command is run again with the same model, settings and files. Exit code: 0 if
all studies are segmented, 1 if one failed or there is none, 2 for wrong arguments.

No name, id or date of a patient is written, but to DICOM segmentations, which carry those of their
source unless --anonymous. Not a medical device.
"""


def parse_spacing(text: str) -> tuple[float, ...]:
    """'1.25', '1.25,1.3' (rows, columns) or '1.25,1.25,8' (and slices) in mm."""
    try:
        values = tuple(float(value) for value in text.split(','))
    except ValueError:
        values = ()
    if not 1 <= len(values) <= 3 or not all(0 < value < 100 for value in values):
        raise argparse.ArgumentTypeError(
            f'{text!r} is no spacing in mm, as 1.25 or ROWS,COLUMNS or ROWS,COLUMNS,SLICES'
        )
    return values if len(values) > 1 else values * 2


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number from 1 on')
    return int(text)


def share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no number from 0 to 1')
    return value


def build_parser() -> argparse.ArgumentParser:
    from swin_ext.inference.choices import (
        FORMATS,
        INSTANCES,
        NAMES,
        PRECISIONS,
        SCORE_THRESHOLD,
    )

    parser = argparse.ArgumentParser(
        prog='segment',
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add('input', type=Path, nargs='+', metavar='INPUT', help='files or folders')
    add('--out', type=Path, required=True, help='folder to write')
    add('--model', help='inference_*.pth, .safetensors or .onnx (default: the model in the box)')
    add(
        '--score-thr',
        type=share,
        default=SCORE_THRESHOLD,
        help=f'lowest score of an instance (default: {SCORE_THRESHOLD})',
    )
    add('--nms-thr', type=share, help='overlap beyond which one box is left out (default: of it)')
    add('--precision', choices=PRECISIONS, default='auto', help='of the network (default: auto)')
    add('--device', default='auto', help='auto, cpu, cuda or cuda:1 (default: auto)')
    add('--batch-size', type=positive, default=8, help='frames at once (default: 8)')
    add('--workers', type=positive, default=2, help='threads that read and write (default: 2)')
    add('--series', help='number, UID or pattern of the description of the series to take')
    add(
        '--instances',
        choices=INSTANCES,
        default='best',
        help='one per class and frame, or all above the threshold (default: best)',
    )
    add(
        '--formats',
        nargs='+',
        choices=FORMATS,
        help='what to write beside study.json (default: all that fit)',
    )
    add('--pdf', action='store_true', help='the report as PDF, too')
    add(
        '--spacing-mm',
        type=parse_spacing,
        help='spacing of files without one, as 1.25, ROWS,COLUMNS or ROWS,COLUMNS,SLICES',
    )
    add(
        '--names',
        choices=NAMES,
        default='pseudonym',
        help='folders of OUT are called by a hash of the images, or by paths, if these name '
        'nobody (default: pseudonym)',
    )
    add('--anonymous', action='store_true', help='DICOM segmentations without patient and dates')
    add(
        '--allow-burned-in',
        action='store_true',
        help='take images whose header says that text is burned into them',
    )
    return parser


def segment_as_asked(args: argparse.Namespace) -> int:
    """Segment what the arguments say; return the exit code."""
    from swin_ext.inference.model import load_model
    from swin_ext.inference.segment_studies import Settings, segment_studies

    model = load_model(args.model, args.device, args.precision, args.score_thr, args.nms_thr)
    if args.model is None:
        print(
            f'Without --model, the model in the box is used: {model.identity.name} '
            f'({", ".join(model.classes)}).'
        )
    settings = Settings(
        formats=tuple(args.formats) if args.formats else None,
        series=args.series,
        instances=args.instances,
        spacing_mm=args.spacing_mm,
        allow_burned_in=args.allow_burned_in,
        anonymous=args.anonymous,
        names=args.names,
        pdf=args.pdf,
        nms_threshold=args.nms_thr,
        precision=args.precision,
    )
    outcome = segment_studies(
        args.input, model, args.out, settings, args.batch_size, args.workers, _show
    )
    for reason, count in outcome.skipped.items():
        print(f'left out: {count} files, {reason}')
    print(
        f'{outcome.segmented} studies segmented, {outcome.resumed} were finished before, '
        f'{len(outcome.failed)} failed'
    )
    for label, text in outcome.failed:
        print(f'failed: {label}: {text}', file=sys.stderr)
    return 1 if outcome.failed else 0


def _show(text: str) -> None:
    from tqdm import tqdm

    tqdm.write(text)  # a progress bar may be there


def main(argv: list[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    return run_tool(lambda: segment_as_asked(args))
