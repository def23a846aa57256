import base64
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from beating_heart import beating_heart, relabelled
from matplotlib.colors import to_rgb
from PIL import Image

from swin_ext.inference.clinical_figures import clinical_figures
from swin_ext.inference.report import write_report
from swin_ext.inference.report.page import slices_from_base
from swin_ext.inference.report.pictures import crop_of, outlines, sheet_of
from swin_ext.inference.segmented_study import BodySize
from swin_ext.visualization.colours import colours_of

EVIL = '</script><script>alert("x")</script><img src=x onerror=alert(1)>&\'"{{ 7*7 }}'
LOADING = {'src', 'href', 'xlink:href', 'srcset', 'action', 'data', 'poster', 'background'}


class Page(HTMLParser):
    """Elements and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def write(study, folder, **options):
    write_report(study, folder, **options)
    return (folder / 'report.html').read_text(encoding='utf-8')


def cine_of(text):
    return json.loads(re.search(r'const cine = (\{.*\});\n', text).group(1))


def decoded(uri):
    head, data = uri.split(',', 1)
    assert head == 'data:image/webp;base64'
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('L'))


@pytest.fixture(scope='module')
def text(tmp_path_factory):
    study = beating_heart(body=BodySize(1.8, 80.0), left_out=('Series 3 is a localizer.',))
    return write(study, tmp_path_factory.mktemp('page'))


def test_the_figures_are_those_of_the_study(text):
    figures = clinical_figures(beating_heart()).figures
    visible = ' '.join(Page(text).texts)
    for name in ('LV_EDV', 'LV_ESV', 'LV_SV', 'LV_EF', 'LV_mass', 'RV_EDV', 'RV_ESV', 'RV_EF'):
        assert f'{figures[name]:.1f}' in visible
    assert f'{figures["LV_EDV"] / 2:.1f}' in visible  # of 2 m2
    for part in (
        'Not a medical device',
        'Summation of discs',
        'Base slice',
        'Papillary muscles',
        '1.05 g/ml',
        'Mosteller',
        'Schulz-Menger',
        'toy.pth',
        'ab' * 32,
        'Series 3 is a localizer.',
        'segm_mAP 0.61',
    ):
        assert part in visible


def test_each_slice_of_ed_and_es_has_a_picture_with_all_outlines(text):
    page = Page(text)
    ids = [attrs['id'] for attrs in page.all('figure')]
    assert ids == [f'{name}-{item}' for name in ('ED', 'ES') for item in range(5)]
    named = [attrs for attrs in page.all('svg') if attrs.get('role') == 'img']
    assert len(named) == 10 and all('outlines of LV, Myo, RV' in a['aria-label'] for a in named)
    colours = colours_of(('LV', 'Myo', 'RV'))
    strokes = [attrs['stroke'] for attrs in page.all('path') if 'stroke' in attrs]
    assert strokes == [colours[name] for name in ('RV', 'Myo', 'LV')] * 10


def test_the_curve_has_a_line_for_each_structure_and_follows_the_cine(text):
    curve = re.search(r'<div class="curve".*?</svg>', text, re.DOTALL).group(0)
    for colour in colours_of(('LV', 'Myo', 'RV')).values():
        assert f'stroke: {colour.lower()}' in curve
    assert '>ED ' in curve and '>ES ' in curve and 'time after the R wave' in curve
    cursor = cine_of(text)['cursor']
    assert len(cursor) == 10 and np.allclose(np.diff(cursor), np.diff(cursor)[0], atol=0.02)


def test_the_page_asks_for_nothing(text):
    page = Page(text)
    policy = next(a for a in page.all('meta') if 'http-equiv' in a)['content']
    assert policy.startswith("default-src 'none'; img-src data:;")
    for _, attrs in page.elements:
        for key in LOADING & set(attrs):
            assert attrs[key].startswith(('#', 'data:image/webp;base64,')), attrs[key][:80]
    assert not page.all('link') and not page.all('iframe')
    addresses = set(re.findall(r'\w+://[^\s"\']+', text))
    assert addresses <= {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}
    assert not re.search(r'@import|fetch\(|XMLHttpRequest|import\(|WebSocket', text)
    assert set(re.findall(r'url\((.)', text)) <= {'#'}


def test_every_text_of_a_study_is_escaped(tmp_path):
    study = beating_heart(
        4,
        3,
        name=EVIL,
        assumptions=(EVIL,),
        left_out=(EVIL,),
        classes=('LV', EVIL, 'RV'),
        model=dataclasses.replace(beating_heart().model, name=EVIL, version=EVIL, sha256=EVIL),
    )
    text = write(study, tmp_path, pdf=True)
    page, clean = Page(text), Page(write(beating_heart(4, 3), tmp_path / 'clean'))
    assert len(page.all('script')) == len(clean.all('script')) == 1
    assert not page.all('img') and '49' not in text.split('<script>')[0].split('Left out')[1]
    assert ' '.join(page.texts).count(EVIL) >= 6
    assert not any(key.startswith('on') for _, attrs in page.elements for key in attrs)


@pytest.mark.parametrize('name', ['LV', 'Myo', 'RV'])
def test_outlines_enclose_what_was_segmented(text, name):
    """By the shoelace formula; outlines cut each corner of a pixel off, an eighth of it."""
    study = beating_heart()
    label = study.classes.index(name)
    cine = cine_of(text)
    scale = study.pixel_spacing_mm[0] / study.pixel_spacing_mm[1]
    for place, item in enumerate(cine['slices']):
        for phase, drawn in enumerate(cine['outlines'][place]):
            (path,) = (d for index, d in drawn if index == label)
            area = 0.0
            for part in path.strip('MZ').split('ZM'):
                x, y = np.array(part.split(), float).reshape(-1, 2).T
                area += (np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
            pixels = (study.labels[phase, item] == label + 1).sum()
            assert abs(area) / scale == pytest.approx(pixels, rel=0.04)


def test_the_cine_has_all_frames_in_their_places(text):
    study, cine = beating_heart(), cine_of(text)
    crop = crop_of(study)
    width, height = cine['frame']
    for place, item in enumerate(cine['slices']):
        sheet = decoded(cine['sheets'][place]).astype(int)
        for phase in range(10):
            row, column = divmod(phase, cine['columns'])
            frame = sheet[row * height : (row + 1) * height, column * width : (column + 1) * width]
            labels = crop.of(study.labels[phase, item])
            assert frame[labels == 1].mean() > 240 > 60 > frame[labels == 2].mean()
    assert cine['step_ms'] == 40 and cine['times'] == [40 * phase for phase in range(10)]


def test_findings_lead_to_their_pictures(tmp_path):
    study = beating_heart()
    for phase in (0, 1, 2):
        study.labels[phase, 2][study.labels[phase, 2] == 3] = 0
    page = Page(write(relabelled(study, study.labels), tmp_path))
    links = [a for a in page.all('a') if a['href'].startswith('#') and a['href'] != '#findings']
    assert dict(links[0]) == {'href': '#h-cine', 'data-slice': '2', 'data-phase': '0'}
    targets = {attrs.get('id') for _, attrs in page.elements}
    assert all(link['href'][1:] in targets for link in page.all('a'))
    texts = ' '.join(' '.join(page.texts).split())
    assert 'slice 2, phases 0-2' in texts and '(and 2 more phases)' in texts


def empty(study):
    return relabelled(study, np.zeros_like(study.labels))


@pytest.mark.parametrize(
    'study',
    [
        beating_heart(1),
        beating_heart(1, 1),
        beating_heart(3, 2, times_ms=None),
        empty(beating_heart(2)),
        beating_heart(2, 2, classes=('a', 'b', 'c')),
        beating_heart(2, 2, present=np.array([[True, True], [False, True]])),
    ],
    ids=['one phase', 'one frame', 'no times', 'nothing found', 'other classes', 'absent frame'],
)
def test_studies_that_lack_something(study, tmp_path):
    text = write(study, tmp_path, pdf=True)
    cine = cine_of(text)
    assert len(cine['sheets']) == study.labels.shape[1]
    assert not re.search(r'NaN|\bnan\b|\bNone\b(?! of the checks|, for lack|: no cavity)', text)
    assert (tmp_path / 'report.pdf').read_bytes().startswith(b'%PDF')


@pytest.mark.parametrize('reverse', [False, True])
def test_the_order_is_from_base_to_apex(reverse):
    study = beating_heart(2, 4)
    labels = study.labels.copy()
    labels[:, 3] = np.where(labels[:, 3] == 2, 2, 0)
    labels[:, 2, 34:] = 0
    if reverse:
        labels = labels[:, ::-1]
    study = relabelled(study, labels)
    order = slices_from_base(study, clinical_figures(study))
    assert order == ([3, 2, 1, 0] if reverse else [0, 1, 2, 3])


def test_outlines_of_a_ring_and_at_the_border():
    labels = np.zeros((6, 8), np.uint8)
    labels[1:6, 2:8] = 1  # touches two borders
    labels[3:4, 4:6] = 0
    outer, inner = sorted(outlines(labels, 1), key=lambda line: -np.ptp(line[:, 0]))
    assert (outer.min(0).tolist(), outer.max(0).tolist()) == ([2, 1], [8, 6])
    assert (inner.min(0).tolist(), inner.max(0).tolist()) == ([4, 3], [6, 4])
    assert outlines(labels, 2) == []


def test_sheet():
    frames = np.arange(1, 6, dtype=np.uint8)[:, None, None] * np.ones((5, 2, 3), np.uint8)
    sheet = sheet_of(frames, 3)
    assert sheet[::2, ::3].tolist() == [[1, 2, 3], [4, 5, 0]] and sheet.shape == (4, 9)


def test_a_pdf_without_a_date(tmp_path):
    write_report(beating_heart(4, 3), tmp_path, pdf=True)
    content = (tmp_path / 'report.pdf').read_bytes()
    assert content.count(b'/Type /Page\n') + content.count(b'/Type /Page ') == 4
    assert b'Date' not in content


def test_a_folder_that_cannot_be_written_is_left_as_it_was(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError):
        write_report(beating_heart(1, 1), tmp_path / 'file')
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_whole_real_study_is_small(real_data, tmp_path):
    from real_study import sunnybrook_study

    text = write(sunnybrook_study(real_data, with_images=True), tmp_path)
    assert len(text) < 4e6
    assert 'ED: phase 19 (886 ms), ES: phase 6' in ' '.join(text.split())
    assert cine_of(text)['slices'][0] == 9  # the base


def screenshot(folder, milliseconds, height):
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    if chromium is None:
        pytest.skip('there is no chromium to look at the page with')
    target = folder / f'{milliseconds}.png'
    for attempt in range(3):  # at times, a headless Chromium never begins
        call = [
            chromium,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--hide-scrollbars',
            '--host-resolver-rules=MAP * ~NOTFOUND',
            f'--user-data-dir={folder / f"profile_{milliseconds}_{attempt}"}',
            f'--window-size=1240,{height}',
            f'--virtual-time-budget={milliseconds}',
            f'--screenshot={target}',
            (folder / 'report.html').as_uri(),
        ]
        # No pipe, which a process that outlives the browser would keep open.
        browser = subprocess.Popen(
            call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            assert browser.wait(60) == 0
            break
        except subprocess.TimeoutExpired:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
    return np.asarray(Image.open(target).convert('RGB')).astype(int)


def test_as_a_browser_shows_it(tmp_path):
    """The curve, the playing cine and the pictures have the colours of all structures."""
    write_report(beating_heart(10, 5), tmp_path)
    late, early = (screenshot(tmp_path, milliseconds, 1900) for milliseconds in (2000, 1800))
    # From top to bottom: the curve, the large picture of the cine, the pictures of ED and ES.
    curve, cine, pictures = slice(280, 560), slice(680, 1290), slice(1540, 1800)
    for colour in colours_of(('LV', 'Myo', 'RV')).values():
        near = np.abs(late - 255 * np.array(to_rgb(colour))).max(-1) < 40
        assert near[curve].sum() > 150
        assert near[cine].sum() > 150
        assert near[pictures].sum() > 300
    blood = (late.min(-1) > 250)[cine, 60:460]
    assert blood.sum() > 5000  # the frame itself lies below the outlines
    assert (late != early)[cine].any() and not (late != early)[pictures].any()
