import csv
import json
import math

from swin_ext.evaluation.results_table import (
    class_table,
    clinical_table,
    describe,
    to_markdown,
    write_results,
)

FIGURES = {
    'coco/segm_mAP': 0.5,
    'coco/segm_mAP_50': 0.75,
    'coco/segm_LV_precision': 0.625,
    'coco/segm_LV_precision_50': 1.0,
    'coco/segm_RV_precision': 0.375,
    'coco/segm_RV_precision_50': 0.5,
    'cmr/dice': 0.85,
    'cmr/LV_dice': 0.9,
    'cmr/RV_dice': 0.8,
    'cmr/hd95_mm': 4.0,
    'cmr/LV_hd95_mm': 4.0,
    'cmr/RV_hd95_mm': math.nan,
    'cmr/LV_missed': 0,
    'cmr/RV_missed': 3,
    'cmr/LV_EF_bias_percent': -2.5,
    'cmr/LV_EF_loa_lower_percent': -8.0,
    'cmr/LV_EF_loa_upper_percent': 3.0,
}


def test_class_table():
    assert class_table(FIGURES, ('LV', 'RV'))[:2] == [
        ['Class', 'Mask AP', 'Mask AP50', 'Dice', 'HD95 [mm]', 'Missed'],
        ['LV', 0.625, 1.0, 0.9, 4.0, 0],
    ]
    assert to_markdown(class_table(FIGURES, ('LV', 'RV'))).splitlines() == [
        '| Class | Mask AP | Mask AP50 |  Dice | HD95 [mm] | Missed |',
        '|-------|--------:|----------:|------:|----------:|-------:|',
        '| LV    |   0.625 |     1.000 | 0.900 |     4.000 |      0 |',
        '| RV    |   0.375 |     0.500 | 0.800 |         - |      3 |',
        '| Mean  |   0.500 |     0.750 | 0.850 |     4.000 |      - |',
    ]


def test_clinical_table():
    assert clinical_table(FIGURES)[1:] == [['LV EF', '%', -2.5, -8.0, 3.0]]
    assert '| LV EF | ' in describe(FIGURES, ('LV', 'RV'))
    without = {key: value for key, value in FIGURES.items() if 'EF' not in key}
    assert 'Bland' not in describe(without, ('LV', 'RV'))


def test_classes_without_objects_are_dashes():
    figures = {'coco/segm_mAP': -1.0, 'coco/segm_LV_precision': math.nan}
    assert to_markdown(class_table(figures, ('LV',))).splitlines()[2:] == [
        '| LV    |       - |',
        '| Mean  |       - |',
    ]


def test_written_results(tmp_path):
    paths = write_results(FIGURES, ('LV', 'RV'), tmp_path / 'new')
    assert [path.name for path in paths] == ['results.md', 'results.csv', 'results.json']
    assert paths[0].read_text() == describe(FIGURES, ('LV', 'RV'))
    with open(paths[1], newline='') as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {
        'Class': 'RV',
        'Mask AP': '0.375',
        'Mask AP50': '0.5',
        'Dice': '0.8',
        'HD95 [mm]': '',
        'Missed': '3',
    }
    content = json.loads(paths[2].read_text())
    assert content.pop('cmr/RV_hd95_mm') is None
    assert content == {key: value for key, value in FIGURES.items() if key != 'cmr/RV_hd95_mm'}


def test_results_say_what_they_are_of(tmp_path):
    about = {'checkpoint': 'best.pth', 'slices': 66, 'patients': 6}
    write_results(FIGURES, ('LV', 'RV'), tmp_path, about)
    assert json.loads((tmp_path / 'results_about.json').read_text()) == about
    assert 'slices' not in json.loads((tmp_path / 'results.json').read_text())
    text = (tmp_path / 'results.md').read_text()
    assert text.startswith('- checkpoint: best.pth\n- slices: 66\n- patients: 6\n\n| Class |')
