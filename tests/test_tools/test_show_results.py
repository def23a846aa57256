import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from swin_ext.visualization import show_results as module

LV, MYO = 1, 2
GREY = 90  # every pixel of every test image


@pytest.fixture(scope='module')
def show_results(load_tool):
    return SimpleNamespace(**{**vars(module), 'main': load_tool('show_results').main})


def box_mask(left, top, right, bottom, shape=(40, 48)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def encode(mask):
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return dict(size=list(rle['size']), counts=rle['counts'].decode())


def prediction(image_id=7, category_id=LV, score=0.9, mask=None, **changes):
    mask = box_mask(10, 10, 30, 30) if mask is None else mask
    return dict(
        dict(
            image_id=image_id,
            category_id=category_id,
            score=score,
            bbox=[10, 10, 20, 20],
            segmentation=encode(mask),
        ),
        **changes,
    )


@pytest.fixture
def case(tmp_path):
    """Two grey images with one LV each, and the arguments that show them."""
    (tmp_path / 'images').mkdir()
    images, annotations = [], []
    for image_id in (7, 9):
        name = f'slice{image_id}.png'
        cv2.imwrite(str(tmp_path / 'images' / name), np.full((40, 48), GREY, np.uint8))
        images.append(dict(id=image_id, file_name=name, width=48, height=40))
        annotations.append(
            dict(
                id=image_id,
                image_id=image_id,
                category_id=LV,
                iscrowd=0,
                area=400,
                bbox=[10, 10, 20, 20],
                segmentation=encode(box_mask(10, 10, 30, 30)),
            )
        )
    (tmp_path / 'ann.json').write_text(
        json.dumps(
            dict(
                images=images,
                annotations=annotations,
                categories=[dict(id=LV, name='LV'), dict(id=MYO, name='Myo')],
            )
        )
    )
    return tmp_path


def run(show_results, case, predictions, *more):
    text = predictions if isinstance(predictions, str) else json.dumps(predictions)
    (case / 'pred.segm.json').write_text(text)
    show_results.main(
        [
            '--ann',
            str(case / 'ann.json'),
            '--img-prefix',
            str(case / 'images'),
            '--pred',
            str(case / 'pred.segm.json'),
            '--out',
            str(case / 'out.png'),
            *more,
        ]
    )
    return cv2.imread(str(case / 'out.png'))[..., ::-1]


def test_the_sheet_shows_predictions_above_the_threshold(show_results, case):
    def coloured(sheet):
        return int((np.ptp(sheet.astype(int), axis=-1) > 30).sum())

    none = coloured(run(show_results, case, []))
    low = coloured(run(show_results, case, [prediction(score=0.4)]))
    high = coloured(run(show_results, case, [prediction(score=0.6)]))
    lowered = coloured(run(show_results, case, [prediction(score=0.4)], '--score-thr', '0.4'))
    # 20 of the 48 columns of a tile 256 px wide.
    mask_area = (20 * 256 / 48) ** 2
    assert none == low
    assert high - none == pytest.approx(mask_area, rel=0.1)
    assert lowered - none == pytest.approx(mask_area, rel=0.1)


def test_the_sheet_grows_with_the_images(show_results, case):
    one, two = (run(show_results, case, [], '--num', num) for num in ('1', '9'))
    tile = np.all(one == GREY, axis=-1).sum(), np.all(two == GREY, axis=-1).sum()
    assert tile[1] == pytest.approx(2 * tile[0], rel=0.05)
    assert tile[0] > 0.5 * 256 * 256 * 40 / 48


def test_best_prediction_per_class(show_results):
    first, second = box_mask(0, 0, 5, 5), box_mask(5, 5, 9, 9)
    best = show_results.best_predictions(
        [
            prediction(score=0.6, mask=first),
            prediction(score=0.8, mask=second),
            prediction(score=0.7, mask=first),
            prediction(category_id=MYO, score=0.5, mask=first),
            prediction(category_id=3, score=0.49),
        ],
        score_thr=0.5,
    )
    assert best.keys() == {LV, MYO}
    assert best[LV][1] == 0.8 and np.array_equal(best[LV][0], second)
    assert best[MYO][1] == 0.5


def test_instances_of_a_class_are_joined_and_crowds_left_out(show_results, case):
    file = case / 'ann.json'
    content = json.loads(file.read_text())
    content['annotations'] += [
        dict(
            id=20,
            image_id=7,
            category_id=LV,
            iscrowd=0,
            area=25,
            bbox=[0, 0, 5, 5],
            segmentation=[[0, 0, 5, 0, 5, 5, 0, 5]],
        ),
        dict(
            id=21,
            image_id=7,
            category_id=MYO,
            iscrowd=1,
            area=25,
            bbox=[0, 0, 5, 5],
            segmentation=encode(box_mask(0, 0, 5, 5)),
        ),
    ]
    file.write_text(json.dumps(content))
    masks = show_results.true_masks(show_results.load_ground_truth(file), 7)
    assert masks.keys() == {LV}
    assert np.array_equal(masks[LV], box_mask(0, 0, 5, 5) | box_mask(10, 10, 30, 30))


def test_choice_of_images(show_results):
    class Coco:
        imgs = dict.fromkeys(range(10, 21))

    assert show_results.choose_images(Coco, 3, None) == [10, 15, 20]
    assert show_results.choose_images(Coco, 99, None) == list(range(10, 21))
    drawn = show_results.choose_images(Coco, 4, 0)
    assert drawn == show_results.choose_images(Coco, 4, 0) == sorted(set(drawn))
    assert any(show_results.choose_images(Coco, 4, seed) != drawn for seed in range(1, 5))


@pytest.mark.parametrize(
    'predictions, message',
    [
        ([prediction(), prediction(image_id=8)], 'pred.segm.json, entry 1: image_id 8 is not in'),
        ([prediction(category_id=5)], 'pred.segm.json, entry 0: category_id 5 is not in'),
        (
            [dict(image_id=7, category_id=LV, score=1, bbox=[0, 0, 1, 1])],
            'pred.segm.json, entry 0: no segmentation; give the .segm.json',
        ),
        (
            [prediction(mask=box_mask(0, 0, 9, 9, (10, 10)))],
            'entry 0: the mask is 10x10 px but image_id 7 is 48x40 px',
        ),
        (
            [prediction(segmentation=[[0, 0, 5, 0, 5, 5]])],
            'entry 0: the segmentation is no run-length',
        ),
        (dict(annotations=[]), 'pred.segm.json holds a dict, not a list'),
        ('[{', 'pred.segm.json is not a JSON file'),
    ],
)
def test_predictions_that_do_not_fit(show_results, case, capsys, predictions, message):
    with pytest.raises(SystemExit) as error:
        run(show_results, case, predictions)
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (case / 'out.png').exists()


def test_missing_image(show_results, case, capsys):
    (case / 'images' / 'slice9.png').unlink()
    with pytest.raises(SystemExit):
        run(show_results, case, [])
    assert 'slice9.png (image_id 9) does not exist: check --img-prefix' in capsys.readouterr().err


@pytest.mark.parametrize(
    'content, message',
    [
        (cv2.imencode('.png', np.zeros((5, 6), np.uint8))[1].tobytes(), 'slice7.png is 6x5 px'),
        (b'no image', 'slice7.png (image_id 7) cannot be read as an image'),
    ],
)
def test_unsuitable_image(show_results, case, capsys, content, message):
    (case / 'images' / 'slice7.png').write_bytes(content)
    with pytest.raises(SystemExit):
        run(show_results, case, [])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"images": [], "annotations": [], "categories": []}', 'ann.json has no images'),
        ('{"images": [', 'ann.json is not a JSON file'),
    ],
)
def test_unsuitable_annotation_file(show_results, case, capsys, content, message):
    (case / 'ann.json').write_text(content)
    with pytest.raises(SystemExit):
        run(show_results, case, [])
    assert message in capsys.readouterr().err


def test_files_that_do_not_exist(show_results, case, capsys):
    for file in ('ann.json', 'pred.segm.json'):
        content = (case / 'ann.json').read_text()
        (case / 'pred.segm.json').write_text('[]')
        (case / file).unlink()
        with pytest.raises(SystemExit):
            show_results.main(
                [
                    '--ann',
                    str(case / 'ann.json'),
                    '--img-prefix',
                    str(case / 'images'),
                    '--pred',
                    str(case / 'pred.segm.json'),
                    '--out',
                    str(case / 'out.png'),
                ]
            )
        assert file in capsys.readouterr().err
        (case / 'ann.json').write_text(content)


def test_at_least_one_image(show_results, case, capsys):
    with pytest.raises(SystemExit):
        run(show_results, case, [], '--num', '0')
    assert '--num is 0' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.npy', '.nii.gz', '.dcm', '.tiff', '.jpg'])
def test_images_of_any_format(show_results, case, suffix):
    """16 bits are shown between their percentiles; 8 bits, and colours of grey, as they are."""
    pixels = np.tile(np.arange(48, dtype=np.uint16) * 100, (40, 1))
    file = case / 'images' / f'slice7{suffix}'
    if suffix == '.npy':
        np.save(file, pixels)
    elif suffix == '.nii.gz':
        nibabel = pytest.importorskip('nibabel')
        volume = np.stack([pixels.T * 0, pixels.T], -1)
        nibabel.Nifti1Image(volume, np.eye(4)).to_filename(file)
    elif suffix == '.dcm':
        write_dicom(file, pixels)
    else:
        cv2.imwrite(str(file), np.repeat((pixels // 20).astype(np.uint8)[..., None], 3, -1))
    content = json.loads((case / 'ann.json').read_text())
    content['images'][0].update(file_name=file.name)
    if suffix == '.nii.gz':
        content['images'][0].update(slice_index=1)
    (case / 'ann.json').write_text(json.dumps(content))
    coco = show_results.load_ground_truth(case / 'ann.json')
    image = show_results.load_image(coco, 7, case / 'images')
    assert image.dtype == np.uint8 and image.shape == (40, 48)
    assert np.corrcoef(image.ravel(), pixels.ravel())[0, 1] > 0.999
    assert image.max() >= 230


def write_dicom(path, pixels):
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = 'MONOCHROME2'
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)


def test_the_worst_first(show_results, case):
    """LV of images 7 and 9 is 20 x 20 px; Dice by counting pixels."""
    coco = show_results.load_ground_truth(case / 'ann.json')
    half = prediction(9, mask=box_mask(20, 10, 40, 30))
    by_image = {7: [prediction(7)], 9: [half]}
    assert show_results.worst_images(coco, by_image, 0.5, 5) == {9: 0.5, 7: 1.0}
    assert list(show_results.worst_images(coco, by_image, 0.5, 1)) == [9]
    # A structure that is not there counts as much as one that is missed.
    by_image[7].append(prediction(7, MYO, mask=box_mask(0, 0, 5, 5)))
    by_image[9] = []
    assert show_results.worst_images(coco, by_image, 0.5, 5) == {9: 0.0, 7: 0.5}
    one, two = (
        run(show_results, case, [prediction(7), half], '--worst', number) for number in '12'
    )
    assert one.shape[1] <= two.shape[1] and np.all(one == GREY, -1).sum() > 1000


def test_without_any_structure_there_is_no_worst(show_results, case, capsys):
    content = json.loads((case / 'ann.json').read_text())
    (case / 'ann.json').write_text(json.dumps(dict(content, annotations=[])))
    with pytest.raises(SystemExit):
        run(show_results, case, [prediction(score=0.1)], '--worst', '3')
    assert 'no structure on any image' in capsys.readouterr().err


@pytest.mark.parametrize(
    'arguments, message',
    [(('--worst', '0'), '--worst is 0'), (('--worst', '3', '--seed', '1'), 'give one of them')],
)
def test_arguments_of_the_worst(show_results, case, capsys, arguments, message):
    with pytest.raises(SystemExit):
        run(show_results, case, [], *arguments)
    assert message in capsys.readouterr().err
