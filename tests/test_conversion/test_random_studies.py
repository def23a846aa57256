"""Studies of any content: converted as they are, or refused by one of the package's own errors."""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from cmr_files import read_coco
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_stack_rules import StackStudy

from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.study import LabelMap
from swin_ext.utils.errors import UserError

LENGTHS = st.sampled_from([1.25, 1.2500001, 8.0, 1e-300, 1e300, 0.0, -1.0, math.nan, math.inf])
PIXELS = st.sampled_from([0.0, 1.0, -3.5, 255.0, 65535.0, 1e30, -1e30, 1e-30])
SLICES = st.fixed_dictionaries(
    dict(
        label_map=st.lists(st.integers(0, 4), min_size=12, max_size=12).map(
            lambda values: np.array(values).reshape(3, 4) * (np.array(values) != 3).reshape(3, 4)
        ),
        values=st.lists(PIXELS, min_size=12, max_size=12),
    ),
    optional=dict(
        spacing_mm=st.none() | st.tuples(LENGTHS, LENGTHS),
        slice_spacing_mm=st.none() | LENGTHS,
        slice=st.none() | st.integers(-2, 3),
        phase=st.sampled_from([None, 'ED', 'ES', 'x "y"']),
        frame=st.none() | st.integers(0, 2),
        is_display=st.booleans(),
    ),
)
SETTINGS = st.fixed_dictionaries(
    dict(
        labels=st.sampled_from(['1=LV,2=Myo,4=RV', '4=RV,1=LV,2=Myo', '1=heart,2=heart,4=heart']),
        pixels=st.sampled_from(['png8', 'png16', 'none']),
        instances=st.sampled_from(['class', 'component']),
        keep_empty=st.booleans(),
    )
)


def examples(number: int):
    return hypothesis_settings(
        max_examples=number,
        deadline=5000,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def check(slices: list[dict], values: dict) -> None:
    values = dict(values, labels=LabelMap.parse(values['labels']), patient_ids='folder')
    settings = Settings(**values)
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder), Path(folder, 'out')
        (root / 'A.bin').write_text('A')
        given_slices = []
        for entry in slices:
            entry = dict(entry)
            entry['image'] = np.array(entry.pop('values'), np.float32).reshape(3, 4)
            if entry.get('is_display'):
                entry['image'] = np.clip(entry['image'], 0, 255).round()
            given_slices.append(entry)
        study = StackStudy('A', root, None, tuple(given_slices))
        try:
            convert([study], out, settings, Split(val_fraction=0))
        except UserError:
            assert not (out / 'train.json').exists() and not list(out.glob('*/*'))
            return
        check_output(out, given_slices, settings)


def check_output(out: Path, slices: list[dict], settings: Settings) -> None:
    def refuse(text):
        raise AssertionError(f'{text} is no JSON')

    json.loads((out / 'train.json').read_text(), parse_constant=refuse)
    images = read_coco(out / 'train.json')
    assert images and (settings.keep_empty or any(image['masks'] for image in images))
    stacks = defaultdict(list)
    for image in images:
        if settings.pixels == 'none':
            continue
        source = slices[int(Path(image['file_name']).stem.split('_')[-1])]
        assert (image['height'], image['width']) == (3, 4)
        expected = settings.labels.masks(source['label_map'])
        assert image['masks'].keys() == expected.keys()
        for name, mask in expected.items():
            np.testing.assert_array_equal(image['masks'][name], mask)
        assert (out / 'images' / image['file_name']).is_file()
    for image in images:
        if image.get('slice') is not None:
            stacks[image.get('phase')].append(image)
    for stack in stacks.values():  # as volumes are summed
        assert len({image['slice'] for image in stack}) == len(stack)
        for key in ('spacing_mm', 'slice_spacing_mm'):
            assert len({json.dumps(image.get(key)) for image in stack}) == 1


@given(slices=st.lists(SLICES, max_size=5), values=SETTINGS)
@examples(200)
def test_random_studies(slices, values):
    check(slices, values)


@pytest.mark.slow
@given(slices=st.lists(SLICES, max_size=5), values=SETTINGS)
@examples(2000)
def test_random_studies_at_length(slices, values):
    check(slices, values)


@given(
    text=st.text(alphabet='0123456789=, LVMyo\n"²٣-', max_size=20),
    ignored=st.text(alphabet='0123456789, ²-', max_size=6),
)
@examples(300)
def test_random_label_arguments(text, ignored):
    try:
        labels = LabelMap.parse(text, ignored)
    except UserError:
        return
    assert labels.classes and 0 not in labels.class_of and all(labels.classes)
    again = LabelMap.parse(str(labels), ','.join(map(str, sorted(labels.ignored))))
    assert again == labels and list(again.class_of) == list(labels.class_of)
