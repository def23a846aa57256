"""Ground truth of `CMRMetric`: masks by class, and where each image lies in its patient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pycocotools.mask
from mmengine.logging import print_log

from swin_ext.coco.categories import category_ids
from swin_ext.coco.entries import STUDY_WARNINGS
from swin_ext.coco.masks import to_rle
from swin_ext.coco.reading import read_coco
from swin_ext.coco.spacing import is_length, spacing_of
from swin_ext.evaluation.errors import EvaluationError
from swin_ext.study.geometry import is_plausible


@dataclass(frozen=True)
class CMRImage:
    """One slice; lengths in mm, None where the JSON does not say."""

    id: int | str
    file_name: str
    height: int
    width: int
    spacing: tuple[float, float] | None  # rows, columns
    slice_spacing: float | None
    patient: str | None
    slice: float | None
    phase: str | None


@dataclass(frozen=True)
class Stack:
    """Slices of one patient at one phase, in their order."""

    patient: str
    phase: str | None
    images: tuple[CMRImage, ...]

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Slice, row and column spacing in mm, if known."""
        first = self.images[0]
        if first.spacing is None or first.slice_spacing is None:
            return None
        return (first.slice_spacing, *first.spacing)

    def describe(self) -> str:
        return f'{self.patient} {self.phase}' if self.phase else f'{self.patient}'


class CMRGroundTruth:
    """COCO file whose images may have `spacing_mm`, `slice_spacing_mm`, `patient_id`, `slice` and
    `phase`, as `tools/cmr2coco.py` writes them.

    Attributes:
        images: By id.
        stacks: Of the images that have a patient and a slice number.
        unit: 'mm' if the images have a spacing, else 'px'.
        doubts: By patient, what the conversion warned of and gaps between slices.

    Args:
        invalid: 'error', or 'skip' to leave out annotations that are impossible.

    Raises:
        AnnotationError: If the file cannot be used, see `read_coco`, or a class is no category.
        EvaluationError: If an annotation of a class has no mask; if a spacing is no length, or only
            some images have one; if two images are the same slice of a patient at the same phase;
            if the slices of a stack differ in size or spacing.
    """

    def __init__(
        self,
        ann_file: str,
        classes: tuple[str, ...],
        slice_spacing_mm: float | None = None,
        backend_args: dict | None = None,
        invalid: str = 'error',
    ):
        content = read_coco(ann_file, invalid=invalid, text_ids=True, backend_args=backend_args)
        self.ann_file = ann_file
        ids = category_ids(content, classes, ann_file)
        label_of_category = {ids[name]: label for label, name in enumerate(classes)}
        self._num_classes = len(classes)
        self.images = {
            image['id']: self._parse_image(image, slice_spacing_mm) for image in content['images']
        }
        self._annotations = defaultdict(list)
        for annotation in content['annotations']:
            label = label_of_category.get(annotation['category_id'])
            if label is None:
                continue
            if not annotation.get('segmentation'):
                raise EvaluationError(
                    f'{ann_file}: annotation {annotation["id"]} of image '
                    f'{annotation["image_id"]!r} has no segmentation.'
                )
            self._annotations[annotation['image_id']].append((label, annotation['segmentation']))

        without = [image.id for image in self.images.values() if image.spacing is None]
        if without and len(without) < len(self.images):
            raise EvaluationError(
                f'{ann_file}: {len(without)} of {len(self.images)} images have no "spacing_mm", '
                f'the first of them is image {without[0]!r}. Add it to all, or remove it from all '
                'to measure in pixels.'
            )
        self.unit = 'px' if without else 'mm'
        self.stacks = self._find_stacks()
        self.doubts = self._find_doubts(content.get('info') or {})
        self._warn()

    def masks(self, image: CMRImage) -> np.ndarray:
        """Boolean masks (classes, H, W); the parts of a class are one mask, crowds included."""
        masks = np.zeros((self._num_classes, image.height, image.width), bool)
        for label, segmentation in self._annotations[image.id]:
            rle = to_rle(segmentation, image.height, image.width)
            masks[label] |= pycocotools.mask.decode(rle).astype(bool)
        return masks

    def _parse_image(self, image: dict, slice_spacing_mm: float | None) -> CMRImage:
        given = image.get('spacing_mm')
        spacing = spacing_of(image, allow_third=False)
        if spacing is None and given is not None:
            raise EvaluationError(
                f'{self.ann_file}: image {image["id"]!r} has spacing_mm={given!r}; it must '
                'be a positive number, or two for rows and columns.'
            )
        between = image.get('slice_spacing_mm')
        between = slice_spacing_mm if between is None else between
        if between is not None and not is_length(between):
            raise EvaluationError(
                f'{self.ann_file}: image {image["id"]!r} has '
                f'slice_spacing_mm={between!r}; it must be a positive number, the '
                'distance of slice centres (thickness and gap).'
            )
        return CMRImage(
            image['id'],
            image['file_name'],
            image['height'],
            image['width'],
            spacing,
            between,
            image.get('patient_id'),
            image.get('slice'),
            image.get('phase'),
        )

    def _find_stacks(self) -> list[Stack]:
        groups = defaultdict(dict)
        for image in self.images.values():
            if image.patient is None or image.slice is None:
                continue
            group = groups[image.patient, image.phase]
            other = group.setdefault(image.slice, image)
            if other is not image:
                raise EvaluationError(
                    f'{self.ann_file}: images {other.id!r} and {image.id!r} are both slice '
                    f'{image.slice} of patient {image.patient!r} at phase {image.phase!r}. Name '
                    'their phases, or remove one of them.'
                )
            first = next(iter(group.values()))
            for what in ('height', 'width', 'spacing', 'slice_spacing'):
                if getattr(first, what) != getattr(image, what):
                    raise EvaluationError(
                        f'{self.ann_file}: images {first.id!r} and {image.id!r} are slices of '
                        f'patient {image.patient!r} at phase {image.phase!r}, but differ in '
                        f'{what}: {getattr(first, what)} and {getattr(image, what)}.'
                    )
        return [
            Stack(patient, phase, tuple(group[number] for number in sorted(group)))
            for (patient, phase), group in groups.items()
        ]

    def _find_doubts(self, info: dict) -> dict[str, list[str]]:
        doubts = defaultdict(list)
        noted = info.get(STUDY_WARNINGS) or {}
        if not isinstance(noted, dict) or not all(
            isinstance(texts, list) and all(isinstance(text, str) for text in texts)
            for texts in noted.values()
        ):
            raise EvaluationError(
                f'{self.ann_file}: info[{STUDY_WARNINGS!r}] must have a list of texts for each '
                'patient. Convert the studies again, or remove it.'
            )
        numbers = defaultdict(set)  # of all phases, one of which may lack every second slice
        for stack in self.stacks:
            numbers[stack.patient].update(image.slice for image in stack.images)
        for patient in numbers:
            doubts[patient] += noted.get(str(patient), ())
        for stack in self.stacks:
            steps = np.diff([image.slice for image in stack.images])
            if len(steps) and not np.allclose(steps, np.diff(sorted(numbers[stack.patient])).min()):
                at = f' at {stack.phase}' if stack.phase else ''
                doubts[stack.patient].append(
                    f'slices seem to be missing{at}, as their numbers have gaps; those that are '
                    'there are taken as evenly spaced'
                )
        return {patient: texts for patient, texts in doubts.items() if texts}

    def _warn(self) -> None:
        def warn(text):
            print_log(f'CMRMetric, {self.ann_file}: {text}', 'current', 30)

        if self.unit == 'px':
            warn('images have no "spacing_mm": distances are in pixels, and there are no volumes.')
        images = self.images.values()
        unplaced = [image for image in images if image.patient is None or image.slice is None]
        if unplaced:
            warn(
                f'{len(unplaced)} of {len(images)} images have no "patient_id" or no "slice": '
                'they are left out of the figures per patient.'
            )
        phases = dict.fromkeys(stack.phase for stack in self.stacks if stack.phase is not None)
        if phases and not phases.keys() & {'ED', 'ES'}:
            names = ', '.join(map(str, phases)) if len(phases) < 6 else f'{len(phases)} others'
            warn(
                f"no phase is called 'ED' or 'ES' (but {names}): there are no volumes of these "
                'times, and no ejection fraction.'
            )
        odd = [
            image
            for image in images
            if image.spacing is not None and not is_plausible(image.spacing, image.slice_spacing)
        ]
        if odd:
            warn(
                f'{len(odd)} images have pixels of {odd[0].spacing[0]:g} x {odd[0].spacing[1]:g} '
                f'and slices {odd[0].slice_spacing} apart, which is implausible for a heart: '
                f'lengths must be in mm. The first is image {odd[0].id!r}.'
            )
        if self.unit == 'mm':
            flat = [stack for stack in self.stacks if stack.spacing is None]
            if flat:
                warn(
                    f'{len(flat)} of {len(self.stacks)} stacks have no "slice_spacing_mm" '
                    '(distance of slice centres): they are left out of volumes and 3-D '
                    'distances. Add it to the images, or give it to CMRMetric.'
                )
