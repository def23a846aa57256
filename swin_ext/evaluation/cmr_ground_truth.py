"""Ground truth of `CMRMetric`: masks by class, and where each image lies in its patient."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pycocotools.mask
from mmengine.fileio import load
from mmengine.logging import print_log

from swin_ext.coco.categories import category_ids
from swin_ext.coco.masks import to_rle
from swin_ext.coco.spacing import is_length, spacing_of
from swin_ext.evaluation.errors import EvaluationError


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

    Raises:
        AnnotationError: If a class is no category.
        EvaluationError: If a spacing is no length, or only some images have one; if two images are
            the same slice of a patient at the same phase; if the slices of a stack differ in size
            or spacing.
    """

    def __init__(
        self,
        ann_file: str,
        classes: tuple[str, ...],
        slice_spacing_mm: float | None = None,
        backend_args: dict | None = None,
    ):
        content = load(ann_file, file_format='json', backend_args=backend_args)
        self.ann_file = ann_file
        ids = category_ids(content, classes, ann_file)
        self._label_of_category = {ids[name]: label for label, name in enumerate(classes)}
        self.images = {
            image['id']: self._parse_image(image, slice_spacing_mm) for image in content['images']
        }
        self._annotations = defaultdict(list)
        for annotation in content['annotations']:
            self._annotations[annotation['image_id']].append(annotation)

        without = [image.id for image in self.images.values() if image.spacing is None]
        if without and len(without) < len(self.images):
            raise EvaluationError(
                f'{ann_file}: {len(without)} of {len(self.images)} images have no "spacing_mm", '
                f'the first of them is image {without[0]!r}. Add it to all, or remove it from all '
                'to measure in pixels.'
            )
        self.unit = 'px' if without else 'mm'
        self.stacks = self._find_stacks()
        self._warn()

    def masks(self, image: CMRImage) -> np.ndarray:
        """Boolean masks (classes, H, W); the parts of a class are one mask, crowds included.

        Raises:
            EvaluationError: If an annotation has no mask or one of another size.
        """
        masks = np.zeros((len(self._label_of_category), image.height, image.width), bool)
        for annotation in self._annotations[image.id]:
            label = self._label_of_category.get(annotation['category_id'])
            if label is None:
                continue
            segmentation = annotation.get('segmentation')
            where = f'{self.ann_file}: annotation {annotation["id"]} of image {image.id!r}'
            if not segmentation:
                raise EvaluationError(f'{where} has no segmentation.')
            rle = to_rle(segmentation, image.height, image.width)
            if list(rle['size']) != [image.height, image.width]:
                raise EvaluationError(
                    f'{where} has a mask of {rle["size"]} pixels, but the image has '
                    f'{[image.height, image.width]}.'
                )
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
        between = image.get('slice_spacing_mm', slice_spacing_mm)
        if between is not None and not is_length(between):
            raise EvaluationError(
                f'{self.ann_file}: image {image["id"]!r} has '
                f'slice_spacing_mm={between!r}; it must be a positive number, the '
                'distance of slice centres (thickness and gap).'
            )
        return CMRImage(
            image['id'],
            image.get('file_name', ''),
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
        if self.unit == 'mm':
            flat = [stack for stack in self.stacks if stack.spacing is None]
            if flat:
                warn(
                    f'{len(flat)} of {len(self.stacks)} stacks have no "slice_spacing_mm" '
                    '(distance of slice centres): they are left out of volumes and 3-D '
                    'distances. Add it to the images, or give it to CMRMetric.'
                )
        uneven = [
            stack.describe()
            for stack in self.stacks
            if len(set(np.diff([image.slice for image in stack.images]))) > 1
        ]
        if uneven:
            warn(
                f'{len(uneven)} stacks seem to lack a slice, as their numbers have gaps; what is '
                f'there is taken as evenly spaced: {", ".join(uneven[:5])}'
                f'{" ..." if len(uneven) > 5 else ""}.'
            )
