import http.server
import json
import math
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from swin_ext.preflight.command import main
from swin_ext.preflight.model import find_file_problem
from swin_ext.visualization.colours import OKABE_ITO
from toy_cmr import ToyCMR, disk, encode

CONFIG = """
custom_imports = dict(imports=['swin_ext'], allow_failed_imports=False)
default_scope = 'mmdet'
data_root = {root!r}
num_classes = 3
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True,
            with_mask=True), dict(type='PackDetInputs')]
train_dataloader = dict(dataset=dict(
    type='RepeatDataset', times=2, dataset=dict(
        type='CMRDataset', ann_file='train.json', data_prefix=dict(img='images/'),
        pipeline=pipeline)))
val_dataloader = dict(dataset=dict(
    type='CMRDataset', ann_file='val.json', data_prefix=dict(img='images/'), test_mode=True,
    pipeline=pipeline))
test_dataloader = val_dataloader
model = dict(
    type='ToyDetector', backbone=dict(type='ToyBackbone', num_stages=4, frozen_stages=1),
    bbox_head=dict(type='ToyHead', num_classes=80), rpn_head=dict(type='ToyHead'),
    init_cfg=None)
load_from = None
"""


def register_toy_model():
    from mmengine.registry import MODELS
    from torch import nn

    class ToyBackbone(nn.Linear):
        def __init__(self, num_stages, frozen_stages, init_cfg=None):
            super().__init__(4, 4)
            self.requires_grad_(frozen_stages < num_stages)

    class ToyHead(nn.Module):
        def __init__(self, num_classes=1):
            super().__init__()
            self.num_classes = num_classes

    class ToyDetector(nn.Module):
        def __init__(self, backbone, bbox_head, rpn_head, init_cfg):
            super().__init__()
            self.backbone = MODELS.build(backbone)
            self.bbox_head, self.rpn_head = MODELS.build(bbox_head), MODELS.build(rpn_head)

    for kind in (ToyBackbone, ToyHead, ToyDetector):
        MODELS.register_module(module=kind, force=True)


class Project:
    """A config with two splits of a toy set; patients and spacings are given."""

    def __init__(self, folder):
        self.toy = ToyCMR(folder / 'toy')
        self.out = folder / 'out'
        self.config = folder / 'toy_config.py'
        self.config.write_text(CONFIG.format(root=str(self.toy.root)))
        self.contents = {}
        for split in ('train', 'val'):
            content = json.loads(self.toy.json_path.read_text())
            for image in content['images']:
                image.update(spacing_mm=1.2, patient_id=f'{split}{image["id"] // 3}')
            self.contents[split] = content

    def run(self, capsys, *options):
        for split, content in self.contents.items():
            (self.toy.root / f'{split}.json').write_text(json.dumps(content))
        code = main(
            [
                str(self.config),
                '--out-dir',
                str(self.out),
                '--timeout',
                '2',
                *(['--cfg-options', *options] if options else []),
            ]
        )
        return code, capsys.readouterr().out


@pytest.fixture
def project(tmp_path):
    register_toy_model()
    return Project(tmp_path)


def test_a_sound_set(project, capsys):
    code, out = project.run(capsys)
    assert code == 0 and '0 errors, 0 warnings' in out
    assert '4 images, of which 4 are used; 2 patients; pixels of 1.2 to 1.2 mm' in out
    assert 'LV 4, Myo 4, RV 4' in out
    assert sorted(path.name for path in project.out.iterdir()) == [
        'contact_sheet_train.png',
        'contact_sheet_val.png',
        'histograms.png',
    ]


def test_contact_sheet_shows_masks_in_the_colours_of_their_classes(project, capsys):
    from matplotlib.colors import to_rgb

    project.run(capsys)
    sheet = cv2.imread(str(project.out / 'contact_sheet_train.png'))[..., ::-1] / 255
    for colour in OKABE_ITO[:3]:
        close = np.abs(sheet - to_rgb(colour)).max(-1) < 0.1
        assert close.sum() > 200
    other = np.abs(sheet - to_rgb(OKABE_ITO[4])).max(-1) < 0.1
    assert not other.any()


def edit(split, change):
    return lambda project: change(project.contents[split])


def share_patient(content):
    content['images'][0]['patient_id'] = 'train0'


def swap_categories(content):
    content['categories'][0]['name'], content['categories'][1]['name'] = 'Myo', 'LV'


def fill_ring(content):
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] != 2]
    for i, (category, radius) in enumerate(((10, 7), (20, 12))):
        content['annotations'].append(
            dict(
                id=100 + i,
                image_id=2,
                category_id=category,
                bbox=[36 - radius, 24 - radius, 2 * radius + 1, 2 * radius + 1],
                segmentation=encode(disk(48, 64, 24, 36, radius)),
            )
        )


def truncate_image(project):
    path = project.toy.root / 'images/slice_3.png'
    path.write_bytes(path.read_bytes()[:300])


def empty_image(project):
    cv2.imwrite(str(project.toy.root / 'images/slice_3.png'), np.zeros((48, 64), np.uint8))


PROBLEMS = {
    'patient': (
        edit('val', share_patient),
        1,
        r'ERROR  val: \[shared_patients\] 1 patients are in '
        'train(?s:.*)patient train0: 1 images here, 2 there',
    ),
    'classes': (edit('val', swap_categories), 1, r'ERROR  val: \[permuted_classes\]'),
    'ring': (edit('train', fill_ring), 0, r'WARNING  train: \[filled_ring\] 1 myocardium'),
    'truncated image': (
        truncate_image,
        1,
        r'ERROR  train: 1 images cannot be loaded(?s:.*)'
        r'image 3 \(.*slice_3.png\)',
    ),
    'empty image': (empty_image, 0, r'WARNING  train: 1 images show nothing(?s:.*)image 3 .*are 0'),
    'missing image': (
        lambda project: (project.toy.root / 'images/slice_3.png').unlink(),
        1,
        'ERROR  train: (?s:.*)slice_3.png does not exist',
    ),
    'image id': (
        edit('val', lambda content: content['images'][1].update(id=1)),
        1,
        'ERROR  val: (?s:.*)image id 1 occurs 2 times',
    ),
    'box that is no number': (
        edit('train', lambda content: content['annotations'][4].update(bbox=[math.nan, 1, 2, 3])),
        1,
        r'ERROR  train: (?s:.*)annotation 5 \(image 2, slice_2.png\): bbox\[0\] .*nan',
    ),
    'all images missing': (
        lambda project: (project.toy.root / 'images').rename(project.toy.root / 'pictures'),
        1,
        'ERROR  train: .*none of its 4 images exists(?s:.*)toy/images/slice_1.png',
    ),
    'spacing': (
        edit('train', lambda content: content['images'][1].pop('spacing_mm')),
        0,
        r'WARNING  train: \[missing_spacing\] 1 of 4',
    ),
}


@pytest.mark.parametrize('case', PROBLEMS)
def test_problem_of_a_data_set(project, capsys, case):
    damage, expected, message = PROBLEMS[case]
    damage(project)
    code, out = project.run(capsys)
    import re

    assert code == expected and re.search(message, out), out


OPTIONS = {
    'num_classes': (
        'num_classes=2',
        r'ERROR  model.bbox_head: num_classes=2, but there are 3 '
        r"classes: \['LV', 'Myo', 'RV'\]. Set num_classes=3",
    ),
    'frozen range': (
        'model.backbone.frozen_stages=5',
        r'ERROR  model.backbone: frozen_stages=5 '
        r'must lie between -1 \(none\) and 4',
    ),
    'all frozen': ('model.backbone.frozen_stages=4', 'ERROR  model: all parameters are frozen'),
    'model': (
        'model.backbone.type=NoSuchBackbone',
        r'ERROR  model.backbone.type: .*NoSuchBackbone',
    ),
    'data_root': (
        'data_root=/no/such/place',
        'ERROR  train: .*/no/such/place/train.json does not '
        r'exist. Check data_root(?s:.*)ERROR  val',
    ),
    'transform': (
        'val_dataloader.dataset.pipeline.1.type=NoSuchTransform',
        r'ERROR  val_dataloader.dataset.pipeline.1.type: .*NoSuchTransform',
    ),
    'checks': ('val_dataloader.dataset.checks.filled=warn', "ERROR  val: checks has 'filled'"),
    'weights': ('load_from=weights/none.pth', r'ERROR  load_from: weights/none.pth does not exist'),
    'backbone weights': (
        'model.backbone.init_cfg.checkpoint=none.pth',
        'ERROR  model.backbone.init_cfg.checkpoint: none.pth does not exist',
    ),
    'no server': (
        'load_from=http://127.0.0.1:9/a.pth',
        r'ERROR  load_from: http://127.0.0.1:9/a.pth cannot be reached: .* refused',
    ),
}


@pytest.mark.parametrize('case', OPTIONS)
def test_problem_of_a_config(project, capsys, case):
    import re

    option, message = OPTIONS[case]
    code, out = project.run(capsys, option)
    assert code == 1 and re.search(message, out), out


def test_config_that_cannot_be_read(project, capsys):
    project.config.write_text('model = dict(')
    code, out = project.run(capsys)
    assert code == 1 and 'toy_config.py: SyntaxError' in out


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response({'/there.pth': 200, '/no-head.pth': 405}.get(self.path, 404))
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}'
        running.shutdown()


@pytest.mark.parametrize(
    'name, problem',
    [('there.pth', None), ('no-head.pth', None), ('gone.pth', 'the server answered 404')],
)
def test_weights_at_an_address(server, name, problem):
    found = find_file_problem(f'{server}/{name}', timeout=5)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    'digest, problem', [('ba7816bf', None), ('00000000', 'is damaged where it was saved')]
)
def test_weights_that_were_downloaded_before(tmp_path, monkeypatch, digest, problem):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    path = tmp_path / 'hub/checkpoints' / f'model-{digest}.pth'
    path.parent.mkdir(parents=True)
    path.write_bytes(b'abc')  # whose SHA-256 begins with ba7816bf
    found = find_file_problem(f'https://nowhere.invalid/{path.name}', timeout=1)
    assert found is None if problem is None else problem in found


def test_empty_weights(tmp_path):
    path = tmp_path / 'empty.pth'
    path.touch()
    assert 'is empty' in find_file_problem(str(path), timeout=1)


def test_help_needs_neither_torch_nor_mmdet():
    root = Path(__file__).parents[2]
    program = f"""
import os, runpy, sys
sys.path.insert(0, {str(root)!r})
sys.argv = ['check_dataset.py', '--help']
try:
    runpy.run_path({str(root / 'tools/check_dataset.py')!r}, run_name='__main__')
except SystemExit as end:
    assert end.code == 0
assert 'torch' not in sys.modules and 'mmdet' not in sys.modules
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0 and '--cfg-options' in done.stdout, done.stderr


def test_pictures_of_many_classes(project, capsys):
    """Bars have a line of text each, whatever their number; sizes have a few lines and the rest."""
    names = ('LV', 'Myo', *(f'structure {i}' for i in range(67)))
    toy = ToyCMR(project.toy.root / 'many', classes=names)
    project.toy, project.contents = toy, {}
    text = CONFIG.format(root=str(toy.root)).replace(
        'num_classes = 3', f'num_classes = {len(names)}'
    )
    project.config.write_text(text)
    code, out = project.run(capsys)
    assert code == 0, out
    height = cv2.imread(str(project.out / 'histograms.png')).shape[0]
    assert height > 60 * 12  # pixels, for text of 8 pt at 100 dpi
