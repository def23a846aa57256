"""What becomes of instances: which are used, which label a pixel gets, what the model is given."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from segmentable import FoundInstances, ThresholdModel, pixels_of, truths, write_cine
from swin_ext.images.image_file import ImageReadError
from swin_ext.images.preprocessing import Preprocessing
from swin_ext.inference.inputs import find_studies
from swin_ext.inference.segmentation import paint, prepare, read_pixels, segment
from swin_ext.inference.study_stack import read_stack
from swin_ext.study.errors import StudyError


def opened(folder):
    (study,) = find_studies([folder], Counter())
    stack = read_stack(study)
    return stack, read_pixels(stack)


@pytest.mark.parametrize('batch_size', [1, 5, 100])
def test_every_frame_in_its_place(tmp_path, batch_size):
    stack, pixels = opened(write_cine(tmp_path))
    model, done = ThresholdModel(), []
    study, instances = segment(stack, pixels, model, 'p1', 'best', batch_size, done.append)
    assert np.array_equal(study.labels, truths())
    assert study.present.all() and sum(done) == 12 and max(model.calls) == min(batch_size, 12)
    expected = np.rint(pixels_of(truths()) * (255 / 350)).astype(np.uint8)
    assert abs(study.images.astype(int) - expected).max() <= 1
    assert study.candidates[0, 0].tolist() == [1, 1, 2]
    assert study.scores[0, 0] == pytest.approx([0.9, 0.8, 0.7])
    assert len(instances) == 36 and study.classes == ('LV', 'Myo', 'RV')


def test_all_instances_or_the_best(tmp_path):
    stack, pixels = opened(write_cine(tmp_path, phases=1))
    best, few = segment(stack, pixels, ThresholdModel(), 'p1', 'best')
    every, many = segment(stack, pixels, ThresholdModel(), 'p1', 'all')
    assert (best.labels[..., -3:, -3:] == 0).all() and (every.labels[..., -3:, -3:] == 3).all()
    assert (len(few), len(many)) == (9, 12)
    assert np.array_equal(best.scores, every.scores)
    assert np.array_equal(best.candidates, every.candidates)


def test_masks_are_kept_as_the_model_made_them(tmp_path):
    stack, pixels = opened(write_cine(tmp_path, phases=1))
    _, instances = segment(stack, pixels, ThresholdModel(), 'p1')
    filled = next(item for item in instances if (item.slice, item.label) == (0, 1))
    mask = mask_utils.decode(filled.rle)
    assert np.array_equal(mask, np.isin(truths(1)[0, 0], (1, 2)))


@pytest.mark.parametrize('name', ['Myo', 'myocardium', 'LV-Myo'])
@pytest.mark.parametrize('scores', [(0.9, 0.6, 0.5), (0.5, 0.6, 0.9), (0.6, 0.9, 0.5)])
def test_overlaps(name, scores):
    """Any other class goes before myocardium, whatever the scores; else the higher score does."""
    masks = np.zeros((3, 1, 4), bool)
    masks[0, 0, :3] = masks[1, 0, 1:] = masks[2, 0, 2:] = True  # LV, Myo, RV
    found = FoundInstances(
        labels=np.arange(3), scores=np.array(scores), boxes=np.zeros((3, 4)), masks=masks
    )
    labels = paint(found, [0, 1, 2], ('LV', name, 'RV'))
    assert labels.tolist() == [[1, 1, 1 if scores[0] > scores[2] else 3, 3]]


def test_instances_without_a_pixel_or_none_at_all():
    class Nothing(ThresholdModel):
        def _find(self, image):
            return FoundInstances(
                labels=np.array([0]),
                scores=np.array([0.9], np.float32),
                boxes=np.zeros((1, 4)),
                masks=np.zeros((1, *image.shape), bool),
            )

    from swin_ext.inference.segmentation import Pixels
    from swin_ext.inference.study_stack import FramePlace, StudyStack

    frames = {(0, 0): FramePlace(None, None, None)}
    stack = StudyStack('nifti', frames, 1, (0,), (1, 1), np.zeros(1), 1.0, None, None)
    pixels = Pixels({(0, 0): np.eye(8, dtype=np.float32)}, {(0, 0): False}, ())
    study, instances = segment(stack, pixels, Nothing(), 'p1')
    assert not instances and not study.labels.any() and not study.candidates.any()
    assert np.isnan(study.scores).all() and study.present.all()


def test_a_model_of_too_many_classes(tmp_path):
    stack, pixels = opened(write_cine(tmp_path, phases=1))
    model = ThresholdModel(tuple(map(str, range(256))))
    with pytest.raises(StudyError, match='256 classes, and files have labels of 1 to 255'):
        segment(stack, pixels, model, 'p1')


class TestWhatTheModelIsGiven:
    """Against grey levels by NumPy's own percentiles."""

    @pytest.fixture
    def study(self, tmp_path):
        return opened(write_cine(tmp_path, phases=2, slices=2))

    def given(self, study, preprocessing):
        model = ThresholdModel()
        model.preprocessing = preprocessing
        return {key: (levels, image) for key, levels, image in prepare(*study, model)}

    def test_window_of_the_study(self, study):
        _, pixels = study
        pixels.frames[0, 1] *= 2
        given = self.given(study, Preprocessing('study', (10, 90)))
        for phase in (0, 1):
            volume = np.stack([pixels.frames[phase, z] for z in (0, 1)]).astype(float)
            low, high = np.percentile(volume, (10, 90))
            for z in (0, 1):
                expected = np.rint(255 * np.clip((volume[z] - low) / (high - low), 0, 1))
                levels, image = given[phase, z]
                assert image.dtype == np.uint8 and np.array_equal(levels, image)
                assert abs(levels - expected).max() <= 1

    def test_without_rounding_pixels_are_given(self, study):
        given = self.given(study, Preprocessing('slice', rounding=None))
        for key, (levels, image) in given.items():
            assert image is study[1].frames[key] and levels.dtype == np.uint8

    def test_pictures_of_8_bits_are_taken_as_they_are(self, study):
        _, pixels = study
        for key in pixels.frames:
            pixels.frames[key] = np.minimum(pixels.frames[key], 200)
            pixels.is_display[key] = True
        given = self.given(study, Preprocessing('slice', keep_8_bit=True))
        for key, (_, image) in given.items():
            assert np.array_equal(image, pixels.frames[key])

    @pytest.mark.parametrize('channels', ['slices', 'frames'])
    def test_neighbours(self, study, channels):
        given = self.given(study, Preprocessing('slice', (0, 100), channels=channels))
        alone = self.given(study, Preprocessing('slice', (0, 100)))
        for (t, z), (_, image) in given.items():
            assert image.shape == (40, 48, 3)
            around = [(t, 0), (t, z), (t, 1)] if channels == 'slices' else [(0, z), (t, z), (1, z)]
            for channel, key in enumerate(around):
                assert np.array_equal(image[..., channel], alone[key][0])

    def test_a_missing_slice_is_no_neighbour(self, tmp_path):
        write_cine(tmp_path / 'gap', phases=1, slices=4)
        (tmp_path / 'gap' / '2.dcm').unlink()  # slice 2
        study = opened(tmp_path / 'gap')
        assert study[0].slice_numbers == (0, 1, 3)
        given = self.given(study, Preprocessing('slice', channels='slices'))
        last = given[0, 2][1]
        assert (last == last[..., :1]).all()
        middle = given[0, 1][1]
        assert np.array_equal(middle[..., 2], middle[..., 1])
        assert not np.array_equal(middle[..., 0], middle[..., 1])


class TestCorruptFrames:
    def test_one_amid_200_is_left_out(self, tmp_path):
        write_cine(tmp_path, phases=50, slices=4)
        path = tmp_path / '7.dcm'  # phase 6 of the slice at the far end
        path.write_bytes(path.read_bytes()[:-1000])
        stack, pixels = opened(tmp_path)
        assert len(pixels.frames) == 199
        assert pixels.unreadable == ('frame of phase 6, slice 3: its pixels cannot be read',)
        study, _ = segment(stack, pixels, ThresholdModel(), 'p1')
        assert np.argwhere(~study.present).tolist() == [[6, 3]]
        assert not study.images[6, 3].any() and not study.labels[6, 3].any()
        expected = truths(50, 4)
        expected[6, 3] = 0
        assert np.array_equal(study.labels, expected)
        assert study.left_out[-1] == pixels.unreadable[0]

    def test_many_are_an_error(self, tmp_path):
        write_cine(tmp_path)
        for number in (1, 2):
            path = tmp_path / f'{number}.dcm'
            path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ImageReadError, match=r'[12]\.dcm'):
            opened(tmp_path)


def test_pictures_of_different_sizes_in_a_named_list(tmp_path):
    np.save(tmp_path / 'a.npy', np.arange(25.0).reshape(5, 5))
    np.save(tmp_path / 'b.npy', np.arange(36.0).reshape(6, 6))
    studies = list(find_studies([tmp_path / 'a.npy', tmp_path / 'b.npy'], Counter()))
    assert [read_pixels(read_stack(study)).frames[0, 0].shape for study in studies] == [
        (5, 5),
        (6, 6),
    ]
