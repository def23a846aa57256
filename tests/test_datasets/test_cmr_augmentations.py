import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.registry import TRANSFORMS, init_default_scope

from toy_cmr import disk

monai_transforms = pytest.importorskip('monai.transforms')

SIZE = 96
INTENSITY = ['CMRRandomBiasField', 'CMRRandomNoise', 'CMRRandomGamma']
SPATIAL = ['CMRRandomRotate', 'CMRRandomElastic']


def make_sample(dtype=np.uint8, size=SIZE):
    lv = disk(size, size, 40, 50, 12)
    masks = np.stack([lv, disk(size, size, 40, 50, 20) & ~lv, disk(size, size, 45, 20, 9)])
    image = np.random.default_rng(0).integers(0, 60, (size, size)) + 150 * lv + 80 * masks[2]
    boxes = BitmapMasks(masks.astype(np.uint8), size, size).get_bboxes('hbox')
    return dict(
        img=np.repeat(image[..., None], 3, -1).astype(dtype),
        gt_masks=BitmapMasks(masks.astype(np.uint8), size, size),
        gt_bboxes=boxes,
        gt_bboxes_labels=np.array([0, 1, 2]),
        gt_ignore_flags=np.zeros(3, bool),
    )


def build(name, **kwargs):
    return TRANSFORMS.build(dict(type=name, prob=1.0, **kwargs))


@pytest.mark.parametrize('name', INTENSITY)
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_intensity_changes_leave_instances_alone(name, dtype):
    sample, original = make_sample(dtype), make_sample(dtype)
    build(name)(sample)
    assert sample['img'].dtype == dtype and not np.array_equal(sample['img'], original['img'])
    assert sample['img'].min() >= 0 and sample['img'].max() <= 255
    assert (sample['img'][..., :1] == sample['img']).all()  # still repeats one image
    assert np.array_equal(sample['gt_masks'].masks, original['gt_masks'].masks)
    assert torch.equal(sample['gt_bboxes'].tensor, original['gt_bboxes'].tensor)


@pytest.mark.parametrize(
    'name, kwargs',
    [
        ('CMRRandomBiasField', dict(coeff_range=(0, 0))),
        ('CMRRandomNoise', dict(max_std=0)),
        ('CMRRandomNoise', dict(max_std=0, distribution='gaussian')),
        ('CMRRandomGamma', dict(gamma_range=(1, 1))),
        ('CMRRandomRotate', dict(angle_range=(0, 0))),
        ('CMRRandomElastic', dict(max_shift=1e-7)),
    ],
)
def test_nothing_to_change(name, kwargs):
    sample, original = make_sample(), make_sample()
    build(name, **kwargs)(sample)
    assert np.array_equal(sample['img'], original['img'])
    assert np.array_equal(sample['gt_masks'].masks, original['gt_masks'].masks)
    assert torch.equal(sample['gt_bboxes'].tensor, original['gt_bboxes'].tensor)


def test_gamma_is_the_power_of_the_scaled_image():
    sample = make_sample(np.float32)
    image = sample['img'].copy()
    low, high = image.min(), image.max()
    expected = ((image - low) / (high - low)) ** 2 * (high - low) + low
    assert np.allclose(
        build('CMRRandomGamma', gamma_range=(2, 2))(sample)['img'], expected, atol=1e-2
    )


def test_noise_is_rician():
    image = np.zeros((400, 400, 3), np.float32)
    np.random.seed(0)
    noisy = build('CMRRandomNoise', max_std=0.1)(dict(img=image))['img'][..., 0] / 255
    # Rayleigh in the air: mean and standard deviation have a fixed ratio (Gudbjartsson 1995).
    assert noisy.mean() / noisy.std() == pytest.approx(np.sqrt(np.pi / (4 - np.pi)), rel=0.02)


def test_noise_of_different_channels_is_independent():
    image = np.repeat(np.full((64, 64, 1), 100.0), 3, -1).astype(np.float32)
    image[0, 0, 1] += 1  # neighbouring slices instead of one image three times
    noisy = build('CMRRandomNoise')(dict(img=image))['img']
    assert abs(np.corrcoef(noisy[..., 0].ravel(), noisy[..., 1].ravel())[0, 1]) < 0.1


def test_bias_field_is_that_of_monai():
    image = np.full((64, 80, 3), 100, np.float32)
    np.random.seed(3)
    got = build('CMRRandomBiasField', coeff_range=(0.1, 0.2), degree=2)(dict(img=image))['img']
    np.random.seed(3)
    np.random.random()
    oracle = monai_transforms.RandBiasField(degree=2, coeff_range=(0.1, 0.2), prob=1.0)
    oracle.set_random_state(seed=np.random.randint(2**31))
    expected = np.asarray(oracle(image[None, ..., 0] / 255))[0].clip(0, 1) * 255
    assert np.allclose(got[..., 0], expected, atol=1e-3)


@pytest.mark.parametrize('quarter', [-1, 1, 2, 3])
def test_quarter_turns(quarter):
    sample, original = make_sample(), make_sample()
    build('CMRRandomRotate', angle_range=(90 * quarter, 90 * quarter))(sample)
    assert np.array_equal(sample['img'], np.rot90(original['img'], -quarter))
    assert np.array_equal(
        sample['gt_masks'].masks, np.rot90(original['gt_masks'].masks, -quarter, axes=(1, 2))
    )


@pytest.mark.parametrize('name', SPATIAL)
@pytest.mark.parametrize('seed', range(5))
def test_masks_follow_the_image(name, seed):
    sample = make_sample()
    masks = sample['gt_masks'].masks
    sample['img'] = np.stack([255 * mask for mask in masks], -1)  # each structure in a channel
    np.random.seed(seed)
    build(name)(sample)
    moved = sample['gt_masks'].masks.astype(bool)
    assert not np.array_equal(moved, masks)
    for channel, mask in enumerate(moved):
        bright = sample['img'][..., channel] > 127
        assert (bright & mask).sum() / (bright | mask).sum() > 0.98
    assert not (moved[0] & moved[1]).any()  # the ring keeps its hole
    for mask, box in zip(moved, sample['gt_bboxes'].tensor.tolist()):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert box == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize('boxes_as', ['boxes', 'array'])
def test_instances_that_leave_the_image_are_removed(boxes_as):
    sample = make_sample()
    corner = np.zeros((1, SIZE, SIZE), np.uint8)
    corner[0, :4, :4] = 1  # a turn by 45 degrees moves it out
    masks = np.concatenate([corner, sample['gt_masks'].masks])
    sample['gt_masks'] = BitmapMasks(masks, SIZE, SIZE)
    sample['gt_bboxes'] = sample['gt_masks'].get_bboxes('hbox')
    if boxes_as == 'array':
        sample['gt_bboxes'] = sample['gt_bboxes'].numpy()
    sample['gt_bboxes_labels'] = np.array([9, 0, 1, 2])
    sample['gt_ignore_flags'] = np.array([True, False, False, False])
    build('CMRRandomRotate', angle_range=(45, 45))(sample)
    assert sample['gt_bboxes_labels'].tolist() == [0, 1, 2]
    assert len(sample['gt_masks']) == len(sample['gt_bboxes']) == 3
    assert not sample['gt_ignore_flags'].any()
    assert isinstance(sample['gt_bboxes'], np.ndarray) == (boxes_as == 'array')


def test_image_without_instances():
    sample = make_sample()
    sample.update(
        gt_masks=BitmapMasks([], SIZE, SIZE),
        gt_bboxes=sample['gt_bboxes'][:0],
        gt_bboxes_labels=np.zeros(0, int),
        gt_ignore_flags=np.zeros(0, bool),
    )
    build('CMRRandomElastic')(sample)
    assert len(sample['gt_masks']) == len(sample['gt_bboxes']) == 0


@pytest.mark.parametrize('name', INTENSITY + SPATIAL)
def test_numpy_seed_repeats_everything(name):
    transform = build(name)
    images = []
    for seed in (5, 5, 6):
        np.random.seed(seed)
        images.append(transform(make_sample())['img'])
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])


def test_probability():
    transform = TRANSFORMS.build(dict(type='CMRRandomGamma', prob=0.25, gamma_range=(2, 2)))
    np.random.seed(0)
    original = make_sample(size=64)['img']
    changed = sum(
        not np.array_equal(transform(dict(img=original))['img'], original) for _ in range(400)
    )
    assert 70 < changed < 130


def test_pipeline_with_flips_keeps_labels(toy_cmr):
    init_default_scope('mmdet')
    from swin_ext.datasets import CMRDataset

    dataset = CMRDataset(
        data_root=str(toy_cmr.root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=[
            dict(type='LoadCMRImage'),
            dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
            *(dict(type=name, prob=1.0) for name in INTENSITY + SPATIAL),
            dict(type='RandomFlip', prob=1.0, direction='horizontal'),
            dict(type='PackDetInputs'),
        ],
    )
    instances = dataset[0]['data_samples'].gt_instances
    centres = {
        dataset.metainfo['classes'][label]: np.argwhere(mask).mean(0)
        for label, mask in zip(instances.labels.tolist(), instances.masks.masks)
    }
    # In the toy the RV lies to the left of the LV; the flip puts it to the right.
    assert centres['RV'][1] > centres['LV'][1] + 10
    assert np.abs(centres['LV'] - centres['Myo']).max() < 3


@pytest.mark.parametrize(
    'masks',
    [None, PolygonMasks([[np.array([1.0, 1, 9, 1, 9, 9])]], SIZE, SIZE)],
    ids=['none', 'polygons'],
)
def test_masks_are_needed_where_boxes_are(masks):
    sample = make_sample()
    sample['gt_masks'] = masks
    with pytest.raises(TypeError, match='poly2mask=True'):
        build('CMRRandomRotate')(sample)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='CMRRandomGamma', prob=1.5), 'prob=1.5 must lie in 0..1'),
        (dict(type='CMRRandomGamma', gamma_range=(2, 1)), 'two rising numbers from 0'),
        (dict(type='CMRRandomGamma', gamma_range=(-1, 1)), 'two rising numbers from 0'),
        (dict(type='CMRRandomRotate', angle_range=(10, -10)), 'two rising numbers'),
        (dict(type='CMRRandomNoise', distribution='poisson'), "distribution='poisson'"),
        (dict(type='CMRRandomNoise', max_std=-1), 'two rising numbers'),
        (dict(type='CMRRandomElastic', max_shift=0.2), 'could change places'),
    ],
)
def test_invalid_argument(cfg, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(cfg)


def test_missing_monai_names_the_package(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'monai', None)
    monkeypatch.setitem(__import__('sys').modules, 'monai.transforms', None)
    with pytest.raises(ImportError, match='pip install monai'):
        build('CMRRandomGamma')
