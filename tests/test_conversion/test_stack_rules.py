"""What the converter takes, data set and metrics take as well; what they would not, it reports."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cmr_files import (
    contents,
    heart,
    read_coco,
    write_contour_patient,
    write_nifti_patient,
    write_png_patient,
    write_segmentation_patient,
)

from swin_ext.conversion import dicom, nifti, png
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.stack_rules import StackError, settle_stacks
from swin_ext.conversion.study import LabelledSlice, LabelMap, Study

LABELS = LabelMap.parse('1=LV,2=Myo,4=RV')


@dataclass(frozen=True)
class StackStudy(Study):
    """Slices as they are given; all others of their values are usual ones.

    Args:
        slices: Of each, what differs; `labels` None for a slice without a label.
    """

    slices: tuple[dict, ...] = ()

    def source_files(self) -> list[Path]:
        return [self.root / f'{self.patient}.bin']

    def read(self, labels, left_out):
        for number, values in enumerate(self.slices):
            values = dict(values)
            label_map = values.pop('label_map', heart(6))
            item = dict(
                name=f'{number:03d}', image=label_map.astype(np.float32) * 50, slice=number,
                masks=labels.masks(label_map), source=self.source_files()[0], sha256='f' * 64,
                spacing_mm=(1.25, 1.25), slice_spacing_mm=8.0, phase='ED',
            )  # fmt: skip
            yield LabelledSlice(**{**item, **values})


def stack(*slices: dict) -> tuple[dict, ...]:
    return slices


EMPTY = dict(label_map=np.zeros_like(heart()))
ACCEPTED = dict(
    usual=stack({}, {}, {}),
    unlabelled_ends=stack(EMPTY, {}, {}, EMPTY),
    gap=stack(dict(slice=0), dict(slice=1), dict(slice=4)),
    two_phases=stack({}, {}, dict(slice=0, phase='ES'), dict(slice=1, phase='ES')),
    phase_missing=stack(dict(phase=None), dict(phase=None)),
    times_without_names=stack(
        *(dict(slice=z, phase=None, frame=t) for t in (0, 7) for z in range(2))
    ),
    no_slice_numbers=stack(dict(slice=None), dict(slice=None)),
    no_place_at_all=stack(dict(slice=None, phase=None, slice_spacing_mm=None)),
    no_slice_spacing=stack(dict(slice_spacing_mm=None), dict(slice_spacing_mm=None)),
    rounded_spacing=stack({}, dict(spacing_mm=(1.25001, 1.25), slice_spacing_mm=8.0001)),
    not_square=stack(dict(spacing_mm=(1.5, 1.25)), dict(spacing_mm=(1.5, 1.25))),
    other_size_at_es=stack({}, dict(slice=0, phase='ES', label_map=heart(6)[:, :-4])),
)
REFUSED = dict(
    mixed_spacing=(stack({}, dict(spacing_mm=(1.5, 1.5))), 'differ in spacing_mm'),
    one_spacing_of_two=(stack({}, dict(spacing_mm=(1.25, 1.5))), 'differ in spacing_mm'),
    mixed_distance=(stack({}, dict(slice_spacing_mm=10.0)), 'differ in slice_spacing_mm'),
    distance_of_some=(stack({}, dict(slice_spacing_mm=None)), 'differ in slice_spacing_mm'),
    spacing_of_some=(stack({}, dict(spacing_mm=None)), 'differ in spacing_mm'),
    other_size=(stack({}, dict(label_map=heart(6)[:, :-4])), 'differ in width'),
    one_pixel_more=(stack({}, dict(label_map=heart(6)[:-1])), 'differ in height'),
    duplicate=(stack(dict(slice=3), dict(slice=3)), 'more than once at phase ED'),
    times_unknown=(stack(dict(slice=3, phase=None), dict(slice=3, phase=None)), 'more than once'),
    negative_spacing=(stack(dict(spacing_mm=(-1.0, 1.0))), 'is -1.0 mm'),
    zero_distance=(stack(dict(slice_spacing_mm=0.0)), 'is 0.0 mm'),
    endless_distance=(stack(dict(slice_spacing_mm=float('inf'))), 'is inf mm'),
    spacing_is_nan=(stack(dict(spacing_mm=(float('nan'), 1.0))), 'is nan mm'),
    no_label=(stack(EMPTY, EMPTY), '2 *|slices of stacks without a label: 2'),
    mask_of_another_size=(
        stack(dict(masks=dict(LV=np.ones((3, 3), bool)))), r'mask of LV has shape \(3, 3\)',
    ),
)  # fmt: skip


def run(studies: list[Study], out: Path, labels=LABELS, **settings) -> dict:
    return convert(
        studies, out, Settings(labels, patient_ids='folder', **settings), Split(val_fraction=0)
    )


def studies_of(tmp_path: Path, slices: tuple[dict, ...]) -> list[Study]:
    (tmp_path / 'A.bin').write_text('A')
    return [StackStudy('A', tmp_path, None, slices)]


def evaluate(out: Path) -> None:
    """Build what a run with the default configs builds on an annotation file."""
    from swin_ext.datasets import CMRDataset
    from swin_ext.evaluation import CMRMetric, FastCocoMetric

    path = str(out / 'train.json')
    dataset = CMRDataset(
        ann_file=path, data_prefix=dict(img=str(out / 'images')), pipeline=[], test_mode=True
    )
    content = json.loads((out / 'train.json').read_text())
    assert len(dataset) == len(content['images'])
    for metric in (CMRMetric(), FastCocoMetric(metric=['bbox', 'segm'])):
        metric.dataset_meta = dataset.metainfo
        metric.process({}, [truth_as_prediction(dataset, index) for index in range(len(dataset))])
        found = metric.evaluate(len(dataset))
        values = {key: value for key, value in found.items() if 'dice' in key or 'mAP' in key}
        assert values and all(value == pytest.approx(1) for value in values.values() if value >= 0)


def truth_as_prediction(dataset, index: int) -> dict:
    import torch
    from pycocotools import mask as mask_utils

    info = dataset.get_data_info(index)
    instances = info['instances']
    masks = [mask_utils.decode(instance['mask']).astype(bool) for instance in instances]
    shape = (len(masks), info['height'], info['width'])
    predicted = dict(
        bboxes=torch.tensor([i['bbox'] for i in instances], dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([i['bbox_label'] for i in instances], dtype=torch.int64),
        scores=torch.ones(len(masks)),
        masks=torch.from_numpy(np.array(masks, bool).reshape(shape)),
    )
    return dict(
        img_id=info['img_id'], ori_shape=shape[1:], pred_instances=predicted, instances=instances
    )


@pytest.mark.parametrize('name', ACCEPTED)
def test_what_is_converted_can_be_evaluated(tmp_path, name):
    run(studies_of(tmp_path, ACCEPTED[name]), tmp_path / 'out')
    evaluate(tmp_path / 'out')


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_evaluated_is_refused(tmp_path, name):
    slices, message = REFUSED[name]
    with pytest.raises(ConversionError, match=message):
        run(studies_of(tmp_path, slices), tmp_path / 'out')
    assert set(contents(tmp_path / 'out')) == {'conversion.json'}


FORMATS = dict(
    nifti=(
        lambda root: write_nifti_patient(root / 'A'),
        lambda root: nifti.find_studies(
            root, 'generic', '{patient}/sa_{phase}.nii.gz', '{patient}/seg_sa_{phase}.nii.gz'
        ),
        '1=LV,2=Myo,4=RV',
    ),
    contours=(
        lambda root: write_contour_patient(root, 'A'),
        lambda root: dicom.find_studies(root, 'dicom/{patient}', 'contours/{patient}', None),
        '1=LV',
    ),
    seg=(
        lambda root: write_segmentation_patient(root, 'A'),
        lambda root: dicom.find_studies(root, '{patient}', None, '{patient}'),
        '1=LV,2=Myo,3=RV',
    ),
    png=(
        lambda root: write_png_patient(root, 'A'),
        lambda root: png.find_studies(
            root, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png', (1.25, 1.25)
        ),
        '1=LV,2=Myo,4=RV',
    ),
)


@pytest.mark.parametrize('name', FORMATS)
def test_every_format_can_be_evaluated(tmp_path, name):
    if name == 'seg':
        pytest.importorskip('highdicom')
    write, find, labels = FORMATS[name]
    write(tmp_path / 'in')
    run(find(tmp_path / 'in'), tmp_path / 'out', LabelMap.parse(labels))
    evaluate(tmp_path / 'out')


# ---- slices without a label ---------------------------------------------------------------------


@pytest.mark.parametrize('keep_empty', [False, True])
def test_slices_without_a_label_stay_in_labelled_stacks(tmp_path, keep_empty):
    slices = stack(EMPTY, {}, EMPTY, dict(slice=0, phase='ES', **EMPTY))
    report = run(studies_of(tmp_path, slices), tmp_path / 'out', keep_empty=keep_empty)
    found = [
        (i['phase'], i['slice'], len(i['masks'])) for i in read_coco(tmp_path / 'out/train.json')
    ]
    expected = [('ED', 0, 0), ('ED', 1, 3), ('ED', 2, 0), ('ES', 0, 0)]
    assert found == (expected if keep_empty else expected[:3])
    assert report['left_out'] == ({} if keep_empty else {'slices of stacks without a label': 1})
    assert report['without_label'] == dict(train=2 + keep_empty)
    pictures = {name for name in contents(tmp_path / 'out') if name.endswith('.png')}
    assert len(pictures) == len(found)


def test_stacks_are_told_apart_by_time_where_no_phase_has_a_name():
    def line(frame, slice_number, label):
        image = dict(phase=None, frame=frame, slice=slice_number, height=4, width=4)
        image = {key: value for key, value in image.items() if value is not None}
        return dict(image=image, annotations=[{}] * label)

    lines = [line(0, 0, True), line(0, 1, False), line(5, 0, False), line(9, 0, True)]
    left_out = Counter()
    kept = settle_stacks(lines, False, left_out)
    assert [entry['image'].get('phase') for entry in kept] == ['frame00', 'frame00', 'frame09']
    assert left_out == {'slices of stacks without a label': 1}
    with pytest.raises(StackError, match='more than once'):
        settle_stacks([line(None, 1, True), line(None, 1, True)], False, Counter())
