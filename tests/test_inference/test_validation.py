import json

import numpy as np
import pytest
from beating_heart import PIXEL_MM, SPACING_MM, beating_heart
from pycocotools import mask as mask_utils

from swin_ext.inference.validation import (
    ValidationError,
    correction_effects,
    frame_dice,
    read_cases,
    validate,
    worst_decile_auc,
)


def test_auc_by_counting_pairs():
    rng = np.random.default_rng(0)
    dice, counts = rng.uniform(size=200), rng.integers(0, 4, 200)
    dice[7] = np.nan
    defined = ~np.isnan(dice)
    bad = dice[defined] <= np.quantile(dice[defined], 0.1)
    pairs = counts[defined][bad][:, None] - counts[defined][~bad][None]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert worst_decile_auc(counts, dice) == pytest.approx(expected)


def test_auc_of_perfect_and_useless_findings():
    dice = np.linspace(0, 1, 100)
    assert worst_decile_auc((dice < 0.095).astype(int), dice) == 1
    assert worst_decile_auc(np.ones(100, int), dice) == 0.5
    assert np.isnan(worst_decile_auc(np.ones(5, int), np.ones(5)))
    assert np.isnan(worst_decile_auc(np.ones(2, int), np.full(2, np.nan)))


def as_entries(labels, image_id, **more):
    for label in (1, 2, 3):
        if (labels == label).any():
            rle = mask_utils.encode(np.asfortranarray(labels == label, np.uint8))
            yield dict(
                image_id=image_id,
                category_id=label,
                bbox=mask_utils.toBbox(rle).tolist(),
                area=float(mask_utils.area(rle)),
                segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode()),
                **more,
            )


@pytest.fixture
def results(tmp_path):
    """Two patients at ED and ES; in one slice of the second, Myo is lost and a speckle is LV."""
    images, annotations, predictions = [], [], []
    for patient in ('p1', 'p2'):
        study = beating_heart(2, 5)
        for phase, item in np.ndindex(2, 5):
            image_id = len(images) + 1
            images.append(
                dict(
                    id=image_id,
                    file_name=f'{image_id}.png',
                    width=64,
                    height=64,
                    patient_id=patient,
                    slice=item,
                    phase=('ED', 'ES')[phase],
                    spacing_mm=list(PIXEL_MM),
                    slice_spacing_mm=SPACING_MM,
                )
            )
            labels = study.labels[phase, item]
            for entry in as_entries(labels, image_id):
                annotations.append(dict(entry, id=len(annotations) + 1, iscrowd=0))
            if (patient, phase, item) == ('p2', 1, 2):
                labels = np.where(labels == 2, 0, labels)
                labels[:4, :4] = 1
            predictions += as_entries(labels, image_id, score=0.9)
    categories = [dict(id=i, name=name) for i, name in enumerate(('LV', 'Myo', 'RV'), 1)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    (tmp_path / 'pred.json').write_text(json.dumps(predictions))
    return tmp_path / 'ann.json', tmp_path / 'pred.json'


def test_cases_are_what_was_written(results):
    first, second = read_cases(*results, 0.5)
    expected = beating_heart(2, 5)
    for case in (first, second):
        np.testing.assert_array_equal(case.truth, expected.labels)
        assert case.study.pixel_spacing_mm == PIXEL_MM and case.study.present.all()
        np.testing.assert_array_equal(np.diff(case.study.slice_positions_mm), SPACING_MM)
    np.testing.assert_array_equal(first.study.labels, expected.labels)
    wrong = frame_dice(second)
    assert wrong[1, 2] < 0.7 and (np.delete(wrong.ravel(), 7) == 1).all()


def test_instances_below_the_threshold_are_not_used(results):
    (case, _) = read_cases(*results, 0.95)
    assert not case.study.labels.any() and np.isnan(case.study.scores).all()


def test_what_is_printed(results):
    text = validate(*results, 0.5)
    assert '2 patients, 20 frames' in text
    # Of 20 frames one is wrong, and the worst tenth, with all that are as good, is all of them.
    assert 'AUC of the number of findings for the worst tenth of Dice: nan' in text
    assert '| largest-part |' in text


def test_a_correction_that_helps_is_seen(results):
    effects = correction_effects(list(read_cases(*results, 0.5)))
    before, after = effects['as predicted'], effects['largest-part']
    assert after['dice'] > before['dice'] and after['hd95_mm'] <= before['hd95_mm']
    assert after['changed'] == pytest.approx(1 / 20) and before['changed'] == 0
    assert effects['smooth-phases']['changed'] == 0  # two phases are no series


def test_without_places_there_are_no_stacks(results):
    ann, pred = results
    content = json.loads(ann.read_text())
    for image in content['images']:
        del image['slice']
    ann.write_text(json.dumps(content))
    with pytest.raises(ValidationError, match='tools/cmr2coco.py'):
        list(read_cases(ann, pred, 0.5))
