"""The command line of `tools/cmr2coco.py`, described there; readers are imported when used."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from swin_ext.conversion.choices import FILLS, INSTANCES, LAYOUTS, PATIENT_IDS, PIXELS
from swin_ext.conversion.errors import ArgumentError, ConversionError
from swin_ext.conversion.splits import Split
from swin_ext.utils.errors import UserError

if TYPE_CHECKING:
    from swin_ext.conversion.settings import Settings
    from swin_ext.conversion.study import Study

DESCRIPTION = """Convert cardiac MR with expert labels from NIfTI, DICOM or PNG into COCO JSON.

    python tools/cmr2coco.py nifti ACDC/training --layout acdc --out data/acdc
    python tools/cmr2coco.py nifti ROOT --image '{patient}/sa_{phase}.nii.gz' \\
        --label '{patient}/seg_sa_{phase}.nii.gz' --labels 1=LV,2=Myo,4=RV --out data/mine
    python tools/cmr2coco.py dicom ROOT --images 'dicom/{patient}' \\
        --contours 'contours/{patient}' --link ROOT/link.csv --labels 1=LV,2=Myo --out data/mine
    python tools/cmr2coco.py dicom ROOT --images '{patient}' --segmentations '{patient}' \\
        --labels 1=LV,2=Myo,3=RV --out data/mine
    python tools/cmr2coco.py png ROOT --image 'images/{patient}_{slice}.png' \\
        --label 'masks/{patient}_{slice}.png' --spacing-mm 1.25 --labels 1=LV --out data/mine

OUT gets train.json, val.json (or one pair per fold), images/, a report of all that was left out,
and a file per finished study, by which a run that was interrupted goes on when it is started again.
Slices without a label beside labelled ones of the same time are kept, as a prediction there is an
error that counts. Running again with other arguments of a reader converts anew what they change,
with another setting or split asks for --overwrite, and patients that are no longer in ROOT are
removed from OUT.

Headers that identify a patient are never written. Names of folders and files may identify one,
too, so patients get pseudonyms and no path is written unless --patient-ids folder says that these
names are anonymous. In patterns, {patient} and other {fields} match within one path component, *
anything in it, **/ any folders; image and label belong together where all fields agree.
"""


def parse_spacing(text: str) -> tuple[float, float]:
    """'1.25' or '1.25,1.3' (rows, columns) in mm."""
    values = [float(value) for value in text.split(',')]
    if len(values) not in (1, 2) or not all(0 < value < 100 for value in values):
        raise argparse.ArgumentTypeError(f'{text!r} is no pixel spacing in mm, as 1.25 or 1.25,1.3')
    return values[0], values[-1]


def parse_frames(text: str) -> dict[str, int]:
    """'ED=0,ES=9'."""
    frames = {}
    for entry in text.split(','):
        phase, _, index = (part.strip() for part in entry.partition('='))
        if not phase or not (index.isascii() and index.isdigit()):
            raise argparse.ArgumentTypeError(f'{entry!r} is not PHASE=INDEX such as ED=0')
        if phase in frames:
            raise argparse.ArgumentTypeError(f'{text!r} has {phase} twice')
        frames[phase] = int(index)
    return frames


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('root', type=Path, help='folder of the data set')
    common.add_argument('--out', type=Path, required=True, help='folder to write')
    common.add_argument(
        '--labels',
        help='label values and their classes, as 1=LV,2=Myo,4=RV; '
        'their order is that of the categories',
    )
    common.add_argument('--ignore-labels', default='', help='label values without a class, as 3,5')
    common.add_argument(
        '--pixels',
        choices=PIXELS,
        default='png8',
        help='8-bit PNG by a percentile window, 16-bit PNG of the values, or none: '
        'file_name is the source file below ROOT (default: png8)',
    )
    common.add_argument(
        '--window',
        type=float,
        nargs=2,
        default=(0.5, 99.5),
        metavar=('LOWER', 'UPPER'),
        help='percentiles of png8, taken over the '
        'volume in NIfTI and over the image in DICOM and PNG (default: 0.5 99.5)',
    )
    common.add_argument(
        '--instances',
        choices=INSTANCES,
        default='class',
        help='one instance per class and slice, or per 8-connected component (default: class)',
    )
    common.add_argument(
        '--keep-empty',
        action='store_true',
        help='keep patients and times without any label, too; slices without a label beside '
        'labelled ones of the same time are always kept',
    )
    common.add_argument(
        '--allow-burned-in',
        action='store_true',
        help='convert DICOM images whose header says that text is burned into them',
    )
    common.add_argument(
        '--spacing-mm',
        type=parse_spacing,
        help='pixel spacing of files that carry none, as 1.25 or rows,columns',
    )
    common.add_argument(
        '--patient-ids',
        choices=PATIENT_IDS,
        default='pseudonym',
        help='patient_id from a hash of the images, or the {patient} of the '
        'pattern for names that identify nobody (default: pseudonym)',
    )
    split = common.add_mutually_exclusive_group()
    split.add_argument('--val-fraction', type=float, help='of the patients (default: 0.2)')
    split.add_argument('--val-patients', nargs='+', metavar='PATIENT')
    split.add_argument('--folds', type=int, help='for cross-validation')
    common.add_argument('--seed', type=int, default=0, help='of the split (default: 0)')
    common.add_argument(
        '--on-error',
        choices=('stop', 'skip'),
        default='stop',
        help='at a study that cannot be converted: stop, or leave it out and '
        'list it in report.json (default: stop)',
    )
    common.add_argument('--workers', type=int, default=1, help='processes (default: 1)')
    common.add_argument(
        '--overwrite', action='store_true', help='start anew where OUT holds an earlier conversion'
    )

    commands = parser.add_subparsers(dest='command', required=True)
    volumes = commands.add_parser('nifti', parents=[common], help='image and label volumes')
    volumes.add_argument('--layout', choices=(*LAYOUTS, 'generic'), default='generic')
    volumes.add_argument('--image', help='pattern of image files, for the generic layout')
    volumes.add_argument('--label', help='pattern of label files')
    volumes.add_argument(
        '--frames', type=parse_frames, help='of 4-D files, counted from 0, as ED=0,ES=9'
    )
    volumes.add_argument('--frames-csv', type=Path, help="M&Ms' table with the frames of ED and ES")
    volumes.add_argument(
        '--assume-same-grid',
        action='store_true',
        help='pair slices by index where a header has no affine',
    )
    series = commands.add_parser(
        'dicom',
        parents=[common],
        help='series with contour files or DICOM-SEG',
        description='With contours, label 1 is the cavity within the i-contour and label 2 the '
        'ring between i- and o-contour; with DICOM-SEG, labels are segment numbers.',
    )
    series.add_argument('--images', required=True, help='pattern of image folders')
    labels = series.add_mutually_exclusive_group(required=True)
    labels.add_argument('--contours', help='pattern of folders with contour text files')
    labels.add_argument('--segmentations', help='pattern of folders with DICOM-SEG objects')
    series.add_argument(
        '--fill',
        choices=FILLS,
        default='centres',
        help='pixels of a contour: those with their centre inside, or all that it touches, as in '
        'some published masks, which are about 5 %% too large (default: centres)',
    )
    series.add_argument('--link', type=Path, help='CSV: patient of the images, of the contours')
    images = commands.add_parser('png', parents=[common], help='images and label masks')
    images.add_argument('--image', required=True, help='pattern of image files')
    images.add_argument('--label', required=True, help='pattern of mask files')
    return parser


def find_studies(args: argparse.Namespace) -> list[Study]:
    """Studies of the sub-command; ArgumentError says which argument does not fit."""
    if args.command == 'nifti':
        from swin_ext.conversion import nifti

        if args.layout == 'generic' and not (args.image and args.label):
            raise ArgumentError(
                'the generic layout needs --image and --label, or choose a --layout'
            )
        if args.layout != 'generic' and (args.image or args.label or args.frames):
            raise ArgumentError(f'--image, --label and --frames are set by --layout {args.layout}')
        return nifti.find_studies(
            args.root,
            args.layout,
            args.image,
            args.label,
            args.frames,
            args.frames_csv,
            args.spacing_mm,
            args.assume_same_grid,
        )
    if args.command == 'dicom':
        if args.segmentations and args.fill != 'centres':
            raise ArgumentError(f'--fill {args.fill}: only contours are filled')
        from swin_ext.conversion import dicom

        studies = dicom.find_studies(
            args.root, args.images, args.contours, args.segmentations, args.link, args.spacing_mm
        )
        if args.contours:
            return [dataclasses.replace(study, fill=args.fill) for study in studies]
        return studies
    if args.spacing_mm is None:
        raise ArgumentError('PNG files carry no pixel spacing: give it with --spacing-mm')
    from swin_ext.conversion import png

    return png.find_studies(args.root, args.image, args.label, args.spacing_mm)


def find_settings(args: argparse.Namespace) -> Settings:
    """Settings of the arguments; ArgumentError says which do not fit together."""
    from swin_ext.conversion.settings import Settings
    from swin_ext.conversion.study import LabelMap

    labels = args.labels
    if labels is None and args.command == 'nifti' and args.layout != 'generic':
        from swin_ext.conversion import nifti

        labels = nifti.LAYOUTS[args.layout].labels
    if labels is None:
        raise ArgumentError('--labels says which label value is which class, as 1=LV,2=Myo,4=RV')
    label_map = LabelMap.parse(labels, args.ignore_labels)
    if args.command == 'dicom' and args.contours and set(label_map.class_of) - {1, 2}:
        raise ArgumentError(
            f'--labels {labels}: contours have the labels 1 (cavity) and 2 (myocardium) only'
        )
    if args.pixels == 'none' and args.patient_ids != 'folder':
        raise ArgumentError(
            '--pixels none writes the paths of the source files, in which names may '
            'identify patients: if they do not, say so with --patient-ids folder'
        )
    if not 0 <= args.window[0] < args.window[1] <= 100:
        raise ArgumentError(
            f'--window {args.window[0]:g} {args.window[1]:g}: needs 0 <= LOWER < UPPER <= 100'
        )
    if args.workers < 1:
        raise ArgumentError(f'--workers {args.workers}: needs at least 1')
    return Settings(
        label_map,
        args.pixels,
        tuple(args.window),
        args.instances,
        args.patient_ids,
        args.keep_empty,
        args.allow_burned_in,
    )


def summarise(report: dict, out: Path) -> str:
    lines = []
    for name, images in report['images'].items():
        counts = ', '.join(f'{key} {count}' for key, count in report['instances'][name].items())
        without = report['without_label'][name]
        lines.append(
            f'{out / name}.json: {images} images'
            + f' ({without} without a label)' * bool(without)
            + f'; instances: {counts}'
        )
    lines += [f'left out: {count} {reason}' for reason, count in report['left_out'].items()]
    lines += [f'WARNING: {count} {what}' for what, count in report['noted'].items()]
    if report['study_warnings']:
        lines.append(
            f'WARNING: place or time of {len(report["study_warnings"])} studies are in doubt: see '
            f'study_warnings in {out / "report.json"}'
        )
    never = [
        key
        for key in next(iter(report['instances'].values()))
        if not any(counts[key] for counts in report['instances'].values())
    ]
    if never:
        lines.append(f'WARNING: no instance of {", ".join(never)} anywhere: check --labels')
    for name, images in report['images'].items():
        if not images:
            lines.append(f'WARNING: {name}.json has no image')
        elif not any(report['instances'][name].values()):
            lines.append(f'WARNING: {name}.json has no label, so that nothing can be evaluated')
    if report['withdrawn']:
        lines.append(
            f'{report["withdrawn"]} patients of an earlier run are no longer there: what was '
            'written of them has been removed'
        )
    lines.append(
        f'{report["converted"]} studies converted, {report["resumed"]} were finished '
        f'before, {len(report["skipped"])} skipped; see {out / "report.json"}'
    )
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    fraction = (
        0.2
        if args.val_patients is None and args.folds is None and args.val_fraction is None
        else args.val_fraction
    )
    split = Split(
        fraction, tuple(args.val_patients) if args.val_patients else None, args.folds, args.seed
    )
    from swin_ext.conversion.convert import convert
    from swin_ext.conversion.workers import WorkersError

    try:
        settings = find_settings(args)
        studies = find_studies(args)
        if not studies:
            raise ArgumentError(f'no study found: nothing below {args.root} matches the patterns')
        report = convert(
            studies,
            args.out,
            settings,
            split,
            on_error=args.on_error,
            workers=args.workers,
            overwrite=args.overwrite,
        )
    except ConversionError as error:
        sys.exit(
            f'error: {error}\nNothing of this study was written; finished studies stay. Run '
            'again to go on, with --on-error skip to leave such studies out.'
        )
    except WorkersError as error:
        sys.exit(f'error: {error}')
    except (UserError, ValueError, ImportError) as error:
        parser.error(str(error))
    except OSError as error:  # for instance a full disk
        sys.exit(
            f'error: cannot write {error.filename or args.out}: {error.strerror or error}. '
            'Finished studies stay; when this is put right, run again to go on.'
        )
    except MemoryError:
        sys.exit(
            'error: not enough memory. Finished studies stay; run again with fewer --workers, or '
            'on a larger machine, to go on.'
        )
    except KeyboardInterrupt:
        sys.exit('interrupted; finished studies stay, run again to go on')
    print(summarise(report, args.out))
