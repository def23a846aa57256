"""volumes.csv, coco.json and study.json against pycocotools, CMRDataset and closed forms."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from segmented import segmented

from segmentable import ThresholdModel, truths, write_cine
from swin_ext.inference.outputs.coco_results import write_coco
from swin_ext.inference.outputs.volumes_table import write_volumes


def rows_of(folder):
    with open(folder / 'volumes.csv', newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_volumes(tmp_path):
    study, stack, _ = segmented(write_cine(tmp_path / 'in'))
    write_volumes(study, stack.slice_numbers, tmp_path)
    rows = rows_of(tmp_path)
    assert len(rows) == 4 * 3 * 3
    for row in rows:
        phase, index = int(row['phase']), int(row['slice'])
        label = ('LV', 'Myo', 'RV').index(row['class']) + 1
        count = (truths()[phase, index] == label).sum()
        assert float(row['area_mm2']) == pytest.approx(count * 1.25 * 1.5)
        assert float(row['volume_ml']) == pytest.approx(count * 1.25 * 1.5 * 8 / 1000, abs=1e-5)
        assert float(row['time_ms']) == 10 + 50 * phase
        assert float(row['score']) == pytest.approx({1: 0.9, 2: 0.8, 3: 0.7}[label])
        assert int(row['candidates']) == (2 if label == 3 else 1)


def test_a_missing_frame_is_empty_and_bridged(tmp_path):
    """Of discs at 0 and 16 mm, each reaches 8 mm to the other and 4 mm beyond."""
    write_cine(tmp_path / 'in', CardiacNumberOfImages=4)
    (tmp_path / 'in' / '6.dcm').unlink()  # phase 1 of slice 1
    study, stack, _ = segmented(tmp_path / 'in')
    write_volumes(study, stack.slice_numbers, tmp_path)
    rows = {(row['phase'], row['slice'], row['class']): row for row in rows_of(tmp_path)}
    lost = rows['1', '1', 'LV']
    assert [lost[key] for key in ('area_mm2', 'volume_ml', 'score', 'candidates')] == [''] * 4
    for row, mm in ((rows['1', '0', 'LV'], 12), (rows['2', '0', 'LV'], 8)):
        assert float(row['volume_ml']) == pytest.approx(
            float(row['area_mm2']) * mm / 1000, rel=1e-4
        )


def test_coco_by_pycocotools_and_by_the_data_set(tmp_path):
    study, stack, instances = segmented(write_cine(tmp_path / 'in'), 'all')
    model = ThresholdModel()
    write_coco(study, stack.slice_numbers, instances, model.preprocessing, tmp_path)
    coco = COCO(str(tmp_path / 'coco.json'))
    results = coco.loadRes(str(tmp_path / 'coco_results.json'))
    assert len(coco.anns) == len(results.anns) == 48
    assert {category['name']: number for number, category in coco.cats.items()} == {
        'LV': 1,
        'Myo': 2,
        'RV': 3,
    }
    for source in (coco, results):
        for annotation in source.anns.values():
            image = coco.imgs[annotation['image_id']]
            labels = truths()[image['frame'], image['slice']]
            mask = source.annToMask(annotation).astype(bool)
            kinds = {1: (1,), 2: (1, 2), 3: (3,)}[annotation['category_id']]
            if annotation['score'] != 0.6:  # the second candidate of RV
                assert np.array_equal(mask, np.isin(labels, kinds))
            y, x = np.nonzero(mask)
            assert list(annotation['bbox']) == [x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1]
            assert annotation['area'] == mask.sum()

    from mmengine.registry import init_default_scope

    import swin_ext.registration  # noqa: F401
    from swin_ext.datasets.cmr import CMRDataset

    init_default_scope('mmdet')
    data = CMRDataset(
        ann_file=str(tmp_path / 'coco.json'),
        data_root='',
        data_prefix=dict(img=str(tmp_path)),
        metainfo=dict(classes=('LV', 'Myo', 'RV')),
        pipeline=[dict(type='LoadCMRImage')],
        test_mode=True,
    )
    assert len(data) == 12
    for item, info in ((data[i], data.get_data_info(i)) for i in range(12)):
        phase, index = divmod(info['img_id'] - 1, 3)
        assert np.array_equal(item['img'][..., 0], study.images[phase, index])
        assert len(info['instances']) == 4


def test_coco_of_missing_frames_and_none_found(tmp_path):
    write_cine(tmp_path / 'in', CardiacNumberOfImages=4)
    (tmp_path / 'in' / '6.dcm').unlink()
    study, stack, _ = segmented(tmp_path / 'in')
    write_coco(study, stack.slice_numbers, [], ThresholdModel().preprocessing, tmp_path)
    content = json.loads((tmp_path / 'coco.json').read_text())
    assert len(content['images']) == 11 and content['annotations'] == []
    assert (1, 1) not in {(image['frame'], image['slice']) for image in content['images']}
    assert json.loads((tmp_path / 'coco_results.json').read_text()) == []
    assert content['info']['preprocessing']['window'] == 'slice'
