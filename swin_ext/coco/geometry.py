"""Whether boxes and masks are possible on their images; pycocotools trusts that they are.

A coordinate that is not a number, or far from the image, ends the process inside pycocotools, and
runs that do not add up read and write beside its buffers.
"""

from __future__ import annotations

from collections import Counter

from pycocotools import mask as mask_utils

from swin_ext.coco.masks import to_rle
from swin_ext.coco.rle_check import covered_pixels

# Contours drawn on sub-pixel grids may end a fraction of a pixel outside the image.
BOX_TOLERANCE_PX = 1.0


def find_impossible(annotations: list[dict], images: dict[int, dict]) -> dict[int, str]:
    """Say by place in the list which boxes and masks are impossible for their images.

    Args:
        annotations: Whose types are sound; each one's image is there.
        images: Entries of the images by id.
    """
    problems = {}
    encoded = []
    for index, annotation in enumerate(annotations):
        image = images[annotation['image_id']]
        problem = _box_problem(annotation['bbox'], image) or mask_problem(annotation, image)
        if problem:
            problems[index] = problem
        elif isinstance(annotation.get('segmentation'), dict):
            encoded.append(index)
    rles = [annotations[index]['segmentation'] for index in encoded]
    for index, problem in zip(encoded, damaged_rles(rles)):
        if problem:
            problems[index] = problem
    return problems


def _box_problem(bbox: list[float], image: dict) -> str | None:
    width, height = image['width'], image['height']
    x, y, w, h = bbox
    if w < 1 or h < 1:
        return f'bbox {bbox} is smaller than one pixel'
    if (
        min(x, y) < -BOX_TOLERANCE_PX
        or x + w > width + BOX_TOLERANCE_PX
        or y + h > height + BOX_TOLERANCE_PX
    ):
        return f'bbox {bbox} leaves the image of {width} x {height} px'
    return None


def mask_problem(annotation: dict, image: dict) -> str | None:
    """Say what is wrong with the mask of an annotation, but for the runs of its encoding."""
    segmentation = annotation.get('segmentation')
    width, height = image['width'], image['height']
    if isinstance(segmentation, dict):
        if segmentation['size'] != [height, width]:
            return (
                f'its RLE has size {segmentation["size"]}, but the image has '
                f'[height, width] = {[height, width]}'
            )
        return None if segmentation.get('counts') else 'its RLE has no counts'
    for polygon in segmentation or ():
        if len(polygon) < 6 or len(polygon) % 2:
            return 'a polygon needs at least three x, y pairs'
        # What is a little outside is cut off at the border when it is drawn.
        if not (
            -width <= min(polygon[::2])
            and max(polygon[::2]) <= 2 * width
            and -height <= min(polygon[1::2])
            and max(polygon[1::2]) <= 2 * height
        ):
            return (
                f'a polygon spans {min(polygon[::2]):g} to {max(polygon[::2]):g} in x and '
                f'{min(polygon[1::2]):g} to {max(polygon[1::2]):g} in y, far outside of the image '
                f'of {width} x {height} px'
            )
    return None


def damaged_rles(rles: list[dict]) -> list[str | None]:
    """Say for each run-length encoding what is wrong with it, if anything."""
    counts = [rle['counts'] for rle in rles]
    compressed = [i for i, c in enumerate(counts) if isinstance(c, str)]
    covered = [sum(c) if isinstance(c, list) and min(c) >= 0 else -1 for c in counts]
    # Characters beyond ASCII become bytes that no encoding has.
    sums = covered_pixels([counts[i].encode('utf-8', 'surrogatepass') for i in compressed])
    for i, pixels in zip(compressed, sums):
        covered[i] = pixels
    problems = []
    for rle, pixels in zip(rles, covered):
        height, width = rle['size']
        if pixels == height * width:
            problems.append(None)
        elif pixels < 0:
            problems.append('its RLE is damaged, its counts are no run lengths')
        else:
            problems.append(f'its RLE is damaged, its runs cover {pixels} of {height * width} px')
    return problems


def complete_areas(annotations: list[dict], images: dict, repairs: Counter) -> None:
    """Measure the masks, or else the boxes, of annotations without `area`."""
    without = [a for a in annotations if a.get('area') is None]
    masked = [a for a in without if a.get('segmentation')]
    for annotation in without:
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
    if masked:
        sizes = ((images[a['image_id']]['height'], images[a['image_id']]['width']) for a in masked)
        rles = [to_rle(a['segmentation'], *size) for a, size in zip(masked, sizes)]
        for annotation, area in zip(masked, mask_utils.area(rles)):
            annotation['area'] = int(area)
    if without:
        repairs['annotations: area was missing, measured'] += len(without)
