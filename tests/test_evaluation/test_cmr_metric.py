import csv
import json
import math

import cv2
import numpy as np
import pycocotools.mask
import pytest
import torch

from swin_ext.evaluation import CMRMetric, cmr_comparison, cmr_ground_truth
from swin_ext.evaluation.errors import EvaluationError
from toy_cmr import encode

CLASSES = ('LV', 'Myo', 'RV')
SHAPE = (40, 50)
VOXEL_ML = 1.5 * 2 * 8 / 1000  # rows of 1.5 mm, columns of 2 mm, slices 8 mm apart


def heart(lv_rows, rv_rows):
    """LV block of 10 columns, a closed frame around it as Myo, RV block of 12 columns."""
    masks = {name: np.zeros(SHAPE, bool) for name in CLASSES}
    masks['LV'][10 : 10 + lv_rows, 10:20] = True
    masks['Myo'][8 : 12 + lv_rows, 8:22] = True
    masks['Myo'] &= ~masks['LV']
    masks['RV'][10 : 10 + rv_rows, 30:42] = True
    return masks


class Study:
    """Two patients of three slices at ED and two at ES, as a COCO file, and predictions of it.

    The LV has 10 rows at ED and 6 at ES (patient a) or 4 (patient b), the RV 10 and 5.
    """

    def __init__(self, root):
        self.path = root / 'val.json'
        self.truth, self.pred = {}, {}
        images, annotations = [], []
        for patient, es_rows in (('a', 6), ('b', 4)):
            for phase, number, rows, rv_rows in (('ED', 3, 10, 10), ('ES', 2, es_rows, 5)):
                for index in reversed(range(number)):  # not in their order
                    image_id = len(images) + 1
                    images.append(
                        dict(
                            id=image_id,
                            file_name=f'{patient}_{phase}_{index}.png',
                            height=SHAPE[0],
                            width=SHAPE[1],
                            spacing_mm=[1.5, 2.0],
                            slice_spacing_mm=8.0,
                            patient_id=patient,
                            slice=index + 4,
                            phase=phase,
                        )
                    )
                    self.truth[image_id] = heart(rows, rv_rows)
                    self.pred[image_id] = heart(rows, rv_rows)
        for image_id, masks in self.truth.items():
            for name, mask in masks.items():
                ys, xs = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image_id,
                        iscrowd=0,
                        area=int(mask.sum()),
                        category_id=30 - 10 * CLASSES.index(name),
                        segmentation=encode(mask),
                        bbox=[int(xs[0]), int(ys[0]), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1],
                    )
                )
        self.content = dict(
            images=images,
            annotations=annotations,
            categories=[dict(id=10, name='RV'), dict(id=20, name='Myo'), dict(id=30, name='LV')],
        )

    def ids(self, patient, phase):
        return [
            image['id']
            for image in self.content['images']
            if (image['patient_id'], image['phase']) == (patient, phase)
        ]

    def samples(self, classes=CLASSES):
        samples = []
        for image_id, masks in self.pred.items():
            kept = [(name, mask) for name, mask in masks.items() if name in classes and mask.any()]
            samples.append(
                prediction(
                    image_id, [mask for _, mask in kept], [classes.index(name) for name, _ in kept]
                )
            )
        return samples

    def metric(self, classes=CLASSES, **options):
        self.path.write_text(json.dumps(self.content))
        metric = CMRMetric(**options)
        metric.dataset_meta = dict(classes=classes, ann_file=str(self.path))
        return metric

    def evaluate(self, samples=None, classes=CLASSES, **options):
        """Figures without their prefix, after a check of their names."""
        metric = self.metric(classes, **options)
        samples = self.samples(classes) if samples is None else samples
        metric.process({}, samples)
        figures = metric.evaluate(len(samples))
        assert list(figures) == metric.metric_names()
        self.report = metric.report
        return {key[len('cmr/') :]: value for key, value in figures.items()}


def prediction(image_id, masks, labels, scores=None):
    masks = torch.tensor(np.array(masks)) if len(masks) else torch.zeros(0, *SHAPE)
    scores = [0.9] * len(labels) if scores is None else scores
    return dict(
        img_id=image_id,
        ori_shape=SHAPE,
        pred_instances=dict(
            bboxes=torch.zeros(len(labels), 4),
            labels=torch.tensor(labels, dtype=torch.int64),
            scores=torch.tensor(scores, dtype=torch.float32),
            masks=masks.bool(),
        ),
    )


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path)


@pytest.fixture
def warnings(monkeypatch):
    """What is logged as a warning."""
    texts = []
    for module in (cmr_ground_truth, cmr_comparison):
        monkeypatch.setattr(module, 'print_log', lambda text, logger, level: texts.append(text))
    return texts


def test_perfect_prediction(study):
    figures = study.evaluate()
    for key, value in figures.items():
        if 'loa' not in key:
            assert value == (1 if 'dice' in key or 'jaccard' in key else 0), key
    assert {key for key in figures if key.startswith('LV_E')} == {
        f'LV_{index}_{what}_{unit}'
        for index, unit in (('EDV', 'ml'), ('ESV', 'ml'), ('EF', 'percent'))
        for what in ('bias', 'loa_lower', 'loa_upper')
    }


def test_figures_computed_by_hand(study):
    for image_id in study.ids('a', 'ED'):  # 8 of the 10 rows
        study.pred[image_id]['LV'] = heart(8, 10)['LV']
    figures = study.evaluate()

    # Three of ten slices have a Dice of 160 / 180, and 2 rows of 1.5 mm are missed in them.
    assert figures['LV_dice'] == pytest.approx((7 + 3 * 160 / 180) / 10)
    assert figures['LV_jaccard'] == pytest.approx((7 + 3 * 0.8) / 10)
    assert figures['LV_hd95_mm'] == pytest.approx(0.3 * 3)
    assert figures['dice'] == pytest.approx((figures['LV_dice'] + 2) / 3)
    assert figures['hd95_mm'] == pytest.approx(0.3 * 3 / 3)
    assert figures['LV_dice_3d'] == pytest.approx((3 + 160 / 180) / 4)
    assert figures['LV_hd95_mm_3d'] == pytest.approx(3 / 4)
    assert figures['LV_missed'] == figures['LV_spurious'] == 0

    reference = study.report.indices
    assert reference['b']['LV_EDV'] == pytest.approx((300 * VOXEL_ML,) * 2)
    assert reference['a']['LV_EDV'] == pytest.approx((240 * VOXEL_ML, 300 * VOXEL_ML))
    assert reference['a']['LV_ESV'] == pytest.approx((120 * VOXEL_ML,) * 2)
    assert reference['a']['LV_EF'] == pytest.approx((50, 60))
    assert reference['a']['LV_mass'] == pytest.approx((3 * (14 * 14 - 100) * VOXEL_ML * 1.05,) * 2)
    assert reference['a']['RV_EF'] == pytest.approx((100 * (1 - 120 / 360),) * 2)
    # Differences of -10 and 0 %: mean -5, standard deviation sqrt(50).
    assert figures['LV_EF_bias_percent'] == pytest.approx(-5)
    assert figures['LV_EF_loa_lower_percent'] == pytest.approx(-5 - 1.96 * math.sqrt(50))
    assert figures['LV_EF_loa_upper_percent'] == pytest.approx(-5 + 1.96 * math.sqrt(50))
    assert figures['LV_EDV_bias_ml'] == pytest.approx(-30 * VOXEL_ML)


def test_distance_across_slices(study):
    """The apical slice is missed: all its surface is one slice of 8 mm away."""
    for image_id in study.ids('a', 'ED'):
        if study.content['images'][image_id - 1]['slice'] == 6:
            study.pred[image_id]['LV'][:] = False
    figures = study.evaluate()
    assert figures['LV_missed'] == 1
    assert figures['LV_dice'] == pytest.approx(0.9)
    assert figures['LV_hd95_mm'] == 0  # of the nine slices where there is one
    assert figures['LV_dice_3d'] == pytest.approx((3 + 2 * 200 / 500) / 4)
    assert figures['LV_hd95_mm_3d'] == pytest.approx(8 / 4)


@pytest.mark.parametrize(
    'options, expected',
    [
        (dict(), 'second'),
        (dict(merge='best'), 'second'),
        (dict(merge='union'), 'first two'),
        (dict(merge='union', score_thr=0.1), 'all'),
        (dict(score_thr=0.95), 'none'),
        (dict(merge='union', score_thr=0.8), 'second'),
    ],
    ids=str,
)
@pytest.mark.parametrize('as_codes', [False, True], ids=['tensor', 'codes'])
def test_merging(study, options, expected, as_codes):
    parts = np.zeros((3, *SHAPE), bool)
    for index in range(3):
        parts[index, 10 * index : 10 * index + 10, :10] = True
    sample = prediction(1, parts, [0, 0, 0], [0.5, 0.9, 0.2])
    if as_codes:
        sample['pred_instances']['masks'] = [encode(part) for part in parts]
    metric = study.metric(**options)
    metric.process({}, [sample])
    rle, other, _ = metric.results[0]['rles']
    assert other is None
    if expected == 'none':
        assert rle is None
    else:
        wanted = parts[{'second': [1], 'first two': [0, 1], 'all': [0, 1, 2]}[expected]].any(0)
        assert (pycocotools.mask.decode(rle) == wanted).all()


def test_classes_in_any_order_and_number(study):
    for image_id in study.pred:
        study.pred[image_id]['RV'][:] = False
        study.pred[image_id]['RV'][0, 0] = True
    every = study.evaluate()
    permuted = study.evaluate(classes=('RV', 'LV', 'Myo'))
    assert every.keys() == permuted.keys()
    for key, value in every.items():
        assert permuted[key] == pytest.approx(value, nan_ok=True)
    alone = study.evaluate(classes=('LV',))
    assert alone['LV_dice'] == alone['dice'] == 1 > every['dice']
    assert alone['LV_EF_bias_percent'] == 0
    assert not [key for key in alone if 'RV' in key or 'Myo' in key or 'mass' in key]


def test_roles_of_other_classes(study):
    for category in study.content['categories']:
        category['name'] = f'my {category["name"]}'
    classes = tuple(f'my {name}' for name in CLASSES)
    for masks in study.pred.values():
        for name in CLASSES:
            masks[f'my {name}'] = masks.pop(name)
    assert not [key for key in study.evaluate(classes=classes) if 'bias' in key]
    figures = study.evaluate(classes=classes, roles=dict(lv='my LV', myo='my Myo'))
    assert figures['LV_EF_bias_percent'] == figures['LV_mass_bias_g'] == 0
    assert not [key for key in figures if key.startswith('RV')]


def test_absent_structures(study):
    """Both empty: not counted. Predicted alone: Dice 0 and spurious, without a distance."""
    first, second, third = study.ids('a', 'ED')
    study.content['annotations'] = [
        annotation
        for annotation in study.content['annotations']
        if annotation['category_id'] != 10 or annotation['image_id'] not in (first, second)
    ]
    study.pred[first]['RV'][:] = False
    study.pred[third]['RV'][:] = False
    figures = study.evaluate()
    assert figures['RV_dice'] == pytest.approx(7 / 9)
    assert (figures['RV_spurious'], figures['RV_missed']) == (1, 1)
    assert figures['RV_hd95_mm'] == 0


def test_no_prediction_at_all(study):
    figures = study.evaluate([prediction(image_id, [], []) for image_id in study.pred])
    assert figures['dice'] == figures['LV_jaccard'] == figures['LV_dice_3d'] == 0
    assert figures['LV_missed'] == 10
    assert math.isnan(figures['LV_hd95_mm']) and math.isnan(figures['assd_mm_3d'])
    assert figures['LV_EDV_bias_ml'] == pytest.approx(-300 * VOXEL_ML)
    assert math.isnan(figures['LV_EF_bias_percent'])


def test_only_end_systole(study):
    study.content['images'] = [i for i in study.content['images'] if i['phase'] == 'ES']
    kept = {image['id'] for image in study.content['images']}
    study.content['annotations'] = [
        a for a in study.content['annotations'] if a['image_id'] in kept
    ]
    study.pred = {image_id: masks for image_id, masks in study.pred.items() if image_id in kept}
    figures = study.evaluate()
    assert figures['LV_ESV_bias_ml'] == 0
    assert not [key for key in figures if 'EDV' in key or 'EF' in key or 'mass' in key]


def test_parts_and_polygons_of_a_class_are_one_mask(study):
    annotation = next(a for a in study.content['annotations'] if a['category_id'] == 30)
    annotation['segmentation'] = [[10, 10, 20, 10, 20, 15, 10, 15]]
    study.content['annotations'].append(
        dict(annotation, id=99, segmentation=[[10, 15, 20, 15, 20, 20, 10, 20]])
    )
    assert study.evaluate()['LV_dice'] == 1


def test_duplicates_of_padded_batches_count_once(study):
    study.pred[1]['LV'] = heart(8, 10)['LV']
    samples = study.samples()
    expected = study.evaluate(samples)
    assert study.evaluate(samples + samples[:3]) == expected
    assert study.evaluate(samples[::-1]) == pytest.approx(expected)


def test_pixels_without_spacing(study, warnings):
    for image in study.content['images']:
        del image['spacing_mm']
    study.pred[1]['LV'] = heart(8, 10)['LV']
    figures = study.evaluate()
    assert figures['LV_hd95_px'] == pytest.approx(2 / 10)
    assert figures['LV_dice_3d'] == pytest.approx((3 + 560 / 580) / 4)
    assert not [key for key in figures if '_mm' in key or '_ml' in key]
    assert 'images have no "spacing_mm": distances are in pixels' in ' '.join(warnings)


def test_slices_only_without_patients(study, warnings):
    for image in study.content['images']:
        del image['patient_id']
    figures = study.evaluate()
    assert figures['LV_hd95_mm'] == 0
    assert not [key for key in figures if '3d' in key or 'bias' in key]
    assert '10 of 10 images have no "patient_id"' in ' '.join(warnings)


def test_slice_spacing_from_the_config(study, warnings):
    for image in study.content['images']:
        del image['slice_spacing_mm']
    figures = study.evaluate()
    assert figures['LV_dice_3d'] == 1
    assert not [key for key in figures if 'mm_3d' in key or 'bias' in key]
    assert '4 of 4 stacks have no "slice_spacing_mm"' in ' '.join(warnings)
    study.evaluate(slice_spacing_mm=8.0)
    assert study.report.indices['a']['LV_EDV'] == pytest.approx((300 * VOXEL_ML,) * 2)


def test_gap_in_the_slices_is_said(study, warnings):
    study.content['images'][0]['slice'] = 9
    study.evaluate()
    assert 'patient a: slices seem to be missing at ED' in ' '.join(warnings)
    assert list(study.report.findings) == ['a'] and len(study.report.findings['a']) == 1


def test_gap_that_another_phase_shows(study, warnings):
    """Of ES, slices 4 and 6 alone are there: evenly spaced, but not as those of ED."""
    first, second = (study.content['images'][i - 1] for i in study.ids('b', 'ES'))
    assert (first['slice'], second['slice']) == (5, 4)
    first['slice'] = 6
    study.evaluate()
    assert 'patient b: slices seem to be missing at ES' in ' '.join(warnings)


def test_what_the_conversion_warned_of_is_said_with_the_results(study, warnings, tmp_path):
    note = '1 of 4 slices missing (numbers 2); the gap is not filled'
    study.content['info'] = dict(study_warnings=dict(a=[note], elsewhere=['of no matter']))
    metric = study.metric()
    metric.process({}, study.samples())
    metric.evaluate(10)
    assert metric.report.findings == dict(a=[note]) and metric.about()['findings'] == dict(a=[note])
    assert any('patient a' in text and note in text for text in warnings)
    metric.write_report(tmp_path)
    with open(tmp_path / 'cmr_patients.csv') as file:
        assert [row['findings'] for row in csv.DictReader(file)] == [note, '']


@pytest.mark.parametrize('noted', [['text'], 'text', dict(a='text'), dict(a=[1]), dict(a=None)])
def test_warnings_of_a_conversion_are_texts_by_patient(study, noted):
    study.content['info'] = dict(study_warnings=noted)
    with pytest.raises(
        EvaluationError, match=r"info\['study_warnings'\] must have a list of texts"
    ):
        study.evaluate()


def test_phases_with_other_names_are_said(study, warnings):
    for image in study.content['images']:
        image['phase'] = image['phase'].lower()
    figures = study.evaluate()
    assert not [key for key in figures if 'EDV' in key]
    assert "no phase is called 'ED' or 'ES' (but ed, es)" in ' '.join(warnings)


def test_lengths_that_are_no_mm_are_said(study, warnings):
    for image in study.content['images']:
        image['spacing_mm'] = [0.0015, 0.002]
    study.evaluate()
    assert '10 images have pixels of 0.0015 x 0.002' in ' '.join(warnings)


def test_part_of_a_stack(study, warnings):
    figures = study.evaluate(study.samples()[1:])
    assert '1 stacks only some slices were evaluated' in ' '.join(warnings)
    assert study.report.indices['a']['LV_EDV'] == pytest.approx((200 * VOXEL_ML,) * 2)
    assert figures['LV_dice'] == 1


def change_image(index, **changes):
    def spoil(study, samples):
        image = study.content['images'][index]
        for key, value in changes.items():
            if value is None:
                del image[key]
            else:
                image[key] = value

    return spoil


def change_prediction(**changes):
    def spoil(study, samples):
        samples[2]['pred_instances'].update(changes)

    return spoil


def unknown_image(study, samples):
    samples[0]['img_id'] = 77


def no_masks(study, samples):
    del samples[0]['pred_instances']['masks']


def no_category(study, samples):
    study.content['categories'].pop()
    study.content['annotations'] = [
        annotation for annotation in study.content['annotations'] if annotation['category_id'] != 30
    ]


def another_height(study, samples):
    study.content['images'][2]['height'] = 41
    study.content['annotations'] = [a for a in study.content['annotations'] if a['image_id'] != 3]


def no_segmentation(study, samples):
    del study.content['annotations'][3]['segmentation']


def annotation_of_another_size(study, samples):
    study.content['annotations'][3]['segmentation'] = encode(np.ones((5, 6)))


@pytest.mark.parametrize(
    'spoil, message',
    [
        (change_image(2, spacing_mm=None), '1 of 10 images have no "spacing_mm".* is image 3'),
        (change_image(2, spacing_mm=0), 'image 3 has spacing_mm=0; it must be a positive number'),
        (change_image(2, spacing_mm=[1.5, 'wide']), r"image 3 has spacing_mm=\[1.5, 'wide'\]"),
        (change_image(2, spacing_mm=[1.5, 1.5, 8]), 'a positive number, or two'),
        (change_image(2, spacing_mm=float('nan')), 'image 3 has spacing_mm=nan'),
        (change_image(2, slice_spacing_mm=-8), 'image 3 has slice_spacing_mm=-8'),
        (change_image(2, slice=5), "images 2 and 3 are both slice 5 of patient 'a' at phase 'ED'"),
        (change_image(2, spacing_mm=[1.5, 1.5]), 'differ in spacing: '),
        (change_image(2, slice_spacing_mm=9.0), 'differ in slice_spacing: 8.0 and 9.0'),
        (another_height, 'differ in height: 40 and 41'),
        (
            change_prediction(scores=torch.tensor([0.9, float('nan'), 0.9])),
            'Image 3: instance 1 has the score nan; the weights may have diverged',
        ),
        (
            change_prediction(labels=torch.tensor([0, 1, 3])),
            'label 3, but the data set has 3 classes',
        ),
        (
            change_prediction(masks=torch.ones(3, 20, 25).bool()),
            r'Image 3: predicted masks have \[20, 25\] pixels, but .* says \[40, 50\]',
        ),
        (unknown_image, 'Image 77 is no image of .*val.json'),
        (no_masks, 'CMRMetric needs masks, but the model predicts none'),
        (no_category, r"has no category \['LV'\]; it has \['RV', 'Myo'\]"),
        (no_segmentation, 'annotation 4 of image 2 has no segmentation'),
        (
            annotation_of_another_size,
            r'annotation 4 .*: its RLE has size \[5, 6\], but the image has .* \[40, 50\]',
        ),
    ],
)
def test_bad_input(study, spoil, message):
    samples = study.samples()
    spoil(study, samples)
    with pytest.raises(ValueError, match=message):
        study.evaluate(samples)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(merge='mean'), "merge='mean' must be 'best' or 'union'"),
        (dict(score_thr=30), r'score_thr=30 must lie in \[0, 1\]'),
        (dict(roles=dict(ra='RA')), r"unknown roles \['ra'\]; there are \['lv', 'myo', 'rv'\]"),
        (dict(roles=dict(lv='LVendo')), r"name \['LVendo'\], but the classes are \['LV', "),
        (dict(slice_spacing_mm=-1), 'image 1 has slice_spacing_mm=-1'),
        (dict(roles=dict(lv='LV', myo='LV')), 'give one class several roles'),
    ],
    ids=str,
)
def test_bad_arguments(study, options, message):
    for image in study.content['images']:
        del image['slice_spacing_mm']
    with pytest.raises(ValueError, match=message):
        study.evaluate(**options)


def test_ground_truth_is_missing(study):
    metric = study.metric()
    del metric.dataset_meta['ann_file']
    with pytest.raises(ValueError, match='no ground truth: give it ann_file'):
        metric.process({}, study.samples())


def test_missing_package_says_what_to_install(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='pip install monai'):
        CMRMetric()


def test_report(study, tmp_path):
    study.pred[1]['LV'] = heart(8, 10)['LV']
    study.pred[2]['RV'][:] = False
    metric = study.metric()
    with pytest.raises(RuntimeError, match='nothing was evaluated yet'):
        metric.write_report(tmp_path / 'report')
    metric.process({}, study.samples())
    metric.evaluate(10)
    paths = metric.write_report(tmp_path / 'report')
    assert sorted(path.name for path in paths) == [
        'cmr_bland_altman.png',
        'cmr_boxplots.png',
        'cmr_patients.csv',
        'cmr_slices.csv',
    ]
    with open(tmp_path / 'report/cmr_slices.csv') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    assert float(rows[0]['dice']) == pytest.approx(160 / 180, rel=1e-5)
    assert (rows[0]['class'], rows[0]['patient_id'], rows[0]['slice']) == ('LV', 'a', '6')
    assert float(rows[0]['hd95_mm']) == 3
    assert (rows[5]['class'], rows[5]['dice'], rows[5]['hd95_mm']) == ('RV', '0', '')
    with open(tmp_path / 'report/cmr_patients.csv') as file:
        patients = {row['patient_id']: row for row in csv.DictReader(file)}
    assert float(patients['a']['LV_EDV_ml']) == pytest.approx(280 * VOXEL_ML)
    assert float(patients['a']['LV_EDV_ml_reference']) == pytest.approx(300 * VOXEL_ML)
    assert float(patients['b']['LV_EF_percent']) == pytest.approx(100 * (1 - 80 / 300), rel=1e-5)
    assert float(patients['a']['LV_ED_dice']) == pytest.approx(560 / 580, rel=1e-5)
    assert float(patients['a']['RV_ES_volume_ml']) == pytest.approx(120 * VOXEL_ML)
    for name in ('cmr_bland_altman.png', 'cmr_boxplots.png'):
        picture = cv2.imread(str(tmp_path / 'report' / name))
        assert min(picture.shape[:2]) > 300 and picture.std() > 5


def test_report_without_patients(study, tmp_path):
    for image in study.content['images']:
        del image['patient_id'], image['spacing_mm']
    metric = study.metric()
    metric.process({}, study.samples())
    metric.evaluate(10)
    names = [path.name for path in metric.write_report(tmp_path / 'report')]
    assert names == ['cmr_slices.csv', 'cmr_boxplots.png']
    assert 'hd95_px' in (tmp_path / 'report/cmr_slices.csv').read_text().splitlines()[0]


def test_real_short_axis_stack(real_data, tmp_path):
    """Volumes of a subject from slices equal those of its label volume."""
    import nibabel

    image = nibabel.load(real_data / 'autofd_nifti/nifti/F/seg_sa_ED.nii.gz')
    labels = np.squeeze(np.asarray(image.dataobj))
    dx, dy, dz = (float(step) for step in image.header.get_zooms()[:3])
    study = Study(tmp_path)
    study.content.update(images=[], annotations=[])
    study.pred = {}
    for z in range(labels.shape[2]):
        study.content['images'].append(
            dict(
                id=z + 1,
                file_name=f'{z}.png',
                height=labels.shape[0],
                width=labels.shape[1],
                spacing_mm=[dx, dy],
                slice_spacing_mm=dz,
                patient_id='F',
                slice=z,
                phase='ED',
            )
        )
        study.pred[z + 1] = {
            name: labels[:, :, z] == value for name, value in (('LV', 1), ('Myo', 2), ('RV', 4))
        }
        for name, mask in study.pred[z + 1].items():
            if mask.any():
                study.content['annotations'].append(
                    dict(
                        id=len(study.content['annotations']) + 1,
                        image_id=z + 1,
                        iscrowd=0,
                        category_id=30 - 10 * CLASSES.index(name),
                        bbox=pycocotools.mask.toBbox(encode(mask)).tolist(),
                        segmentation=encode(mask),
                    )
                )
    samples = []
    for z, masks in study.pred.items():
        kept = [name for name in CLASSES if masks[name].any()]
        sample = prediction(z, [masks[name] for name in kept], [CLASSES.index(n) for n in kept])
        sample['pred_instances']['masks'] = [encode(masks[name]) for name in kept]
        samples.append(sample)
    figures = study.evaluate(samples)
    assert figures['dice'] == figures['dice_3d'] == 1
    voxel = dx * dy * dz / 1000
    expected = dict(
        LV_EDV=(labels == 1).sum() * voxel,
        RV_EDV=(labels == 4).sum() * voxel,
        LV_mass=(labels == 2).sum() * voxel * 1.05,
    )
    for index, value in expected.items():
        assert study.report.indices['F'][index] == pytest.approx((value, value), rel=1e-4)
    assert 50 < expected['LV_EDV'] < 300  # of an adult


def test_a_missed_phase_gives_no_ejection_fraction(study, warnings):
    """With the RV missed at ES, EDV - 0 would be an EF of 100 %, 33 % too much on average."""
    for image_id in study.ids('a', 'ES'):
        study.pred[image_id]['RV'][:] = False
    figures = study.evaluate()
    assert figures['RV_EF_bias_percent'] == 0  # of patient b alone
    assert figures['not_measured_RV_EF'] == 1
    assert figures['not_measured_LV_EF'] == 0
    assert figures['RV_ESV_bias_ml'] == pytest.approx(-120 * VOXEL_ML / 2)
    findings = study.report.findings
    assert list(findings) == ['a']
    assert any('RV at ES was found in 0 slices, but 2 are annotated' in f for f in findings['a'])
    assert any('predicted RV EF is undefined' in finding for finding in findings['a'])
    assert any('patient a' in text and 'RV EF' in text for text in warnings)


def test_a_negative_ejection_fraction_is_warned_of(study, warnings):
    for image in study.content['images']:  # the phases of patient b are exchanged
        if image['patient_id'] == 'b':
            image['phase'] = {'ED': 'ES', 'ES': 'ED'}[image['phase']]
    study.evaluate()
    assert study.report.indices['b']['LV_EF'][0] == pytest.approx(100 * (1 - 300 / 80))
    assert any('patient b' in text and 'exchanged' in text for text in warnings)
    assert 'a' not in study.report.findings


def test_predictions_beyond_base_and_apex_count(study, tmp_path):
    """Slices without annotation are part of the stack: what is predicted there adds volume."""
    first = study.ids('a', 'ED')[0]
    study.content['annotations'] = [
        annotation for annotation in study.content['annotations'] if annotation['image_id'] != first
    ]
    figures = study.evaluate()
    assert study.report.indices['a']['LV_EDV'] == pytest.approx((300 * VOXEL_ML, 200 * VOXEL_ML))
    assert figures['LV_EDV_bias_ml'] == pytest.approx(100 * VOXEL_ML / 2)
    assert figures['LV_spurious'] == 1


def test_what_the_figures_are_of(study):
    metric = study.metric(score_thr=0.4)
    metric.process({}, study.samples())
    metric.evaluate(10)
    assert metric.about() == {
        'annotation file': str(study.path),
        'slices': 10,
        'patients': 2,
        'score threshold of Dice and volumes': 0.4,
    }
    written = metric.write_report(study.path.parent / 'report')
    assert {path.name for path in written} >= {'cmr_slices.csv', 'cmr_patients.csv'}
