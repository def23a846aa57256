"""The whole cine of a Sunnybrook patient with the contours of its expert, between them ours.

There are contours of ED (both) and ES (inner) alone. Those of the phases between are interpolated
by their signed distances, the outer ones so that the muscle keeps its area: what a good model gives
for the pictures of a report, and no reference beyond ED and ES.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from beating_heart import MODEL
from scipy import ndimage

from swin_ext.conversion.contours import fill_contour, read_contour
from swin_ext.images.preprocessing import Preprocessing
from swin_ext.images.reading import read_frame
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.study.reading import read_study
from swin_ext.study.stacks import choose_short_axis

ED, ES = 19, 6


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Positive inside, in pixels; -30 far from anything."""
    if not mask.any():
        return np.full(mask.shape, -30.0)
    edt = ndimage.distance_transform_edt
    return np.clip(edt(mask) - edt(~mask), -30, 30)


def innermost(distance: np.ndarray, num_pixels: int) -> np.ndarray:
    """Boolean mask of the pixels of the largest distances."""
    mask = np.zeros(distance.shape, bool)
    mask.flat[np.argsort(-distance, axis=None, kind='stable')[:num_pixels]] = True
    return mask


def systole(phase: int, num_phases: int) -> float:
    """0 at ED, 1 at ES, smooth between."""
    emptying, filling = (ES - ED) % num_phases, (ED - ES) % num_phases
    after = (phase - ED) % num_phases
    share = after / emptying if after <= emptying else 1 - (after - emptying) / filling
    return 0.5 - 0.5 * np.cos(np.pi * share)


@lru_cache(maxsize=1)
def sunnybrook_study(data: Path, with_images: bool = False) -> SegmentedStudy:
    stack, _ = choose_short_axis(list(read_study(data / 'sunnybrook_study' / 'SCD0000301').stacks))
    contours = data / 'sunnybrook_dicom' / 'contours' / 'SC-HF-I-4'
    height, width = stack.slices[0].frames[0].height, stack.slices[0].frames[0].width
    shape = (stack.num_phases, len(stack.slices), height, width)
    labels, images = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for z, item in enumerate(stack.slices):
        masks = {
            (phase, kind): contour_mask(contours, item.frames[phase].number, kind, height, width)
            for phase in (ED, ES)
            for kind in 'io'
        }
        inner_ed, inner_es, outer_ed = (
            signed_distance(masks[key]) for key in ((ED, 'i'), (ES, 'i'), (ED, 'o'))
        )
        wall = masks[ED, 'o'].sum() - masks[ED, 'i'].sum() if masks[ED, 'o'].any() else 0
        for phase, frame in item.frames.items():
            share = systole(phase, stack.num_phases)
            area = (1 - share) * masks[ED, 'i'].sum() + share * masks[ES, 'i'].sum()
            inner = innermost((1 - share) * inner_ed + share * inner_es, int(area))
            if wall and inner.any():
                labels[phase, z][innermost(outer_ed, int(wall + area))] = 2
            labels[phase, z][inner] = 1
            if with_images:
                pixels = read_frame(frame.path)
                images[phase, z] = Preprocessing(window='slice').grey_levels(pixels, pixels)
    found = np.stack([(labels == label).any((2, 3)) for label in (1, 2)], -1)
    times = [frame.times['TriggerTime'] for _, frame in sorted(stack.slices[0].frames.items())]
    return SegmentedStudy(
        name='SCD0000301',
        images=images,
        labels=labels,
        scores=np.where(found, np.float32(0.95), np.float32(np.nan)),
        candidates=found.astype(int),
        present=np.ones(shape[:2], bool),
        classes=('LV', 'Myo'),
        pixel_spacing_mm=stack.spacing_mm,
        slice_positions_mm=np.array([item.position_mm for item in stack.slices]),
        slice_spacing_mm=stack.slice_spacing_mm,
        times_ms=np.array(times),
        assumptions=stack.warnings,
        left_out=(),
        model=MODEL,
    )


def contour_mask(folder: Path, number: int, kind: str, height: int, width: int) -> np.ndarray:
    path = folder / f'IM-0001-{number:04d}-{kind}contour-manual.txt'
    if not path.is_file():
        return np.zeros((height, width), bool)
    return fill_contour(read_contour(path, height, width), height, width)
