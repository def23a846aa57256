import copy
import json

import numpy as np
import pycocotools.mask
import pytest
import torch
from mmdet.evaluation import CocoMetric
from mmdet.structures.mask import encode_mask_results
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_ext.coco.errors import AnnotationError
from swin_ext.evaluation import FastCocoMetric
from swin_ext.evaluation.average_precision import PRECISION_ITEMS, RECALL_ITEMS
from swin_ext.evaluation.run_lengths import encode_masks

CLASSES = ('LV', 'Myo', 'RV')


def predictions(toy, classes, seed=0):
    """Ground truth, shifted by a few pixels and with false positives, as detector output."""
    rng = np.random.RandomState(seed)
    coco = COCO(str(toy.json_path))
    samples = []
    for image_id in coco.getImgIds():
        masks, labels = [], []
        for annotation in coco.imgToAnns[image_id]:
            name = coco.cats[annotation['category_id']]['name']
            mask = pycocotools.mask.decode(annotation['segmentation'])
            # LV is found well, RV badly: a permutation of classes must show.
            shift = dict(LV=0, Myo=1, RV=4)[name] + rng.randint(0, 2)
            masks.append(np.roll(mask, shift, axis=1))
            labels.append(classes.index(name))
        samples.append(sample(image_id, masks, labels, rng.uniform(0.3, 1, len(labels))))
    return samples


def sample(image_id, masks, labels, scores, shape=(48, 64)):
    masks = np.stack(masks) if len(masks) else np.zeros((0, *shape))
    boxes = np.zeros((0, 4))
    if len(masks):
        boxes = pycocotools.mask.toBbox(encode_mask_results(masks))
        boxes[:, 2:] += boxes[:, :2]
    return dict(
        img_id=image_id,
        ori_shape=shape,
        pred_instances=dict(
            bboxes=torch.tensor(boxes),
            scores=torch.tensor(scores, dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.int64),
            masks=torch.tensor(masks).bool(),
        ),
    )


class Crowd:
    """Crowded images: many sizes, crowd regions, tied scores, empty images and empty masks."""

    classes = ('a', 'b', 'c', 'd')  # d has no object

    def __init__(self, root, seed=0, num_images=6, shape=(170, 200)):
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[: shape[0], : shape[1]]

        def ellipse(centre, radii):
            return ((rows - centre[0]) / radii[0]) ** 2 + (
                (columns - centre[1]) / radii[1]
            ) ** 2 <= 1

        content = dict(
            images=[],
            annotations=[],
            categories=[
                dict(id=i, name=name) for i, name in ((7, 'c'), (3, 'a'), (5, 'b'), (9, 'd'))
            ],
        )
        ids = {category['name']: category['id'] for category in content['categories']}
        self.samples = []
        for image_id in range(1, num_images + 1):
            content['images'].append(
                dict(id=image_id, height=shape[0], width=shape[1], file_name='')
            )
            masks, labels = [], []
            for _ in range(0 if image_id == 2 else 25):
                centre = rng.uniform(0, 1, 2) * shape
                radii = rng.uniform(3, 70, 2)
                label = int(rng.integers(3))
                mask = ellipse(centre, radii)
                rle = encode_mask_results(mask[None])[0]
                content['annotations'].append(
                    dict(
                        id=len(content['annotations']) + 1,
                        image_id=image_id,
                        category_id=ids[self.classes[label]],
                        iscrowd=int(rng.random() < 0.1),
                        area=float(mask.sum()),
                        bbox=pycocotools.mask.toBbox(rle).tolist(),
                        segmentation=dict(rle, counts=rle['counts'].decode()),
                    )
                )
                for _ in range(14):  # more than 100 of a class in an image
                    masks.append(
                        ellipse(
                            centre + rng.normal(0, 0.08, 2) * radii,
                            radii * rng.uniform(0.8, 1.2, 2),
                        )
                    )
                    labels.append(label if rng.random() < 0.9 else int(rng.integers(4)))
            if image_id == 3:
                masks[0][:] = False
            scores = rng.uniform(0, 1, len(masks)).round(1)  # ties
            self.samples.append(sample(image_id, masks, labels, scores, shape))
        self.content, self.ids = content, ids
        self.path = root / 'crowd.json'
        self.path.write_text(json.dumps(content))

    def results(self, iou_type):
        """COCO results as mmdet hands them to pycocotools."""
        results = []
        for one in self.samples:
            pred = one['pred_instances']
            for mask, box, score, label in zip(
                *(pred[key].numpy() for key in ('masks', 'bboxes', 'scores', 'labels'))
            ):
                result = dict(
                    image_id=one['img_id'],
                    score=float(score),
                    category_id=self.ids[self.classes[label]],
                )
                if iou_type == 'segm':
                    result['segmentation'] = encode_mask_results(mask[None])[0]
                else:
                    x0, y0, x1, y1 = box.tolist()
                    result['bbox'] = [x0, y0, x1 - x0, y1 - y0]
                results.append(result)
        return results


def evaluate_by_pycocotools(path, results, iou_type, cat_ids=None):
    coco = COCO(str(path))
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), iou_type)  # it adds keys
    evaluation.params.maxDets = [100, 300, 1000]
    if cat_ids:
        evaluation.params.catIds = cat_ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def evaluate(samples, dataset_file, classes=CLASSES, metric_class=FastCocoMetric, **options):
    metric = metric_class(**options)
    metric.dataset_meta = dict(classes=classes)
    if dataset_file:
        metric.dataset_meta['ann_file'] = str(dataset_file)
    metric.process({}, samples)
    figures = metric.evaluate(len(samples))
    if metric_class is FastCocoMetric and not metric.format_only:
        assert sorted(figures) == sorted(metric.metric_names())
    return figures


@pytest.mark.parametrize('seed', range(3))
def test_all_figures_are_those_of_pycocotools(tmp_path, seed):
    crowd = Crowd(tmp_path, seed)
    figures = evaluate(
        crowd.samples,
        crowd.path,
        crowd.classes,
        metric=['bbox', 'segm'],
        classwise=True,
        metric_items=[*PRECISION_ITEMS, *RECALL_ITEMS],
    )
    for iou_type in ('bbox', 'segm'):
        results = crowd.results(iou_type)
        expected = evaluate_by_pycocotools(crowd.path, results, iou_type).stats
        assert len(expected) == 12 and len(set(expected)) >= 11
        for item, value in zip([*PRECISION_ITEMS, *RECALL_ITEMS], expected):
            assert figures[f'coco/{iou_type}_{item}'] == pytest.approx(value, abs=1e-6), item
        for name in crowd.classes[:3]:
            alone = evaluate_by_pycocotools(crowd.path, results, iou_type, [crowd.ids[name]])
            precision = alone.eval['precision'][:, :, 0, 0, -1]  # mmdet's rows: of all detections
            assert figures[f'coco/{iou_type}_{name}_precision'] == pytest.approx(
                precision[precision > -1].mean(), abs=1e-6
            )
            assert figures[f'coco/{iou_type}_{name}_precision_50'] == pytest.approx(
                alone.stats[1], abs=1e-6
            )
        assert np.isnan(figures[f'coco/{iou_type}_d_precision'])


@pytest.mark.parametrize('metric', ['bbox', 'segm', 'proposal'])
def test_figures_are_those_of_mmdet_up_to_its_rounding(tmp_path, metric):
    crowd = Crowd(tmp_path)
    in_file_order = [c['name'] for c in crowd.content['categories']]
    relabel = {crowd.classes.index(name): i for i, name in enumerate(in_file_order)}
    samples = copy.deepcopy(crowd.samples)
    for one in samples:
        labels = one['pred_instances']['labels']
        labels.copy_(torch.tensor([relabel[int(label)] for label in labels], dtype=torch.int64))
    options = dict(ann_file=str(crowd.path), metric=metric, classwise=metric in ('bbox', 'segm'))
    figures = evaluate(samples, None, in_file_order, **options)
    if options['classwise']:  # COCOeval sorts category ids, and mmdet's rows do not follow
        content = dict(
            crowd.content,
            categories=sorted(crowd.content['categories'], key=lambda category: category['id']),
        )
        crowd.path.write_text(json.dumps(content))
        expected = evaluate(crowd.samples, None, ('a', 'b', 'c', 'd'), CocoMetric, **options)
    else:
        expected = evaluate(samples, None, in_file_order, CocoMetric, **options)
    assert expected
    for key, value in expected.items():
        ours = key.replace('coco/', f'coco/{metric}_') if key.endswith('_precision') else key
        assert figures[ours] == pytest.approx(value, abs=5.1e-4, nan_ok=True), key


def test_ground_truth_from_samples_as_mmdet_has_it(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    ids = [category['id'] for category in toy_cmr.content['categories']]
    for one in samples:
        one['instances'] = []
        for annotation in toy_cmr.content['annotations']:
            if annotation['image_id'] == one['img_id']:
                x, y, w, h = annotation['bbox']
                one['instances'].append(
                    dict(
                        bbox=[x, y, x + w, y + h],
                        bbox_label=ids.index(annotation['category_id']),
                        ignore_flag=0,
                        mask=annotation['segmentation'],
                    )
                )
    options = dict(metric=['bbox', 'segm'])
    figures = evaluate(samples, None, **options)
    expected = evaluate(samples, None, CLASSES, CocoMetric, **options)
    assert figures == pytest.approx(expected, abs=5.1e-4)
    assert 0 < figures['coco/segm_mAP'] < 1


@pytest.mark.parametrize(
    'classes', [CLASSES, ('RV', 'LV', 'Myo'), ('Myo', 'RV', 'LV'), ('RV', 'LV')], ids='-'.join
)
def test_each_class_gets_its_own_ap_in_any_order(toy_cmr, classes):
    samples = predictions(toy_cmr, CLASSES)
    for one in samples:
        pred = one['pred_instances']
        keep = [i for i, label in enumerate(pred['labels']) if CLASSES[label] in classes]
        one['pred_instances'] = {key: value[keep] for key, value in pred.items()}
        one['pred_instances']['labels'] = torch.tensor(
            [classes.index(CLASSES[pred['labels'][i]]) for i in keep]
        )
    figures = evaluate(samples, toy_cmr.json_path, classes, metric='segm', classwise=True)
    ids = {category['name']: category['id'] for category in toy_cmr.content['categories']}
    results = [
        dict(
            image_id=one['img_id'],
            score=float(score),
            category_id=ids[classes[label]],
            segmentation=encode_mask_results(mask[None])[0],
        )
        for one in samples
        for mask, score, label in zip(
            *(one['pred_instances'][key].numpy() for key in ('masks', 'scores', 'labels'))
        )
    ]
    expected = {
        name: evaluate_by_pycocotools(toy_cmr.json_path, results, 'segm', [ids[name]]).stats[0]
        for name in classes
    }
    assert len(set(expected.values())) == len(classes)  # else a permutation would not show
    for name in classes:
        assert figures[f'coco/segm_{name}_precision'] == pytest.approx(expected[name], abs=1e-6)
    assert figures['coco/segm_mAP'] == pytest.approx(np.mean(list(expected.values())), abs=1e-6)


def test_boxes_and_masks_have_keys_of_their_own(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    for one in samples:
        one['pred_instances']['masks'][:] = False
        one['pred_instances']['masks'][:, 0, 0] = True
    figures = evaluate(samples, toy_cmr.json_path, metric=['bbox', 'segm'], classwise=True)
    assert figures['coco/segm_LV_precision'] == 0 < figures['coco/bbox_LV_precision']


@pytest.mark.parametrize('shape', [(1, 1), (1, 7), (7, 1), (5, 8), (33, 20)], ids=str)
@pytest.mark.parametrize('density', [0, 0.1, 0.5, 1])
def test_run_lengths_are_those_of_pycocotools(shape, density):
    masks = np.random.default_rng(0).random((9, *shape)) < density
    rles = encode_masks(torch.from_numpy(masks))
    expected = pycocotools.mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    assert rles == expected


def test_run_lengths_of_no_mask():
    assert encode_masks(torch.zeros(0, 5, 8, dtype=torch.bool)) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_run_lengths_from_a_gpu():
    masks = torch.rand(20, 33, 20) < 0.3
    assert encode_masks(masks.cuda()) == encode_masks(masks)


def test_duplicates_of_padded_batches_count_once(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    expected = evaluate(samples, toy_cmr.json_path, metric='segm')
    assert evaluate(samples + samples[:3], toy_cmr.json_path, metric='segm') == expected


def test_predicted_codes_are_taken_as_they_are(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    expected = evaluate(samples, toy_cmr.json_path, metric='segm')
    for one in samples:
        one['pred_instances']['masks'] = encode_mask_results(one['pred_instances']['masks'].numpy())
    assert evaluate(samples, toy_cmr.json_path, metric='segm') == expected


def test_no_detection_is_an_ap_of_zero(toy_cmr):
    samples = [sample(one['id'], [], [], []) for one in toy_cmr.content['images']]
    figures = evaluate(samples, toy_cmr.json_path, metric=['bbox', 'segm'], classwise=True)
    assert figures['coco/bbox_mAP'] == figures['coco/segm_mAP'] == 0
    assert figures['coco/segm_RV_precision'] == 0


def test_ids_of_any_kind(toy_cmr):
    """Text as image ids, and annotations numbered from 0."""
    samples = predictions(toy_cmr, CLASSES)
    expected = evaluate(samples, toy_cmr.json_path, metric='segm')
    for image in toy_cmr.content['images']:
        image['id'] = f'image {image["id"]}'
    for annotation in toy_cmr.content['annotations']:
        annotation['image_id'] = f'image {annotation["image_id"]}'
        annotation['id'] -= 1
    toy_cmr.save()
    for one in samples:
        one['img_id'] = f'image {one["img_id"]}'
    assert evaluate(samples, toy_cmr.json_path, metric='segm') == expected


def test_ids_that_are_repaired_are_those_of_the_data_set(toy_cmr):
    """As `CMRDataset`, the metric reads "7" as 7; data sets of mmdet do not."""
    samples = predictions(toy_cmr, CLASSES)
    expected = evaluate(samples, toy_cmr.json_path, metric='segm')
    for image in toy_cmr.content['images']:
        image['id'] = str(image['id'])
    toy_cmr.save()
    assert evaluate(samples, toy_cmr.json_path, metric='segm') == expected
    for one in samples:
        one['img_id'] = str(one['img_id'])
    assert evaluate(samples, toy_cmr.json_path, metric='segm') == expected


@pytest.mark.parametrize('metric', ['bbox', 'segm'])
def test_what_the_data_set_skips_the_metric_skips(toy_cmr, metric):
    samples = predictions(toy_cmr, CLASSES)
    damaged = toy_cmr.content['annotations'].pop(4)
    toy_cmr.save()
    expected = evaluate(samples, toy_cmr.json_path, metric=metric)
    toy_cmr.content['annotations'].insert(4, dict(damaged, bbox=[float('nan'), 1, 5, 5]))
    toy_cmr.save()
    with pytest.raises(AnnotationError, match=r'annotation 5 .*: bbox\[0\]'):
        evaluate(samples, toy_cmr.json_path, metric=metric)
    one = FastCocoMetric(metric=metric)
    one.dataset_meta = dict(classes=CLASSES, ann_file=str(toy_cmr.json_path), invalid='skip')
    one.process({}, samples)
    assert one.evaluate(len(samples)) == expected


def test_written_predictions_are_those_of_mmdet(toy_cmr, tmp_path):
    samples = predictions(toy_cmr, CLASSES)
    for name, metric_class in (('ours', FastCocoMetric), ('theirs', CocoMetric)):
        evaluate(
            samples,
            None,
            metric_class=metric_class,
            ann_file=str(toy_cmr.json_path),
            metric=['bbox', 'segm'],
            format_only=True,
            outfile_prefix=str(tmp_path / name),
        )
    for kind in ('bbox', 'segm'):
        ours, theirs = (
            json.loads((tmp_path / f'{name}.{kind}.json').read_text())
            for name in ('ours', 'theirs')
        )
        assert ours == theirs and len(ours) == len(toy_cmr.content['annotations'])


def test_second_validation_starts_afresh(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    metric = FastCocoMetric(metric='segm')
    metric.dataset_meta = dict(classes=CLASSES, ann_file=str(toy_cmr.json_path))
    figures = []
    for _ in range(2):
        metric.process({}, samples)
        figures.append(metric.evaluate(len(samples)))
    assert figures[0] == figures[1]


def nan_score(samples, content, meta):
    samples[1]['pred_instances']['scores'][2] = float('nan')


def unknown_label(samples, content, meta):
    samples[1]['pred_instances']['labels'][0] = 3


def unknown_image(samples, content, meta):
    samples[1]['img_id'] = 77


def no_predicted_masks(samples, content, meta):
    for one in samples:
        del one['pred_instances']['masks']


def no_annotated_mask(samples, content, meta):
    del content['annotations'][4]['segmentation']


def unknown_class(samples, content, meta):
    meta['classes'] = ('LV', 'Myo', 'Aorta')


@pytest.mark.parametrize(
    'spoil, message',
    [
        (nan_score, 'Image 2: instance 2 has the score nan'),
        (unknown_label, 'Image 2: the model predicts label 3, but the data set has 3 classes'),
        (unknown_image, 'Image 77 is no image of .*json'),
        (no_predicted_masks, "'segm' needs masks, but the model predicts none"),
        (no_annotated_mask, '1 annotations have no segmentation, the first of them with id 5'),
        (unknown_class, r"no category \['Aorta'\]; it has \['LV', 'Myo', 'RV'\]"),
    ],
    ids=lambda value: getattr(value, '__name__', ''),
)
def test_bad_input(toy_cmr, spoil, message):
    samples = predictions(toy_cmr, CLASSES)
    metric = FastCocoMetric(metric='segm')
    metric.dataset_meta = dict(classes=CLASSES, ann_file=str(toy_cmr.json_path))
    spoil(samples, toy_cmr.content, metric.dataset_meta)
    toy_cmr.save()
    with pytest.raises(ValueError, match=message):
        metric.process({}, samples)
        metric.evaluate(len(samples))


def test_label_order_that_nobody_knows_is_refused(toy_cmr):
    """Without the data set's own file, mmdet's CocoDataset may have numbered the labels."""
    with pytest.raises(ValueError, match=r"lists the categories \['LV', 'Myo', 'RV'\].*CMRDataset"):
        evaluate(
            predictions(toy_cmr, CLASSES),
            None,
            ('RV', 'LV', 'Myo'),
            ann_file=str(toy_cmr.json_path),
            metric='segm',
        )


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(proposal_nums=(1, 10)), ValueError, 'three numbers with 100 among them'),
        (dict(metric_items=['mAP', 'mAP_xl']), KeyError, r"\['mAP_xl'\] are unknown"),
        (dict(metric='masks'), KeyError, 'metric should be one of'),
        (dict(metric='proposal_fast'), ValueError, "take 'proposal' instead"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        FastCocoMetric(**options)


def test_ground_truth_is_missing(toy_cmr):
    with pytest.raises(ValueError, match='no ground truth: give it ann_file'):
        evaluate(predictions(toy_cmr, CLASSES), None)


def test_missing_package_says_what_to_install(monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ModuleNotFoundError, match='pip install faster-coco-eval'):
        FastCocoMetric()


def test_no_detection_with_labels_as_floats(toy_cmr):
    """Some heads return empty float tensors for images without any detection."""
    samples = predictions(toy_cmr, CLASSES)
    for sample_ in samples:
        for key in ('bboxes', 'scores', 'labels'):
            value = sample_['pred_instances'][key]
            sample_['pred_instances'][key] = torch.zeros(0, *value.shape[1:])
        sample_['pred_instances']['masks'] = torch.zeros(0, 48, 64, dtype=torch.bool)
    figures = evaluate(samples, toy_cmr.json_path, metric=['bbox', 'segm'])
    assert figures['coco/bbox_mAP'] == figures['coco/segm_mAP'] == 0


def test_labels_that_are_no_integers_are_refused(toy_cmr):
    samples = predictions(toy_cmr, CLASSES)
    samples[0]['pred_instances']['labels'] = samples[0]['pred_instances']['labels'].float()
    with pytest.raises(TypeError, match='Labels are torch.float32, but must be integers'):
        evaluate(samples, toy_cmr.json_path)


def test_ground_truth_of_samples_is_written_beside_the_predictions(toy_cmr, tmp_path):
    samples = predictions(toy_cmr, CLASSES)
    coco = COCO(str(toy_cmr.json_path))
    for sample_ in samples:
        sample_['instances'] = [
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=CLASSES.index(coco.cats[annotation['category_id']]['name']),
                mask=annotation['segmentation'],
            )
            for annotation in coco.imgToAnns[sample_['img_id']]
            for x, y, w, h in [annotation['bbox']]
        ]
    metric = FastCocoMetric(metric='segm', outfile_prefix=str(tmp_path / 'out'))
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, samples)
    expected = metric.evaluate(len(samples))
    written = COCO(str(tmp_path / 'out.gt.json'))
    assert len(written.anns) == len(coco.anns)
    again = COCOeval(written, written.loadRes(str(tmp_path / 'out.segm.json')), 'segm')
    again.evaluate()
    again.accumulate()
    again.summarize()
    assert again.stats[0] == pytest.approx(expected['coco/segm_mAP'])


class Squares:
    """Squares of 20, 30, 40 and 100 px: small, small, medium and large, of two classes."""

    classes = ('a', 'b')

    def __init__(self, root, shape=(300, 400)):
        content = dict(
            images=[dict(id=0, file_name='', height=shape[0], width=shape[1])],
            annotations=[],
            categories=[dict(id=0, name='a'), dict(id=1, name='b')],
        )
        masks, labels = [], []
        for i, (side, label) in enumerate(((20, 0), (30, 0), (40, 1), (100, 0))):
            mask = np.zeros(shape, bool)
            mask[60 : 60 + side, 90 * i : 90 * i + side] = True
            rle = encode_mask_results(mask[None])[0]
            content['annotations'].append(
                dict(
                    id=i,
                    image_id=0,
                    category_id=label,
                    iscrowd=0,
                    area=side**2,
                    bbox=[90 * i, 60, side, side],
                    segmentation=dict(rle, counts=rle['counts'].decode()),
                )
            )
            masks.append(mask)
            labels.append(label)
        self.path = root / 'squares.json'
        self.path.write_text(json.dumps(content))
        self.sample = sample(0, masks, labels, [1.0, 0.98, 0.96, 0.95], shape)


@pytest.mark.parametrize('metric', ['bbox', 'segm', ['bbox', 'segm'], 'proposal'])
def test_perfect_predictions_of_all_sizes(tmp_path, metric):
    squares = Squares(tmp_path)
    figures = evaluate(
        [squares.sample], squares.path, squares.classes, metric=metric, classwise=metric == 'bbox'
    )
    assert figures == pytest.approx(dict.fromkeys(figures, 1))
    if metric != 'proposal':
        kinds = [metric] if isinstance(metric, str) else metric
        assert {f'coco/{kind}_mAP_{size}' for kind in kinds for size in 'sml'} <= figures.keys()


def test_only_the_items_that_are_asked_for(tmp_path):
    squares = Squares(tmp_path)
    figures = evaluate([squares.sample], squares.path, squares.classes, metric_items=['mAP_m'])
    assert figures == {'coco/bbox_mAP_m': pytest.approx(1)}


@pytest.mark.parametrize('thresholds', [[0.3, 0.6], [0.75], 0.5])
def test_other_iou_thresholds(tmp_path, thresholds):
    crowd = Crowd(tmp_path)
    figures = evaluate(
        crowd.samples,
        crowd.path,
        crowd.classes,
        metric='segm',
        iou_thrs=thresholds,
        metric_items=['mAP'],
    )
    coco = COCO(str(crowd.path))
    peer = COCOeval(coco, coco.loadRes(crowd.results('segm')), 'segm')
    peer.params.iouThrs = np.atleast_1d(thresholds)
    peer.params.maxDets = [100, 300, 1000]
    peer.evaluate()
    peer.accumulate()
    precision = peer.eval['precision'][:, :, :, 0, 0]
    assert figures['coco/segm_mAP'] == pytest.approx(precision[precision > -1].mean())


def test_only_writing_needs_a_place(toy_cmr):
    with pytest.raises(AssertionError, match='outfile_prefix'):
        FastCocoMetric(ann_file=str(toy_cmr.json_path), format_only=True)
