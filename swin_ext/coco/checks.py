"""Finds what is wrong with a cardiac MR data set in COCO format although each entry is possible."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.coco.categories import normal_name
from swin_ext.coco.masks import count_parts, to_rle
from swin_ext.coco.spacing import spacing_of

# What to do about each finding unless the config says otherwise. What falsifies training or
# evaluation is an error; what some conventions want, or only part of the metrics needs, is not.
SEVERITIES = dict(
    zero_area='error',
    repeated_images='error',
    box_mismatch='error',
    filled_ring='warn',
    multi_part='warn',
    missing_spacing='warn',
    mixed_spacing='warn',
    shared_patients='error',
    permuted_classes='error',
)
CHOICES = ('error', 'warn', 'ignore')

# Boxes of contours differ from those of their pixels by the rounding of either end.
BOX_TOLERANCE_PX = 2.0
BATCH_SIZE = 10_000  # of masks that are in memory at a time
# A ring that has been filled covers its cavity; one whose contours cross a little does not.
FILLED_FRACTION = 0.5
# Spacings that differ by less are rounded differently, not scanned differently.
SPACING_TOLERANCE = 0.01

CAVITY_NAMES = ('lv', 'lvc', 'lv cavity', 'lv blood pool', 'left ventricle')
RING_NAMES = ('myo', 'myocardium', 'lv myo', 'lvm', 'lv myocardium')


@dataclass(frozen=True)
class Finding:
    """One kind of problem of a data set.

    Attributes:
        check: Key of `SEVERITIES`.
        severity: 'error' or 'warn'.
        summary: What is wrong and what to do, in a sentence or two.
        entries: One line for each place where it is, its id first.
        annotation_ids: Those to leave out to be rid of it; empty if that is no remedy.
    """

    check: str
    severity: str
    summary: str
    entries: tuple[str, ...] = ()
    annotation_ids: tuple[int, ...] = ()

    def describe(self, max_entries: int = 3) -> str:
        """Return the summary, the count and the first entries."""
        lines = [f'[{self.check}] {self.summary}']
        lines += [f'    {entry}' for entry in self.entries[:max_entries]]
        if len(self.entries) > max_entries:
            lines.append(f'    ... and {len(self.entries) - max_entries} more')
        return '\n'.join(lines)


def complete_severities(checks: dict | None) -> dict[str, str]:
    """Return `SEVERITIES` with the choices of a config; ValueError if one is unknown."""
    for check, severity in (checks or {}).items():
        if check not in SEVERITIES:
            raise ValueError(f'checks has {check!r}, but there are only {list(SEVERITIES)}.')
        if severity not in CHOICES:
            raise ValueError(f'checks: {check}={severity!r} must be one of {CHOICES}.')
    return {**SEVERITIES, **(checks or {})}


def check_content(
    content: dict, severities: dict[str, str], max_decoded: int | None = None
) -> list[Finding]:
    """Run all checks that need no other file.

    Args:
        content: A COCO file whose ids, boxes and masks `CMRDataset` has found possible.
        severities: Of every check, as `complete_severities` returns.
        max_decoded: Masks are decoded for at most so many annotations, evenly spaced over the
            file; the findings say so.
    """
    findings = [
        *check_masks(content, severities, max_decoded),
        *check_repeated(content['images']),
        *check_spacing(content['images']),
    ]
    return with_severity(findings, severities)


def with_severity(findings: list[Finding], severities: dict[str, str]) -> list[Finding]:
    """Set each finding's severity and leave out those to be ignored."""
    return [
        Finding(f.check, severities[f.check], f.summary, f.entries, f.annotation_ids)
        for f in findings
        if severities[f.check] != 'ignore'
    ]


def check_masks(
    content: dict, severities: dict[str, str], max_decoded: int | None
) -> list[Finding]:
    """Compare masks with their boxes and with each other."""
    masks = _Masks(content['images'], content['annotations'])
    if not len(masks):
        return []
    mask_boxes = masks.boxes
    is_empty = mask_boxes[:, 2] == 0

    def entry(i: int, text: str) -> str:
        return name_annotation(masks.annotation(i), masks.image(i)) + text

    def finding(check: str, summary: str, entries: dict[int, str], remedy: bool) -> Finding:
        return Finding(
            check,
            'warn',
            summary,
            tuple(entry(i, t) for i, t in entries.items()),
            tuple(masks.annotation(i)['id'] for i in entries) if remedy else (),
        )

    findings = []
    empty = {i: 'its mask has no pixel' for i in np.flatnonzero(is_empty)}
    if empty:
        findings.append(finding('zero_area', f'{len(empty)} masks are empty.', empty, True))

    wrong = {
        i: f'bbox {masks.annotation(i)["bbox"]}, but its mask has {mask_boxes[i].tolist()}'
        for i in np.flatnonzero((masks.gaps > BOX_TOLERANCE_PX) & ~is_empty)
    }
    if wrong:
        findings.append(
            finding(
                'box_mismatch',
                f'{len(wrong)} boxes are more than {BOX_TOLERANCE_PX:g} px off those '
                'of their masks. Compute them from the masks.',
                wrong,
                True,
            )
        )

    chosen = np.flatnonzero(~is_empty)
    sampled = ''
    if max_decoded is not None and len(chosen) > max_decoded:
        chosen = chosen[np.linspace(0, len(chosen) - 1, max_decoded).round().astype(int)]
        sampled = (
            f' Only {max_decoded} of {len(masks)} masks were looked at; '
            'tools/check_dataset.py looks at all.'
        )
    if severities['multi_part'] != 'ignore':
        parts = {
            i: f'{n} parts'
            for i, n in ((i, count_parts(masks.rle(i), mask_boxes[i])) for i in chosen)
            if n > 1
        }
        if parts:
            findings.append(
                finding(
                    'multi_part',
                    f'{len(parts)} masks have several parts. A structure is in one piece '
                    'in most slices; stray pixels distort its box.' + sampled,
                    parts,
                    False,
                )
            )
    if severities['filled_ring'] != 'ignore':
        filled = find_filled_rings(content['categories'], masks, chosen)
        if filled:
            findings.append(
                finding(
                    'filled_ring',
                    f'{len(filled)} myocardium masks cover their cavity, so that they '
                    'are disks instead of rings. Polygons cannot have a hole: save the masks as '
                    'RLE.' + sampled,
                    filled,
                    False,
                )
            )
    return findings


def name_annotation(annotation: dict, image: dict) -> str:
    """Say where a problem is."""
    return f'annotation {annotation["id"]} (image {image["id"]}, {image["file_name"]}): '


def find_filled_rings(categories: list[dict], masks: _Masks, chosen: np.ndarray) -> dict[int, str]:
    """Return index and description of the `chosen` ring masks that cover a cavity's."""
    cavities, rings = (
        [c['id'] for c in categories if normal_name(c['name']) in names]
        for names in (CAVITY_NAMES, RING_NAMES)
    )
    chosen = chosen[np.isin(masks.category_ids[chosen], rings)]
    candidates = np.isin(masks.category_ids, cavities)
    candidates &= np.isin(masks.image_ids, masks.image_ids[chosen])
    candidates = np.flatnonzero(candidates)
    cavity_of_image = dict(zip(masks.image_ids[candidates].tolist(), candidates.tolist()))
    filled = {}
    for i in chosen:
        cavity = cavity_of_image.get(int(masks.image_ids[i]))
        if cavity is not None:
            rle = masks.rle(cavity)
            shared = mask_utils.area(mask_utils.merge([masks.rle(i), rle], intersect=True))
            whole = mask_utils.area(rle)
            if shared > FILLED_FRACTION * whole:
                filled[i] = f'covers {shared / whole:.0%} of the cavity'
    return filled


def check_repeated(images: list[dict]) -> list[Finding]:
    """Find pictures that several entries stand for; what one annotates, the other calls absent."""
    first, repeated = {}, []
    for image in images:
        place = image['file_name'], image.get('slice_index'), image.get('frame_index')
        other = first.setdefault(place, image)
        if other is not image:
            repeated.append(f'images {other["id"]} and {image["id"]} are both {image["file_name"]}')
    if not repeated:
        return []
    return [
        Finding(
            'repeated_images',
            'warn',
            f'{len(repeated)} images are there more than once. Join their annotations in one '
            'entry, or tell slices and frames of a file apart by slice_index and frame_index.',
            tuple(repeated),
        )
    ]


class _Masks:
    """Those annotations with a mask of one object; masks are encoded when they are asked for.

    Attributes:
        boxes: (n, 4), measured: x, y, width and height.
        gaps: (n,), the most pixels that an edge of the box as written is off.
        image_ids: (n,).
        category_ids: (n,).
    """

    def __init__(self, images: Sequence[dict], annotations: Sequence[dict]) -> None:
        self._images, self._annotations = images, annotations
        self._sides = {
            image['id']: (place, image['height'], image['width'])
            for place, image in enumerate(images)
        }
        # Filled part by part: of a million, lists of parts and their sum would be 100 MB more.
        columns = [
            np.empty((len(annotations), *width), kind)
            for width, kind in [((), np.int32), ((4,), np.float32), ((), float), ((2,), np.int64)]
        ]
        count = 0
        for start in range(0, len(annotations), BATCH_SIZE):
            part = self._measure(annotations[start : start + BATCH_SIZE], start)
            end = count + len(part[0])
            for column, values in zip(columns, part):
                column[count:end] = values
            count = end
        self._places, self.boxes, self.gaps, ids = (column[:count] for column in columns)
        self.image_ids, self.category_ids = ids.T

    def __len__(self) -> int:
        return len(self._places)

    def annotation(self, i: int) -> dict:
        return self._annotations[int(self._places[i])]

    def image(self, i: int) -> dict:
        return self._images[self._sides[int(self.image_ids[i])][0]]

    def rle(self, i: int) -> dict:
        return self._encode(self.annotation(i))

    def _encode(self, annotation: dict) -> dict:
        return to_rle(annotation['segmentation'], *self._sides[annotation['image_id']][1:])

    def _measure(self, annotations: Sequence[dict], first: int) -> tuple[np.ndarray, ...]:
        chosen = [
            (first + place, a)
            for place, a in enumerate(annotations)
            if a.get('segmentation') and not a.get('iscrowd')
        ]
        rles = [self._encode(annotation) for _, annotation in chosen]
        written = np.array([a['bbox'] for _, a in chosen], float).reshape(-1, 4)
        boxes = np.asarray(mask_utils.toBbox(rles) if rles else (), float).reshape(-1, 4)
        starts = np.abs(written[:, :2] - boxes[:, :2])
        ends = np.abs(written[:, :2] + written[:, 2:] - (boxes[:, :2] + boxes[:, 2:]))
        return (
            np.array([place for place, _ in chosen], int),
            boxes,
            np.maximum(starts, ends).max(1),
            np.array([(a['image_id'], a['category_id']) for _, a in chosen], int).reshape(-1, 2),
        )


def check_spacing(images: list[dict]) -> list[Finding]:
    """Look for pixel sizes that are missing, impossible, or not the same everywhere."""
    spacings, missing = {}, []
    for image in images:
        spacing = spacing_of(image)
        if spacing is None:
            given = image.get('spacing_mm')
            missing.append(
                f'image {image["id"]} ({image["file_name"]}): '
                + ('no spacing_mm' if given is None else f'spacing_mm is {given!r}')
            )
        else:
            spacings[image['id']] = spacing
    findings = []
    if missing:
        findings.append(
            Finding(
                'missing_spacing',
                'warn',
                f'{len(missing)} of {len(images)} images have no usable '
                'spacing_mm, the height and width of a pixel in mm. Distances in mm and volumes '
                'cannot be computed for them.',
                tuple(missing),
            )
        )
    sizes = np.array(list(spacings.values()))
    if len(sizes) and (sizes.max(0) > (1 + SPACING_TOLERANCE) * sizes.min(0)).any():
        counts = Counter(
            tuple(round(value, 3) for value in spacing) for spacing in spacings.values()
        )
        findings.append(
            Finding(
                'mixed_spacing',
                'warn',
                f'Pixels measure from {sizes.min():.3g} to {sizes.max():.3g} '
                'mm, so that the same heart differs in size. Resample the images, or train with '
                'random scales of that range.',
                tuple(
                    f'{height:g} x {width:g} mm: {n} images'
                    for (height, width), n in counts.most_common()
                ),
            )
        )
    return findings


def compare_splits(
    content: dict, other: dict, other_name: str, severities: dict[str, str]
) -> list[Finding]:
    """Look for patients that both splits have and for categories that changed their ids.

    Args:
        content: COCO file of one split.
        other: COCO file of another.
        other_name: What findings call it.
    """
    findings = []
    of_patient = defaultdict(list)
    for image in content['images']:
        if image.get('patient_id') is not None:
            of_patient[str(image['patient_id'])].append(image['id'])
    others = Counter(
        str(image['patient_id']) for image in other['images'] if image.get('patient_id') is not None
    )
    shared = sorted(set(of_patient) & set(others))
    if shared:
        findings.append(
            Finding(
                'shared_patients',
                'warn',
                f'{len(shared)} patients are in {other_name} as well, so '
                'that what is measured there is not how the model does on new patients. Split by '
                'patient.',
                tuple(
                    f'patient {patient}: {len(of_patient[patient])} images here, {others[patient]} '
                    f'there'
                    for patient in shared
                ),
            )
        )
    names = [{category['name'] for category in part['categories']} for part in (content, other)]
    mine, theirs = (
        [(c['id'], c['name']) for c in part['categories'] if c['name'] in names[0] & names[1]]
        for part in (content, other)
    )
    if mine != theirs:
        findings.append(
            Finding(
                'permuted_classes',
                'warn',
                f'Categories have other ids or another order in '
                f'{other_name}. If names and ids were mixed up there, labels are wrong: write both '
                'files with the same list of categories.',
                (f'here: {mine}', f'there: {theirs}'),
            )
        )
    return with_severity(findings, severities)
