"""Join the JSON-lines files of studies into COCO files, one line in memory at a time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from swin_ext.conversion.coco_writer import study_file
from swin_ext.utils.files import replacing_text


def read_study_header(out: Path, patient_id: str) -> dict | None:
    """What `coco_writer.write_study` noted about a finished study, or None if it is not there."""
    try:
        with open(study_file(out, patient_id), encoding='utf-8') as lines:
            header = json.loads(lines.readline())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(header, dict) or header.get('patient_id') != patient_id:
        return None
    return header


def merge_studies(
    out: Path, name: str, patient_ids: list[str], classes: tuple[str, ...], info: dict
) -> tuple[int, int, Counter]:
    """Write `out/NAME.json` aside and move it into place.

    Returns:
        Number of images, of those without a label, and of instances by class.
    """
    path = out / f'{name}.json'
    categories = [dict(id=index, name=name) for index, name in enumerate(classes, 1)]
    with replacing_text(path) as file:
        file.write(
            f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n"images": ['
        )
        images = write_list(
            file,
            (
                dict(id=image_id, **line['image'])
                for image_id, line in enumerate(_slices(out, patient_ids), 1)
            ),
        )
        file.write('],\n"annotations": [')
        instances, labelled = Counter(), set()
        write_list(file, _annotations(out, patient_ids, classes, instances, labelled))
        file.write(']}\n')
    return images, images - len(labelled), instances


def write_list(file, entries: Iterator[dict]) -> int:
    """Write the items of a JSON list, one per line; return their number."""
    count = 0
    for count, entry in enumerate(entries, 1):
        file.write((',\n' if count > 1 else '\n') + json.dumps(entry))
    return count


def _slices(out: Path, patient_ids: list[str]) -> Iterator[dict]:
    for patient_id in patient_ids:
        with open(study_file(out, patient_id), encoding='utf-8') as lines:
            next(lines)
            yield from map(json.loads, lines)


def _annotations(
    out: Path,
    patient_ids: list[str],
    classes: tuple[str, ...],
    instances: Counter,
    labelled: set[int],
) -> Iterator[dict]:
    annotation_id = 0
    for image_id, line in enumerate(_slices(out, patient_ids), 1):
        for annotation in line['annotations']:
            annotation_id += 1
            labelled.add(image_id)
            instances[classes[annotation['category_id'] - 1]] += 1
            yield dict(id=annotation_id, image_id=image_id, **annotation)
