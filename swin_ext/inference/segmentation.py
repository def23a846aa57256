"""A model and a study -> the segmented study, and every instance that was found in it.

Masks of classes may overlap, voxels have one label. Myocardium encloses the cavity, and a mask of
it is often filled, so any other class goes before it; among others the higher score does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.images.reading import ImageFile, ImageReadError, open_image
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.inference.study_stack import FramePlace, StudyStack
from swin_ext.study.errors import StudyError

if TYPE_CHECKING:
    from swin_ext.inference.model import Instances, SegmentationModel

MYOCARDIUM = ('myo', 'myocardium', 'lvm', 'lv-myo', 'lv_myo')

MAX_LABELS = 255  # of uint8
# Of the frames, beyond which a study is damaged rather than incomplete.
MAX_UNREADABLE_SHARE = 0.1


@dataclass(frozen=True)
class FoundInstance:
    """An instance of a study as the model made it, before overlaps were decided.

    Args:
        label: Index of its class.
        rle: Its mask as compressed RLE.
    """

    phase: int
    slice: int
    label: int
    score: float
    rle: dict


@dataclass(frozen=True)
class Pixels:
    """Pixels of a study by (phase, slice), in modality units.

    Args:
        is_display: Whether they are grey levels of 8 bits already.
        unreadable: Sentences on frames that could not be read.
    """

    frames: dict[tuple[int, int], np.ndarray]
    is_display: dict[tuple[int, int], bool]
    unreadable: tuple[str, ...]


def read_pixels(stack: StudyStack, executor: Executor | None = None) -> Pixels:
    """Read all frames; one that cannot be read is left out with a sentence.

    Raises:
        ImageReadError: If more than a tenth of the frames cannot be read: the first one's error.
        StudyError: If frames differ in size.
    """
    by_path: dict[Path, list[tuple[int, int]]] = {}
    for key, place in stack.frames.items():
        by_path.setdefault(place.path, []).append(key)
    run: Callable = map if executor is None else executor.map
    frames, is_display, failures = {}, {}, {}
    for found in run(lambda keys: _read_file(stack, keys), by_path.values()):
        for key, (image, display) in found.items():
            if isinstance(image, ImageReadError):
                failures[key] = image
            else:
                frames[key], is_display[key] = image, display
    if len(failures) > MAX_UNREADABLE_SHARE * len(stack.frames):
        raise next(iter(failures.values()))
    shape = next(iter(frames.values())).shape
    for key, image in frames.items():
        if image.shape != shape:
            raise StudyError(
                f'it has {image.shape[1]} x {image.shape[0]} pixels, but the first frame of its '
                f'stack {shape[1]} x {shape[0]}',
                'Leave it out, or correct it',
                stack.frames[key].path,
            )
    sentences = tuple(
        f'frame of phase {phase}, slice {stack.slice_numbers[index]}: its pixels cannot be read'
        for phase, index in sorted(failures)
    )
    return Pixels(frames, is_display, sentences)


def _read_file(stack: StudyStack, keys: list[tuple[int, int]]) -> dict:
    """Pixels, or the error, and whether they are grey levels, of frames of one file."""
    found = {}
    try:
        file: ImageFile = open_image(stack.frames[keys[0]].path)
    except ImageReadError as error:
        return dict.fromkeys(keys, (error, False))
    for key in keys:
        place: FramePlace = stack.frames[key]
        try:
            image = file.frame(place.slice_index, place.frame_index)
            if place.header and image.shape != (place.header.height, place.header.width):
                raise ImageReadError(f'{place.path}: its pixels are not of the size it says.')
        except ImageReadError as error:
            found[key] = error, False
        else:
            found[key] = image, file.is_display
    return found


def segment(
    stack: StudyStack,
    pixels: Pixels,
    model: SegmentationModel,
    name: str,
    instances: str = 'best',
    batch_size: int = 8,
    progress: Callable[[int], None] = lambda count: None,
) -> tuple[SegmentedStudy, list[FoundInstance]]:
    """Segment every frame of a study.

    Args:
        name: What outputs call the study.
        instances: 'best' takes the instance of the highest score of each class in a frame, 'all'
            all of them.
        batch_size: Frames that are given to the model at once.
        progress: Is told how many frames were segmented since the last call.

    Raises:
        StudyError: If the model has more classes than a label file can hold.
    """
    if len(model.classes) > MAX_LABELS:
        raise StudyError(
            f'the model has {len(model.classes)} classes, and files have labels of 1 to '
            f'{MAX_LABELS}',
            'Use a model of fewer classes',
            model.identity.name,
        )
    height, width = next(iter(pixels.frames.values())).shape
    shape = (stack.num_phases, len(stack.slice_numbers))
    num_classes = len(model.classes)
    images = np.zeros((*shape, height, width), np.uint8)
    labels = np.zeros_like(images)
    scores = np.full((*shape, num_classes), np.nan, np.float32)
    candidates = np.zeros((*shape, num_classes), int)
    present = np.zeros(shape, bool)
    kept: list[FoundInstance] = []
    keys: list[tuple[int, int]] = []
    batch: list[np.ndarray] = []

    def flush() -> None:
        for key, found in zip(keys, model.predict(batch)):
            used = _use(found, num_classes, instances, scores[key], candidates[key])
            labels[key] = paint(found, used, model.classes)
            kept.extend(
                FoundInstance(
                    *key,
                    int(found.labels[i]),
                    float(found.scores[i]),
                    mask_utils.encode(np.asfortranarray(found.masks[i], np.uint8)),
                )
                for i in used
            )
        progress(len(keys))
        keys.clear()
        batch.clear()

    for key, levels, given in prepare(stack, pixels, model):
        present[key] = True
        images[key] = levels
        keys.append(key)
        batch.append(given)
        if len(keys) == batch_size:
            flush()
    if keys:
        flush()
    study = SegmentedStudy(
        name=name,
        images=images,
        labels=labels,
        scores=scores,
        candidates=candidates,
        present=present,
        classes=tuple(model.classes),
        pixel_spacing_mm=stack.pixel_spacing_mm,
        slice_positions_mm=stack.slice_positions_mm,
        slice_spacing_mm=stack.slice_spacing_mm,
        times_ms=stack.times_ms,
        assumptions=stack.assumptions,
        left_out=(*stack.left_out, *pixels.unreadable),
        model=model.identity,
        body=stack.body,
    )
    return study, kept


def prepare(
    stack: StudyStack, pixels: Pixels, model: SegmentationModel
) -> Iterator[tuple[tuple[int, int], np.ndarray, np.ndarray]]:
    """Yield the place of each frame, its grey levels (uint8), and what the model is given.

    Grey levels that are rounded are given as they are. A model without rounding is given pixels in
    modality units, of which it makes grey levels by the same rule; only those of the window
    'study' it cannot make, so they are rounded.
    """
    asked = model.preprocessing
    limits: dict[int, tuple[float, float]] = {}
    if asked.window == 'study':
        for phase in sorted({phase for phase, _ in pixels.frames}):
            volume = [image for (t, _), image in pixels.frames.items() if t == phase]
            limits[phase] = asked.limits(np.stack(volume))

    def levels_of(key: tuple[int, int]) -> np.ndarray:
        levels = asked.grey_levels(
            pixels.frames[key], limits=limits.get(key[0]), is_display=pixels.is_display[key]
        )
        return np.rint(levels).astype(np.uint8)

    def given(key: tuple[int, int]) -> np.ndarray:
        exact = asked.rounding is None and asked.window == 'slice' and not pixels.is_display[key]
        return pixels.frames[key] if exact else levels_of(key)

    # A slice that is missing is no neighbour, nor is the one behind it.
    index_of = {number: index for index, number in enumerate(stack.slice_numbers)}
    for key in sorted(pixels.frames):
        if asked.channels == 'repeat':
            yield key, levels_of(key), given(key)
            continue
        phase, number = key[0], stack.slice_numbers[key[1]]
        around = (
            [(phase, index_of.get(number + step)) for step in (-1, 0, 1)]
            if asked.channels == 'slices'
            else [(phase + step, key[1]) for step in (-1, 0, 1)]
        )
        planes = [given(place if place in pixels.frames else key) for place in around]
        yield key, levels_of(key), np.stack(planes, axis=-1)


def _use(
    found: Instances, num_classes: int, instances: str, scores: np.ndarray, candidates: np.ndarray
) -> list[int]:
    """Which instances are used; `scores` (C,) and `candidates` (C,) are filled in."""
    order = np.argsort(-found.scores, kind='stable')
    used = []
    for index in order:
        label = int(found.labels[index])
        if not 0 <= label < num_classes or not found.masks[index].any():
            continue
        candidates[label] += 1
        if candidates[label] == 1:
            scores[label] = found.scores[index]
        if candidates[label] == 1 or instances == 'all':
            used.append(int(index))
    return used


def paint(found: Instances, used: list[int], classes: tuple[str, ...]) -> np.ndarray:
    """Labels (H, W), uint8, of instances whose masks may overlap; see the module."""
    labels = np.zeros(found.masks.shape[1:], np.uint8)

    def rank(index: int) -> tuple:
        name = classes[int(found.labels[index])].lower()
        return name not in MYOCARDIUM, found.scores[index]

    for index in sorted(used, key=rank):
        labels[found.masks[index]] = found.labels[index] + 1
    return labels
