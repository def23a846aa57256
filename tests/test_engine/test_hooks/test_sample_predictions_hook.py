import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.structures import InstanceData
from mmengine.visualization import TensorboardVisBackend
from pycocotools import mask as mask_utils
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swin_ext.engine.hooks import SamplePredictionsHook
from swin_ext.engine.hooks.sample_predictions_hook import make_tile
from swin_ext.visualization.overlays import Tile, draw_sheet
from toy_watched_run import Numbers, Regression, make_runner
from two_ranks import log_of

HEIGHT, WIDTH = 40, 48
LV, MYO = 0, 1


def box_mask(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top:bottom, left:right] = True
    return mask


FIRST, SECOND, THIRD = box_mask(5, 5, 20, 20), box_mask(10, 10, 30, 30), box_mask(0, 30, 48, 40)


def as_rle(masks):
    return [mask_utils.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def make_sample(masks=None, scores=(0.9, 0.8, 0.6), labels=(LV, LV, MYO), truth=None, name='a.png'):
    sample = DetDataSample(metainfo=dict(ori_shape=(HEIGHT, WIDTH), img_path=f'images/{name}'))
    sample.pred_instances = InstanceData(
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
        masks=torch.from_numpy(np.stack([FIRST, SECOND, THIRD])) if masks is None else masks,
    )
    sample.gt_instances = InstanceData(
        labels=torch.tensor([LV, LV, MYO]),
        masks=BitmapMasks([FIRST, THIRD, np.zeros_like(FIRST)], HEIGHT, WIDTH)
        if truth is None
        else truth,
    )
    return sample


@pytest.mark.parametrize(
    'masks',
    [
        torch.from_numpy(np.stack([FIRST, SECOND, THIRD])),
        np.stack([FIRST, SECOND, THIRD]),
        as_rle([FIRST, SECOND, THIRD]),
        BitmapMasks([FIRST, SECOND, THIRD], HEIGHT, WIDTH),
    ],
    ids=['tensor', 'array', 'RLE', 'BitmapMasks'],
)
def test_best_prediction_of_each_class_over_the_joined_truth(masks):
    tile = make_tile(
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8),
        make_sample(masks, scores=(0.5, 0.8, 0.6)),
        score_thr=0.3,
    )
    assert tile.title == 'a.png'
    assert tile.predictions.keys() == {LV, MYO} and tile.truth.keys() == {LV}
    assert np.array_equal(tile.predictions[LV][0], SECOND)
    assert np.array_equal(tile.predictions[MYO][0], THIRD)
    assert tile.predictions[LV][1] == pytest.approx(0.8)
    assert np.array_equal(tile.truth[LV], FIRST | THIRD)


def test_score_threshold():
    inputs = torch.zeros(3, HEIGHT, WIDTH)
    assert make_tile(inputs, make_sample(), 0.7).predictions.keys() == {LV}
    assert make_tile(inputs, make_sample(), 0.95).predictions == {}


def test_polygons():
    polygons = PolygonMasks([[np.array([10.0, 10, 30, 10, 30, 30, 10, 30])]] * 3, HEIGHT, WIDTH)
    tile = make_tile(torch.zeros(3, HEIGHT, WIDTH), make_sample(truth=polygons), 0.3)
    assert np.array_equal(tile.truth[MYO], SECOND)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_middle_channel_at_its_original_size(dtype):
    inputs = torch.zeros(3, 2 * HEIGHT, 2 * WIDTH, dtype=dtype)
    inputs[1, :, :WIDTH] = 255
    tile = make_tile(inputs, make_sample(), 0.3)
    assert tile.image.dtype == np.uint8 and tile.image.shape == (HEIGHT, WIDTH)
    assert (tile.image[:, : WIDTH // 2] == 255).all() and (tile.image[:, WIDTH // 2 :] == 0).all()


class Slices(Numbers):
    """6 images, 2 batches; the brightness tells them apart."""

    def __init__(self):
        super().__init__(num_samples=6)

    def __getitem__(self, idx):
        return dict(
            inputs=torch.full((3, HEIGHT, WIDTH), 20 * idx, dtype=torch.uint8),
            data_samples=make_sample(name=f'{idx}.png'),
        )


def run(work_dir, val_dataset=None, **arguments):
    return make_runner(
        work_dir,
        hooks=[SamplePredictionsHook(**arguments)],
        val_interval=4,
        model=Regression(),
        val_dataset=val_dataset or Slices(),
    )


def test_pictures_of_the_same_images_at_each_validation(tmp_path):
    runner = run(tmp_path, num_images=3)
    runner.train()
    files = sorted((tmp_path / 'predictions').iterdir())
    assert [file.name for file in files] == ['iter_4.png', 'iter_8.png']
    tiles = [
        Tile(
            f'{idx}.png',
            np.full((HEIGHT, WIDTH), 20 * idx, np.uint8),
            {LV: FIRST | THIRD},
            {LV: (FIRST, 0.9), MYO: (THIRD, 0.6)},
        )
        for idx in (0, 2, 5)
    ]
    canvas = FigureCanvasAgg(draw_sheet(tiles, {LV: 'LV', MYO: 'Myo'}, 0.3))
    canvas.draw()
    expected = np.asarray(canvas.buffer_rgba())[..., :3]
    for file in files:
        assert np.array_equal(cv2.imread(str(file))[..., ::-1], expected)

    folder = Path(runner.log_dir) / 'vis_data'
    events = EventAccumulator(str(folder))
    events.Reload()
    images = events.Images('val/predictions')
    assert [image.step for image in images] == [4, 8]
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(images[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)[
            ..., ::-1
        ],
        expected,
    )
    assert not (folder / 'vis_image').exists()  # once is enough


def test_all_images_where_there_are_few(tmp_path, monkeypatch):
    from swin_ext.visualization import overlays

    drawn = []

    def draw(tiles, *args):
        drawn.append([tile.title for tile in tiles])
        return draw_sheet(tiles, *args)

    monkeypatch.setattr(overlays, 'draw_sheet', draw)
    run(tmp_path, num_images=99).train()
    assert drawn == [[f'{idx}.png' for idx in range(6)]] * 2


@pytest.mark.parametrize(
    'part, advice',
    [
        ('pred_instances', 'a model that predicts masks'),
        ('gt_instances', "give the validation pipeline dict\\(type='LoadAnnotations'"),
    ],
)
def test_without_masks_there_is_one_warning(tmp_path, part, advice):

    class WithoutMasks(Slices):
        def __getitem__(self, idx):
            item = super().__getitem__(idx)
            getattr(item['data_samples'], part).pop('masks')
            return item

    runner = run(tmp_path, WithoutMasks())
    runner.train()
    assert runner.iter == 8 and not (tmp_path / 'predictions').exists()
    warning = f'SamplePredictionsHook draws nothing .* no masks in the {part}; .*{advice}'
    assert len(re.findall(warning, log_of(runner))) == 1


def test_a_backend_that_takes_no_picture_is_warned_of_once(tmp_path, monkeypatch):
    monkeypatch.setattr(TensorboardVisBackend, 'add_image', lambda *args: 1 / 0)
    runner = run(tmp_path)
    runner.train()
    assert log_of(runner).count('TensorboardVisBackend takes no picture') == 1
    assert len(list((tmp_path / 'predictions').iterdir())) == 2


def test_no_images_are_refused():
    with pytest.raises(ValueError, match='num_images=0, but at least one is needed'):
        SamplePredictionsHook(num_images=0)
