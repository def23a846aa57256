import csv
import json
import math

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from swin_ext.utils.optional import MissingPackageError
from swin_ext.visualization import fiftyone_export
from swin_ext.visualization.fiftyone_export import as_fiftyone, export, view
from swin_ext.visualization.show_results import ResultsError

LV, MYO = 1, 2
SIZE = (40, 50)


def box(left, top, right, bottom):
    mask = np.zeros(SIZE, np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def entry(image_id, category_id, mask, **more):
    rle = mask_utils.encode(np.asfortranarray(mask))
    return dict(
        image_id=image_id,
        category_id=category_id,
        bbox=mask_utils.toBbox(rle).tolist(),
        segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode()),
        **more,
    )


@pytest.fixture
def case(tmp_path):
    """Image 3 is predicted well, 5 half, 8 has nothing; one is NumPy, whose levels are 16 bit."""
    (tmp_path / 'images').mkdir()
    np.save(tmp_path / 'images/a.npy', np.tile(np.arange(50, dtype=np.uint16) * 9, (40, 1)))
    for name in ('b.png', 'c.png'):
        cv2.imwrite(str(tmp_path / 'images' / name), np.full(SIZE, 77, np.uint8))
    images = [
        dict(id=image_id, file_name=name, width=50, height=40)
        for image_id, name in ((3, 'a.npy'), (5, 'b.png'), (8, 'c.png'))
    ]
    truth = [entry(3, LV, box(10, 10, 30, 30)), entry(5, LV, box(10, 10, 30, 30))]
    truth.append(entry(5, MYO, box(0, 0, 50, 8)))
    for number, annotation in enumerate(truth):
        annotation.update(id=number + 1, iscrowd=0, area=int(annotation['bbox'][2] * 20))
    predictions = [
        entry(3, LV, box(10, 10, 30, 30), score=0.9),
        entry(5, LV, box(20, 10, 40, 30), score=0.8),
    ]
    ann = dict(
        images=images,
        annotations=truth,
        categories=[dict(id=LV, name='LV'), dict(id=MYO, name='Myo')],
    )
    (tmp_path / 'ann.json').write_text(json.dumps(ann))
    (tmp_path / 'pred.json').write_text(json.dumps(predictions))
    return tmp_path


def arguments(case):
    return case / 'ann.json', case / 'images', case / 'pred.json', case / 'out', 0.5


def test_the_folder(case):
    samples = export(*arguments(case))
    out = case / 'out'
    labels = json.loads((out / 'labels.json').read_text())
    for image in labels['images']:
        picture = cv2.imread(str(out / 'data' / image['file_name']), cv2.IMREAD_UNCHANGED)
        assert picture.shape == SIZE and picture.dtype == np.uint8
    given = json.loads((case / 'ann.json').read_text())
    assert labels['annotations'] == given['annotations']
    assert json.loads((out / 'predictions.json').read_text()) == json.loads(
        (case / 'pred.json').read_text()
    )
    rows = list(csv.DictReader((out / 'samples.csv').open()))
    assert [row['file_name'] for row in rows] == ['a.npy', 'b.png', 'c.png']
    assert [row['mean_dice'] for row in rows] == ['1', '0.25', '']
    assert [row['LV_dice'] for row in rows] == ['1', '0.5', '']
    assert [row['Myo_dice'] for row in rows] == ['', '0', '']
    assert [len(sample.predictions) for sample in samples] == [1, 1, 0]


def test_map_of_each_image(case):
    """All right is 1; an IoU of 1/3 is below all thresholds; without ground truth there is none."""
    ap = [sample.mask_ap for sample in export(*arguments(case))]
    assert ap[:2] == pytest.approx([1, 0]) and math.isnan(ap[2])
    third = json.loads((case / 'pred.json').read_text())
    third[1] = entry(5, LV, box(10, 10, 30, 27), score=0.8)  # IoU 0.85: of 10 thresholds 8
    (case / 'pred.json').write_text(json.dumps(third))
    ap = [sample.mask_ap for sample in export(*arguments(case))]
    assert ap[1] == pytest.approx(0.5 * 0.8)  # Myo was missed
    (case / 'pred.json').write_text('[]')
    assert [sample.mask_ap for sample in export(*arguments(case))][:2] == [0.0, 0.0]


def test_boxes_and_masks_give_the_masks_back(case):
    """As FiftyOne draws them: the mask over the box, at the size of the image."""
    (sample, _, _) = export(*arguments(case))
    for instance in (*sample.truth, *sample.predictions):
        left, top, width, height = instance.box
        rows, columns = round(top * 40), round(left * 50)
        assert instance.mask.shape == (round(height * 40), round(width * 50))
        drawn = np.zeros(SIZE, bool)
        shape = instance.mask.shape
        drawn[rows : rows + shape[0], columns : columns + shape[1]] = instance.mask
        np.testing.assert_array_equal(drawn, box(10, 10, 30, 30).astype(bool))


def test_files_that_do_not_belong_together(case):
    (case / 'pred.json').write_text(json.dumps([entry(99, LV, box(0, 0, 5, 5), score=1)]))
    with pytest.raises(ResultsError, match='image_id 99 is not in the annotation file'):
        export(*arguments(case))
    assert not (case / 'out').exists()


def test_the_folder_needs_no_fiftyone_but_a_data_set_does(case, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'fiftyone', None)
    assert 'wrote 3 images' in view(*arguments(case), None)
    with pytest.raises(MissingPackageError, match='pip install fiftyone'):
        view(*arguments(case), 'mine')


def test_as_samples_of_fiftyone(case):
    fiftyone = pytest.importorskip('fiftyone', reason='fiftyone is not installed')
    good, half, nothing = (as_fiftyone(s, fiftyone) for s in export(*arguments(case)))
    assert good['mean_dice'] == good['LV_dice'] == pytest.approx(good['mask_mAP']) == 1
    assert half['Myo_dice'] == 0 and half.image_id == 5
    assert 'mask_mAP' not in nothing.field_names and not nothing.ground_truth.detections
    (found,) = good.predictions.detections
    assert (found.label, found.confidence) == ('LV', 0.9)
    drawn = found.to_segmentation(frame_size=(50, 40), target=1).mask
    np.testing.assert_array_equal(drawn > 0, box(10, 10, 30, 30) > 0)


def test_fiftyone_reads_the_folder(case):
    """By the importer behind `fiftyone.Dataset.from_dir`, which needs no database."""
    pytest.importorskip('fiftyone', reason='fiftyone is not installed')
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    export(*arguments(case))
    importer = COCODetectionDatasetImporter(
        dataset_dir=str(case / 'out'), label_types=['detections', 'segmentations']
    )
    with importer:
        read = {path.rsplit('/', 1)[1]: labels for path, _, labels in importer}
    assert set(read) == {'3.png', '5.png', '8.png'}
    assert [d.label for d in read['5.png']['segmentations'].detections] == ['LV', 'Myo']
    assert read['3.png']['segmentations'].detections[0].mask.all()


def test_no_database_is_said(case, monkeypatch):
    pytest.importorskip('fiftyone', reason='fiftyone is not installed')
    from fiftyone.core.config import FiftyOneConfigError

    def no_database(name):
        raise FiftyOneConfigError('MongoDB could not be installed')

    monkeypatch.setattr('fiftyone.dataset_exists', no_database)
    with pytest.raises(fiftyone_export.FiftyOneError, match='FIFTYONE_DATABASE_URI'):
        view(*arguments(case), 'mine')
