"""What the entries of an annotation file may be; what can be read without doubt is repaired."""

# pydantic evaluates the types, and Python 3.9 knows neither `X | None` nor NotRequired.
# ruff: noqa: UP007, UP035, UP045
from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Optional, Union

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

# COCO's ids are kept in 64 bits by its evaluators.
Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]
# No MR image comes near; a mask of one more digit would not fit into memory.
Side = Annotated[int, Field(ge=1, le=16384)]
Index = Annotated[int, Field(ge=0, lt=2**31)]
Number = Annotated[float, Field(allow_inf_nan=False)]
# A null byte ends a path early for the operating system.
Name = Annotated[str, Field(pattern=r'^[^\x00]*$')]
STRICT = ConfigDict(strict=True, extra='ignore')

WHOLE_FIELDS = 'id image_id category_id width height slice_index frame_index frame iscrowd'.split()
NUMBER_FIELDS = ('slice', 'area')
# What may be text in files of other data sets.
TEXT_IDS = dict(images='id', annotations='image_id')
# Key of `info`: doubts of place and time that a conversion had, texts by patient.
STUDY_WARNINGS = 'study_warnings'
# How pydantic calls the alternatives of a field, in the places of its errors.
TYPE_NAMES = ('RLE', 'polygons', 'str', 'int', 'float', 'bool')


class RunLengths(TypedDict):
    """Run-length encoded mask; its runs are checked with the size of the image."""

    __pydantic_config__ = STRICT
    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    counts: NotRequired[Union[str, list[int], None]]


def _kind_of(segmentation: Any) -> str:
    return 'RLE' if isinstance(segmentation, dict) else 'polygons'


Segmentation = Annotated[
    Union[Annotated[RunLengths, Tag('RLE')], Annotated[list[list[Number]], Tag('polygons')]],
    Discriminator(_kind_of),
]


class ImageEntry(TypedDict):
    """An image; `spacing_mm` and `slice_spacing_mm` are checked where they are used."""

    __pydantic_config__ = STRICT
    id: Id
    file_name: Name
    width: Side
    height: Side
    slice_index: NotRequired[Optional[Index]]
    frame_index: NotRequired[Optional[Index]]
    patient_id: NotRequired[Union[str, Id, None]]
    phase: NotRequired[Union[str, Id, None]]
    slice: NotRequired[Union[Id, Number, None]]
    frame: NotRequired[Optional[Id]]


class AnnotationEntry(TypedDict):
    """One structure on one image; the box is [x, y, width, height] in pixels."""

    __pydantic_config__ = STRICT
    id: Id
    image_id: Id
    category_id: Id
    bbox: Annotated[list[Number], Field(min_length=4, max_length=4)]
    iscrowd: Annotated[int, Field(ge=0, le=1)]
    area: NotRequired[Optional[Annotated[float, Field(ge=0, allow_inf_nan=False)]]]
    segmentation: NotRequired[Optional[Segmentation]]
    ignore: NotRequired[Union[bool, int, None]]


class CategoryEntry(TypedDict):
    """A class."""

    __pydantic_config__ = STRICT
    id: Id
    name: Annotated[Name, Field(min_length=1)]


VALIDATORS = {
    'images': TypeAdapter(ImageEntry).validator,
    'annotations': TypeAdapter(AnnotationEntry).validator,
    'categories': TypeAdapter(CategoryEntry).validator,
}


def check_entries(
    kind: str, entries: list, repairs: Counter, text_ids: bool = False
) -> dict[int, str]:
    """Check the types of a list of entries, in place.

    A whole number written as 128.0 or "7", any number written as text, an `iscrowd` that is
    missing, null, true or false: these can be meant in one way only, and are replaced by what
    they mean.

    Args:
        kind: 'images', 'annotations' or 'categories'.
        entries: As read from JSON.
        repairs: Is added how often each field was repaired.
        text_ids: Whether ids of images may be text that is no number.

    Returns:
        What is wrong with those entries that are not sound, by their place in the list.
    """
    validate = VALIDATORS[kind].validate_python
    problems = {}
    for index, entry in enumerate(entries):
        if kind == 'annotations' and type(entry) is dict and entry.get('iscrowd') is None:
            entry['iscrowd'] = 0
            repairs['annotations: iscrowd was missing, taken as 0'] += 1
        try:
            validate(entry)
        except ValidationError:
            if type(entry) is dict:
                _repair(kind, entry, repairs)
            try:
                validate(_with_number_as_id(kind, entry) if text_ids else entry)
            except ValidationError as error:
                problems[index] = _describe(error)
    return problems


def _with_number_as_id(kind: str, entry: Any) -> Any:
    field = TEXT_IDS.get(kind)
    if type(entry) is dict and isinstance(entry.get(field), str):
        return {**entry, field: 0}
    return entry


def _repair(kind: str, entry: dict, repairs: Counter) -> None:
    for fields, convert in (
        (WHOLE_FIELDS, as_whole),
        (NUMBER_FIELDS, _as_number),
        (('bbox',), lambda value: _inside_lists(value, _as_number)),
        (('segmentation',), _repair_segmentation),
    ):
        for field in fields:
            if entry.get(field) is None:
                continue
            value = convert(entry[field])
            if field == 'iscrowd' and isinstance(value, bool):
                value = int(value)
            # 128.0 == 128 and True == 1, but they are not written alike.
            if repr(value) != repr(entry[field]):
                entry[field] = value
                repairs[f'{kind}: {field} was a number written in another way'] += 1


def as_whole(value: Any) -> Any:
    """A whole number written as 128.0 or "7" as an integer; anything else as it is."""
    value = _as_number(value)
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value


def _as_number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if re.fullmatch(r'[+-]?[0-9]{1,19}', value.strip()):
        return int(value)
    if re.fullmatch(r'[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?', value.strip()):
        number = float(value)
        return number if math.isfinite(number) else value
    return value


def _inside_lists(value: Any, convert: Callable[[Any], Any], depth: int = 0) -> Any:
    if isinstance(value, list) and depth < 2:
        return [_inside_lists(part, convert, depth + 1) for part in value]
    return convert(value) if depth else value


def _repair_segmentation(value: Any) -> Any:
    if not isinstance(value, dict):
        return _inside_lists(value, _as_number)
    # Compressed counts are text that may look like a number.
    whole = {key: _inside_lists(value[key], as_whole) for key in ('size', 'counts') if key in value}
    return {**value, **whole}


def _describe(error: ValidationError) -> str:
    """Say which fields of an entry are wrong and how, from what pydantic found."""
    problems = {}  # several for one field are its alternatives
    for found in error.errors(include_url=False, include_context=False):
        if found['type'] == 'missing':
            problems[_place(found['loc'])] = ['is missing']
            continue
        text = found['msg'].replace('Input should', 'should', 1)
        if found['type'] == 'string_pattern_mismatch':
            text = 'should have no null byte'
        texts = problems.setdefault(_place(found['loc']), [])
        if texts:
            text = f'{texts.pop().rsplit(", but is ", 1)[0]}, or {text}'
        texts.append(f'{text}, but is {reprlib.repr(found["input"])}')
    lines = [f'{place or "it"} {text}' for place, (text,) in problems.items()]
    more = f' (and {len(lines) - 2} more)' if len(lines) > 2 else ''
    return '; '.join(lines[:2]) + more


def _place(location: tuple[str | int, ...]) -> str:
    """Fields and indices, without pydantic's names of types."""
    place = ''
    for part in location:
        if isinstance(part, int):
            place += f'[{part}]'
        elif part.isidentifier() and part not in TYPE_NAMES:
            place += f'.{part}' if place else part
    return place
