"""Find and read images with label masks in PNG."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.patterns import pair_paths
from swin_ext.conversion.pixels import read_picture
from swin_ext.conversion.study import LabelledSlice, LabelMap, Study, sha256_of

GREY_STEP = {2: 85, 4: 17}  # by which Pillow multiplies grey of few bits


@dataclass(frozen=True)
class PngStudy(Study):
    """All images of a patient.

    Args:
        pairs: Fields of the patterns as (name, value), image files and label files.
    """

    keep_8_bit = True

    pairs: tuple[tuple[tuple, tuple[Path, ...], tuple[Path, ...]], ...] = ()

    def source_files(self) -> list[Path]:
        return [path for kind in (1, 2) for pair in self.pairs for path in pair[kind]]

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        for fields, images, label_files in self.pairs:
            for kind, paths in (('image', images), ('label', label_files)):
                if len(paths) != 1:
                    raise ConversionError(
                        f'{len(paths)} {kind} files belong to one slice, but needed is one',
                        f'Check the --{kind} pattern, or complete the files',
                        (images + label_files)[0],
                    )
            image_path, label_path = images[0], label_files[0]
            image, is_display = read_picture(image_path)
            label_map = labels.check(read_mask(label_path), label_path)
            if label_map.shape != image.shape:
                raise ConversionError(
                    f'its shape {label_map.shape} is not that of the image {image.shape}',
                    'Pair it with the right image',
                    label_path,
                )
            fields = dict(fields)
            number = fields.get('slice')
            yield LabelledSlice(
                name='_'.join(value for name, value in fields.items() if name != 'patient') or '0',
                image=image,
                masks=labels.masks(label_map),
                source=image_path,
                sha256=sha256_of(image_path),
                spacing_mm=self.spacing_mm,
                slice=int(number) if number else None,
                phase=fields.get('phase'),
                frame=int(fields['frame']) if fields.get('frame') else None,
                is_display=is_display,
            )


def find_studies(
    root: Path, image: str, label: str, spacing_mm: tuple[float, float] | None = None
) -> list[PngStudy]:
    """Patients with their pairs of PNG files, by patterns as in `patterns.compile_pattern`.

    Raises:
        ArgumentError: If the patterns cannot be used.
    """
    pairs = defaultdict(list)
    for fields, images, labels in pair_paths(root, image, label):
        pairs[fields['patient']].append((tuple(fields.items()), tuple(images), tuple(labels)))
    return [
        PngStudy(patient, root, spacing_mm, tuple(slices))
        for patient, slices in sorted(pairs.items())
    ]


def read_mask(path: Path) -> np.ndarray:
    """Label values (H, W) of a grey or palette PNG of 1 to 16 bits; of a palette, the indices.

    As with images, an orientation in EXIF is applied. Grey of 2 and 4 bits keeps its values, which
    viewers spread to 8 bits.

    Raises:
        ConversionError: If it cannot be read, has colours, or holds several pictures.
    """
    try:
        with Image.open(path, formats=('PNG',)) as image:
            mode, pictures = image.mode, getattr(image, 'n_frames', 1)
            mask = np.array(ImageOps.exif_transpose(image))
        bit_depth = path.read_bytes()[24]  # of the header
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises many types on damaged files
        raise ConversionError(
            'it cannot be read as PNG', 'Export or download it again', path
        ) from error
    if pictures > 1:
        raise ConversionError(
            f'it is an animation of {pictures} pictures', 'Save each as a file of its own', path
        )
    if mask.ndim != 2:
        raise ConversionError(
            'it has colours, but a label mask has one value per pixel',
            'Convert it to grey or palette PNG',
            path,
        )
    step = GREY_STEP.get(bit_depth, 1) if mode == 'L' else 1
    return mask.astype(np.int64) // step
