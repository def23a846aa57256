"""Reads an annotation file; whatever it returns can be used without another look."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swin_ext.coco.entries import check_entries
from swin_ext.coco.errors import AnnotationError
from swin_ext.coco.geometry import complete_areas, find_impossible
from swin_ext.coco.sound_files import LISTS, SoundFile
from swin_ext.coco.streaming import NotPlain

SINGULAR = {'images': 'image', 'annotations': 'annotation', 'categories': 'category'}
REPORTED_PROBLEMS = 10


@dataclass(frozen=True)
class CocoFile:
    """What an annotation file holds.

    Attributes:
        content: With the lists `images`, `annotations` and `categories`, whose entries have the
            types of `swin_ext.coco.entries`; with `iscrowd` and `area` of each annotation.
        problems: One line for each annotation that was left out as impossible, its id first.
        repairs: How often a field was written in another way than COCO's, by what was wrong.
    """

    content: dict
    problems: tuple[str, ...]
    repairs: Counter


def read_coco(
    path: str | os.PathLike,
    *,
    invalid: str = 'error',
    needs_masks: bool = False,
    text_ids: bool = False,
    backend_args: dict | None = None,
) -> dict:
    """Return the content of an annotation file; log what was repaired and what was left out.

    Args:
        path: COCO JSON; an address for one of MMEngine's file backends, too.
        invalid: 'error', or 'skip' to leave out annotations that are impossible.
        needs_masks: Whether an annotation without a mask is impossible.
        text_ids: Whether ids of images may be text that is no number.
        backend_args: Of MMEngine's file backend.

    Raises:
        AnnotationError: See `read_coco_file`; or an annotation is impossible, unless it is
            skipped.
    """
    from mmengine.logging import print_log  # imports torch

    file = read_coco_file(
        path, needs_masks=needs_masks, text_ids=text_ids, backend_args=backend_args
    )
    if file.repairs:
        print_log(describe_repairs(path, file.repairs), 'current', 30)
    if file.problems:
        text = describe_problems(path, file.problems)
        if invalid == 'error':
            raise AnnotationError(text)
        print_log(f'{text}\nThey are skipped.', 'current', 30)
    return file.content


def read_coco_file(
    path: str | os.PathLike,
    *,
    needs_masks: bool = False,
    text_ids: bool = False,
    backend_args: dict | None = None,
) -> CocoFile:
    """Read and check an annotation file.

    Args:
        path: See `read_coco`, likewise the others.

    Raises:
        AnnotationError: There is no such file; it is no JSON, or no COCO file; an image or a
            category has a field of another type, or lacks one; an id occurs twice; an annotation
            belongs to no image of the file.
    """
    with without_collecting():
        file = None
        if is_local(path, backend_args):
            file = _read_sound(path, needs_masks)
        return file or _read_checked(path, needs_masks, text_ids, backend_args)


@contextlib.contextmanager
def without_collecting() -> Iterator[None]:
    """Looking for cycles among millions of new dictionaries takes longer than reading them."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def is_local(path: str | os.PathLike, backend_args: dict | None) -> bool:
    """Whether a path is read without one of MMEngine's file backends."""
    return backend_args is None and '://' not in str(path)


def _read_sound(path: str | os.PathLike, needs_masks: bool) -> CocoFile | None:
    file = SoundFile(path)
    lists = dict(images=[], annotations=[])
    try:
        for key, entries in file.parts():
            lists[key] += entries
    except (NotPlain, OSError):
        return None  # what is wrong will be named
    if needs_masks and file.without_mask:
        return None
    return CocoFile({**file.head, **lists}, (), file.repairs)


def _read_checked(
    path: str | os.PathLike, needs_masks: bool, text_ids: bool, backend_args: dict | None
) -> CocoFile:
    content = _parse(_read_bytes(path, backend_args), path)
    repairs = Counter()
    unsound = {kind: check_entries(kind, content[kind], repairs, text_ids) for kind in LISTS}
    problems = [
        f'{name_entry(kind, content[kind], index)}: {problem}'
        for kind in ('images', 'categories')
        for index, problem in unsound[kind].items()
    ]
    if problems:
        raise AnnotationError(describe_problems(path, problems))

    images = {image['id']: image for image in content['images']}
    category_ids = {category['id'] for category in content['categories']}
    wrong = unsound['annotations']
    sound = [a for i, a in enumerate(content['annotations']) if i not in wrong]
    problems = _find_id_problems(content, sound, images)
    if problems:
        raise AnnotationError(describe_problems(path, problems))

    problems = [
        f'{name_entry("annotations", content["annotations"], index, images)}: {problem}'
        for index, problem in wrong.items()
    ]
    impossible = {
        **find_impossible(sound, images),
        **{
            i: 'it has no segmentation'
            for i, a in enumerate(sound)
            if needs_masks and not a.get('segmentation')
        },
        **{
            i: f'category_id {a["category_id"]} is not in "categories"'
            for i, a in enumerate(sound)
            if a['category_id'] not in category_ids
        },
    }
    problems += [
        f'{name_entry("annotations", sound, index, images)}: {impossible[index]}'
        for index in sorted(impossible)
    ]
    possible = [a for i, a in enumerate(sound) if i not in impossible]
    complete_areas(possible, images, repairs)
    return CocoFile(dict(content, annotations=possible), tuple(problems), repairs)


def name_entry(kind: str, entries: list, index: int, images: dict | None = None) -> str:
    """Say which entry of a list is meant: by its id if it has one, else by its place.

    Args:
        images: Of an annotation's image, the id and the file are said as well.
    """
    entry = entries[index]
    if not isinstance(entry, dict) or not isinstance(entry.get('id'), (int, str, float)):
        name = f'{kind}[{index}]'
    else:
        name = f'{SINGULAR[kind]} {reprlib.repr(entry["id"])}'
    if images is not None and isinstance(entry, dict):
        image_id = entry.get('image_id')
        image = images.get(image_id) if isinstance(image_id, (int, str)) else None
        if image is not None:
            name += f' (image {image["id"]}, {image["file_name"]})'
    return name


def describe_problems(path: str | os.PathLike, problems: list[str] | tuple[str, ...]) -> str:
    """Message with the first problems and their number."""
    lines = [f'{path}: {len(problems)} invalid entries:']
    lines += [f'  {problem}' for problem in problems[:REPORTED_PROBLEMS]]
    if len(problems) > REPORTED_PROBLEMS:
        lines.append(f'  ... and {len(problems) - REPORTED_PROBLEMS} more')
    return '\n'.join(lines)


def describe_repairs(path: str | os.PathLike, repairs: Counter) -> str:
    """Message with the number of repairs of each kind."""
    counts = ', '.join(f'{kind} ({count} times)' for kind, count in repairs.most_common())
    return f'{path}: repaired without loss: {counts}.'


def _read_bytes(path: str | os.PathLike, backend_args: dict | None) -> bytes:
    try:
        if is_local(path, backend_args):
            return Path(path).read_bytes()
        from mmengine.fileio import get  # imports torch

        return get(str(path), backend_args=backend_args)
    except FileNotFoundError as error:
        raise AnnotationError(
            f'Annotation file {os.path.abspath(path)} does not exist. {what_is_there(path)}'
        ) from error
    except (OSError, ValueError) as error:
        raise AnnotationError(f'Annotation file {path!r} cannot be read: {error}') from error


def what_is_there(path: str | os.PathLike) -> str:
    """Say how far the path of a missing file leads."""
    folder = Path(os.path.abspath(path)).parent
    if not folder.is_dir():
        existing = next(parent for parent in folder.parents if parent.is_dir())
        return f'Nor does its folder; {existing} is the last part of the path that does.'
    others = sorted(other.name for other in folder.glob('*.json'))
    more = f' and {len(others) - 5} more' if len(others) > 5 else ''
    return f'JSON files in its folder: {", ".join(others[:5]) or "none"}{more}.'


def _parse(text: bytes, path: str | os.PathLike) -> dict:
    try:
        # Bytes may be UTF-8, with or without a byte-order mark, UTF-16 or UTF-32.
        content = json.loads(text, object_pairs_hook=_without_double_keys)
    except ValueError as error:
        raise AnnotationError(
            f'{path} is not valid JSON ({error}); it may be truncated: {len(text)} bytes.'
        ) from error
    except RecursionError as error:
        raise AnnotationError(f'{path} is no COCO file: its lists are nested too deep.') from error
    for key in LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise AnnotationError(f'{path} is not a COCO file: it has no list {key!r}.')
    if not isinstance(content.get('info') or {}, dict):
        raise AnnotationError(f'{path} is not a COCO file: its "info" is no object.')
    return content


def _without_double_keys(pairs: list[tuple]) -> dict:
    """Any of two values could be the one that is meant."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        key = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f'key {key!r} occurs twice in {reprlib.repr(entry)}')
    return entry


def _find_id_problems(content: dict, annotations: list[dict], images: dict) -> list[str]:
    """Ids that occur twice, and annotations of no image."""
    problems = []
    for kind, entries in (
        ('image', content['images']),
        ('annotation', annotations),
        ('category', content['categories']),
    ):
        counts = Counter(entry['id'] for entry in entries)
        problems += [f'{kind} id {i} occurs {n} times' for i, n in counts.items() if n > 1]
    problems += [
        f'annotation {a["id"]}: its image_id {a["image_id"]} is no image of the file'
        for a in annotations
        if a['image_id'] not in images
    ]
    return problems
