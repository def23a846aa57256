"""Label maps of a COCO data set, against pycocotools, and as MMSegmentation reads them."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from swin_ext.conversion.semantic_command import main
from swin_ext.conversion.semantic_labels import (
    SemanticLabelError,
    label_map,
    write_semantic_labels,
)
from swin_ext.utils.errors import UserError
from toy_cmr import ToyCMR, encode


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def expected_map(coco: COCO, image_id: int, names: list[str]) -> np.ndarray:
    """Painted by pycocotools' own decoding, where nothing overlaps."""
    image = coco.loadImgs(image_id)[0]
    result = np.zeros((image['height'], image['width']), int)
    for annotation in coco.loadAnns(coco.getAnnIds(image_id)):
        name = coco.cats[annotation['category_id']]['name']
        if name in names:
            result[coco.annToMask(annotation) > 0] = names.index(name) + 1
    return result


@pytest.fixture
def toy(tmp_path) -> ToyCMR:
    return ToyCMR(tmp_path / 'toy')


@pytest.mark.parametrize('classes', [('LV', 'Myo', 'RV'), ('RV', 'LV')])
@pytest.mark.parametrize('form', ['compressed', 'runs'])
def test_label_maps_are_those_of_pycocotools(toy, classes, form):
    if form == 'runs':  # uncompressed run lengths, as other tools write them
        coco = COCO(str(toy.json_path))
        for annotation in toy.content['annotations']:
            flat = coco.annToMask(annotation).T.ravel()
            edges = np.flatnonzero(np.diff(flat, prepend=0, append=0)).tolist()
            runs = np.diff([0, *edges, flat.size]).tolist()
            annotation['segmentation']['counts'] = runs
        toy.save()
    toy.content['images'][0].update(spacing_mm=[1.5, 1.25], patient_id='p1', phase='ED', slice=3)
    toy.save()
    written = write_semantic_labels(toy.root, toy.root, classes=classes)
    assert written.classes == ['background', *classes]
    assert written.num_images == dict(train=4, val=4)
    assert not written.overlaps and not written.ignored
    coco = COCO(str(toy.json_path))
    for image in toy.content['images']:
        found = read(toy.root / 'labels' / image['file_name'])
        assert found.dtype == np.uint8 and set(np.unique(found)) == set(range(len(classes) + 1))
        np.testing.assert_array_equal(found, expected_map(coco, image['id'], list(classes)))
    assert (toy.root / 'train.txt').read_text().split() == [f'slice_{i}' for i in range(1, 5)]
    about = json.loads((toy.root / 'semantic.json').read_text())
    assert about['classes'] == ['background', *classes]
    kept = dict(spacing_mm=[1.5, 1.25], patient_id='p1', phase='ED', slice=3)
    assert about['splits']['train']['images']['slice_1'] == kept
    assert not list(toy.root.glob('.semantic*'))


def test_a_ring_of_polygons_keeps_its_hole(toy):
    """COCO's polygons add up, so a ring is drawn as one outline, there and back."""
    outer, inner = (
        [(10, 10), (40, 10), (40, 40), (10, 40)],
        [(20, 20), (20, 30), (30, 30), (30, 20)],
    )
    ring = [*outer, outer[0], *inner, inner[0], outer[0]]
    toy.content['annotations'] = [
        dict(
            id=1,
            image_id=1,
            category_id=20,
            iscrowd=0,
            bbox=[10, 10, 30, 30],
            segmentation=[[float(v) for point in ring for v in point]],
        )
    ]
    toy.save()
    write_semantic_labels(toy.root, toy.root)
    found = read(toy.root / 'labels/slice_1.png')
    np.testing.assert_array_equal(found, expected_map(COCO(str(toy.json_path)), 1, ['LV', 'Myo']))
    assert (found[15, 15], found[25, 25], found[5, 5]) == (2, 0, 0)
    assert not read(toy.root / 'labels/slice_2.png').any()


def instance(mask, category_id, **more) -> dict:
    return dict(segmentation=encode(mask), category_id=category_id, iscrowd=0, **more)


def square(start, stop) -> np.ndarray:
    mask = np.zeros((8, 8), bool)
    mask[start:stop, start:stop] = True
    return mask


IMAGE = dict(id=7, file_name='a.png', height=8, width=8)


def test_overlaps_go_to_the_structure_with_fewer_pixels():
    small, large, far = square(3, 5), square(1, 7), square(7, 8)
    annotations = [instance(small, 10), instance(large, 20), instance(far, 10)]
    labels = {10: 1, 20: 2}
    found, shared = label_map(IMAGE, annotations, labels, 'smaller')
    expected = np.zeros((8, 8), int)
    expected[large] = 2
    expected[small | far] = 1
    np.testing.assert_array_equal(found, expected)
    assert shared == {(1, 2): 4}
    np.testing.assert_array_equal(label_map(IMAGE, annotations[::-1], labels, 'smaller')[0], found)
    with pytest.raises(SemanticLabelError, match=r'image 7 \(a.png\): 4 pixels belong to two'):
        label_map(IMAGE, annotations, labels, 'refuse')


def test_instances_of_one_class_may_overlap():
    found, shared = label_map(
        IMAGE, [instance(square(1, 4), 10), instance(square(2, 6), 10)], {10: 1}, 'refuse'
    )
    np.testing.assert_array_equal(found, square(1, 4) | square(2, 6))
    assert not shared


@pytest.mark.parametrize('mark', [dict(iscrowd=1), dict(ignore=1), dict(ignore=True)])
def test_crowds_are_ignored_where_nothing_else_is(mark):
    crowd = {**instance(square(0, 6), 10), **mark}
    found, _ = label_map(IMAGE, [instance(square(4, 8), 10), crowd], {10: 1}, 'refuse')
    expected = np.where(square(0, 6), 255, 0)
    expected[square(4, 8)] = 1
    np.testing.assert_array_equal(found, expected)


def test_categories_that_are_not_asked_for_are_background():
    found, _ = label_map(IMAGE, [instance(square(1, 3), 30)], {10: 1}, 'refuse')
    assert not found.any()


def change(toy, key, **values):
    toy.content[key][1].update(values)
    toy.save()


@pytest.mark.parametrize(
    'spoil, message',
    [
        (lambda toy: change(toy, 'images', file_name='../a.png'), r'image 2 \(../a.png\) lies out'),
        (lambda toy: change(toy, 'images', file_name='C:\\a.png'), r'image 2 .* lies outside of'),
        (lambda toy: change(toy, 'images', file_name='b.png'), r'image 2 \(b.png\) is no file in'),
        (lambda toy: change(toy, 'images', file_name='slice_1.png'), 'shares its file, or its na'),
        (lambda toy: change(toy, 'images', frame_index=1), 'shares its file.*other images of it'),
        (lambda toy: change(toy, 'annotations', segmentation=None), 'Myo|it has no segmentation'),
        (lambda toy: change(toy, 'categories', name='background'), "may be named 'background'"),
        (
            lambda toy: change(toy, 'annotations', segmentation=encode(np.ones((48, 64), bool))),
            r'train.json: image 1 \(slice_1.png\): \d+ pixels belong to two classes',
        ),
        (lambda toy: [p.unlink() for p in toy.root.glob('*.json')], 'neither train.json, val.json'),
    ],
)
def test_what_cannot_be_written_leaves_nothing_behind(toy, spoil, message):
    spoil(toy)
    before = sorted(toy.root.rglob('*'))
    with pytest.raises(UserError, match=message):
        write_semantic_labels(toy.root, toy.root)
    assert sorted(toy.root.rglob('*')) == before


def test_image_files_of_two_kinds_are_refused(toy):
    (toy.root / 'images/other.jpg').write_bytes(b'')
    change(toy, 'images', file_name='other.jpg')
    with pytest.raises(SemanticLabelError, match=r"have the suffixes \['.jpg', '.png'\]"):
        write_semantic_labels(toy.root, toy.root)


def test_the_command(toy, tmp_path, capsys):
    lv = next(each for each in toy.content['annotations'] if each['category_id'] == 10)
    toy.content['annotations'].append(dict(copy.deepcopy(lv), id=99, category_id=30))  # also RV
    toy.save()
    out = tmp_path / 'out'
    main([str(toy.root), '--out', str(out), '--overlaps', 'smaller', '--splits', 'val'])
    assert capsys.readouterr().out.split('\n') == [
        'labels: 0 background, 1 LV, 2 Myo, 3 RV',
        f'{out}/val.txt: 4 images',
        f'LV, RV: {lv["area"]} pixels of both, given to the one with fewer pixels in the image',
        '',
    ]
    assert sorted(p.name for p in out.iterdir()) == ['labels', 'semantic.json', 'val.txt']
    (out / 'labels/stale.png').touch()
    with pytest.raises(UserError, match='labels exists; give --overwrite'):
        main([str(toy.root), '--out', str(out)])
    main([str(toy.root), '--out', str(out), '--overlaps', 'smaller', '--overwrite'])
    assert not (out / 'labels/stale.png').exists() and (out / 'train.txt').exists()


@pytest.mark.parametrize(
    'folder, classes',
    [('sunnybrook_png', ['LV']), ('autofd_nifti/coco', ['LV', 'Myo', 'RV'])],
)
def test_real_sets(real_data, tmp_path, folder, classes):
    """Without a rule for overlaps: their masks do not."""
    written = write_semantic_labels(real_data / folder, tmp_path)
    coco = COCO(str(real_data / folder / 'val.json'))
    assert written.classes[1:] == [each['name'] for each in coco.dataset['categories']] == classes
    for image in list(coco.imgs.values())[::10]:
        found = read((tmp_path / 'labels' / image['file_name']).with_suffix('.png'))
        np.testing.assert_array_equal(found, expected_map(coco, image['id'], classes))


def test_mmseg_reads_what_is_written(toy, tmp_path):
    """Its own data set pairs each image with its labels, in the order of the split."""
    from mmseg.datasets import BaseSegDataset
    from mmseg.datasets.transforms import LoadAnnotations

    moved = tmp_path / 'moved'
    write_semantic_labels(toy.root, toy.root)
    shutil.move(toy.root, moved)
    dataset = BaseSegDataset(
        data_root=str(moved),
        ann_file='val.txt',
        data_prefix=dict(img_path='images', seg_map_path='labels'),
        img_suffix='.png',
        seg_map_suffix='.png',
        metainfo=dict(classes=('background', 'LV', 'Myo', 'RV')),
        pipeline=[],
    )
    assert len(dataset) == 4
    coco = COCO(str(moved / 'val.json'))
    for index, image in enumerate(coco.dataset['images']):
        info = dataset.get_data_info(index)
        assert info['img_path'] == str(moved / 'images' / image['file_name'])
        found = LoadAnnotations()(info)['gt_seg_map']
        np.testing.assert_array_equal(found, expected_map(coco, image['id'], list(toy.classes)))
