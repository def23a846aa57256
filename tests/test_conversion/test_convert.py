"""Runs: resuming, never overwriting, workers, memory, and what the data set makes of the output."""

from __future__ import annotations

import errno
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from cmr_files import HEIGHT, WIDTH, contents, read_coco, write_png_patient

from swin_ext.conversion import coco_writer, png
from swin_ext.conversion import workers as workers_module
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study

LABELS = LabelMap.parse('1=LV,2=Myo,4=RV')
PATIENTS = 'ABCD'


@pytest.fixture
def source(tmp_path) -> Path:
    for seed, patient in enumerate(PATIENTS):
        write_png_patient(tmp_path / 'in', patient, 10 * seed)
    return tmp_path / 'in'


def run(source, out, split=None, patient_ids='folder', pixels='png8', **arguments) -> dict:
    studies = png.find_studies(
        source, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png', (1.25, 1.25)
    )
    return convert(
        studies,
        out,
        Settings(LABELS, patient_ids=patient_ids, pixels=pixels),
        split or Split(val_fraction=0.25),
        **arguments,
    )


def test_output_of_a_run(source, tmp_path):
    report = run(source, tmp_path / 'out')
    assert report['images'] == dict(train=6, val=2) and report['converted'] == 4
    assert report['instances']['val'] == dict(LV=2, Myo=2, RV=2)
    assert json.loads((tmp_path / 'out' / 'report.json').read_text()) == report
    files = set(contents(tmp_path / 'out'))
    assert {name for name in files if '/' not in name} == {
        'train.json',
        'val.json',
        'report.json',
        'conversion.json',
    }
    assert {name for name in files if '/' in name} == {
        *(f'studies/{p}.jsonl' for p in PATIENTS),
        *(f'images/{p}/{p}_{z:02d}.png' for p in PATIENTS for z in range(2)),
    }


def test_ids_are_unique_and_refer_to_each_other(source, tmp_path):
    run(source, tmp_path / 'out')
    for name in ('train', 'val'):
        content = json.loads((tmp_path / 'out' / f'{name}.json').read_text())
        images = [image['id'] for image in content['images']]
        annotations = [annotation['id'] for annotation in content['annotations']]
        assert images == list(range(1, len(images) + 1))
        assert annotations == list(range(1, len(annotations) + 1))
        assert {annotation['image_id'] for annotation in content['annotations']} == set(images)


def test_cmr_dataset_accepts_the_output(source, tmp_path):
    from swin_ext.datasets import CMRDataset

    run(source, tmp_path / 'out')
    dataset = CMRDataset(
        ann_file='train.json',
        data_root=str(tmp_path / 'out'),
        data_prefix=dict(img='images/'),
        pipeline=[],
        invalid='error',
    )
    assert dataset.metainfo['classes'] == ('LV', 'Myo', 'RV') and len(dataset) == 6
    assert {len(info['instances']) for info in map(dataset.get_data_info, range(6))} == {3}


def test_folds_are_written_as_pairs_of_files(source, tmp_path):
    report = run(source, tmp_path / 'out', Split(folds=4))
    assert set(report['images']) == {f'{s}_fold{k}' for s in ('train', 'val') for k in range(4)}
    held_out = [
        {image['patient_id'] for image in read_coco(tmp_path / 'out' / f'val_fold{k}.json')}
        for k in range(4)
    ]
    assert sorted(next(iter(patients)) for patients in held_out) == list(PATIENTS)


def test_workers_change_nothing(source, tmp_path):
    run(source, tmp_path / 'one')
    run(source, tmp_path / 'two', workers=2)
    assert contents(tmp_path / 'one') == contents(tmp_path / 'two')


def spy_on_studies(
    monkeypatch, stop_at: str | None = None, error: BaseException | None = None
) -> list[str]:
    """Names of the patients whose study is written from now on."""
    written, write_study = [], workers_module.write_study

    def write(study, *args):
        if study.patient == stop_at:
            raise error
        write_study(study, *args)
        written.append(study.patient)

    monkeypatch.setattr(workers_module, 'write_study', write)
    return written


def test_interrupted_run_goes_on_and_ends_the_same(source, tmp_path, monkeypatch):
    run(source, tmp_path / 'whole')
    with monkeypatch.context() as patch:
        spy_on_studies(patch, 'C', KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(source, tmp_path / 'out')
    assert not (tmp_path / 'out' / 'train.json').exists()
    written = spy_on_studies(monkeypatch)
    report = run(source, tmp_path / 'out')
    assert written == ['C', 'D'] and (report['converted'], report['resumed']) == (2, 2)
    for name, content in contents(tmp_path / 'whole').items():
        if name != 'report.json':
            assert contents(tmp_path / 'out')[name] == content


def test_killed_run_goes_on(source, tmp_path, monkeypatch):
    """Killed while C was written, after its images were moved and before it was marked finished."""
    run(source, tmp_path / 'whole')
    out = tmp_path / 'out'
    run(source, out)
    (out / 'studies' / 'C.jsonl').unlink()
    (out / 'train.json').unlink()
    (out / 'images' / 'C' / 'stale.png').write_bytes(b'half')
    (out / '.partial' / 'C').mkdir(parents=True)
    (out / '.partial' / 'C' / 'slices.jsonl').write_text('{"image"')
    written = spy_on_studies(monkeypatch)
    run(source, out)
    assert written == ['C']
    after, whole = contents(out), contents(tmp_path / 'whole')
    assert after.keys() == whole.keys()
    assert all(after[name] == whole[name] for name in whole if name != 'report.json')


def test_finished_run_does_nothing_and_a_changed_study_is_redone(source, tmp_path, monkeypatch):
    run(source, tmp_path / 'out')
    written = spy_on_studies(monkeypatch)
    run(source, tmp_path / 'out')
    assert written == []
    write_png_patient(source, 'B', seed=99)
    run(source, tmp_path / 'out')
    assert written == ['B']


@pytest.mark.parametrize('failing_write', [1, 4, 8])
def test_full_disk_leaves_nothing_half_written(source, tmp_path, monkeypatch, failing_write):
    run(source, tmp_path / 'whole')
    write_bytes, count = Path.write_bytes, 0

    def fill_up(path, data):
        nonlocal count
        count += 1
        if count == failing_write:
            write_bytes(path, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'write_bytes', fill_up)
        # A full disk is no fault of a study, so it is never skipped.
        with pytest.raises(OSError, match='No space left'):
            run(source, tmp_path / 'out', on_error='skip')
    finished = {
        name: content
        for name, content in contents(tmp_path / 'out').items()
        if name != 'conversion.json'
    }
    whole = contents(tmp_path / 'whole')
    assert len(finished) == 3 * ((failing_write - 1) // 2)  # two images and a JSONL per study
    assert all(whole[name] == content for name, content in finished.items())
    run(source, tmp_path / 'out')
    after = contents(tmp_path / 'out')
    assert all(after[name] == whole[name] for name in whole if name != 'report.json')


def test_full_disk_during_the_merge_keeps_the_old_file(source, tmp_path, monkeypatch):
    from swin_ext.conversion import coco_merge

    run(source, tmp_path / 'out')
    before = contents(tmp_path / 'out')
    write_png_patient(source, 'B', seed=99)

    def fill_up(file, entries):
        file.write('[')
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(coco_merge, 'write_list', fill_up)
        with pytest.raises(OSError, match='No space left'):
            run(source, tmp_path / 'out')
    after = contents(tmp_path / 'out')
    assert after.keys() == before.keys() and after['train.json'] == before['train.json']


@pytest.mark.parametrize(
    'prepare, message',
    [
        (lambda out: (out / 'precious.txt').write_text('x'), 'is no conversion'),
        (lambda out: (out / 'train.json').write_text('{}'), 'is no conversion'),
    ],
)
def test_foreign_folders_are_never_touched(source, tmp_path, prepare, message):
    (tmp_path / 'out').mkdir()
    prepare(tmp_path / 'out')
    before = contents(tmp_path / 'out')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=message):
            run(source, tmp_path / 'out', overwrite=overwrite)
    assert contents(tmp_path / 'out') == before


def test_other_arguments_need_overwrite(source, tmp_path):
    run(source, tmp_path / 'out')
    before = contents(tmp_path / 'out')
    for arguments, changed in (
        (dict(pixels='png16'), 'pixels'),
        (dict(split=Split(folds=2)), 'split'),
    ):
        with pytest.raises(FileExistsError, match=changed):
            run(source, tmp_path / 'out', **arguments)
    assert contents(tmp_path / 'out') == before
    (tmp_path / 'out' / 'notes.txt').write_text('of the user')
    run(source, tmp_path / 'out', Split(folds=2), overwrite=True)
    after = contents(tmp_path / 'out')
    assert 'train.json' not in after and 'train_fold1.json' in after and 'notes.txt' in after


def test_skipped_studies_stay_in_the_split_they_belong_to(source, tmp_path):
    """A study that fails must not move the others between training and validation."""
    run(source, tmp_path / 'whole')
    (source / 'masks' / 'C_00.png').write_bytes(b'broken')
    run(source, tmp_path / 'out', on_error='skip')
    for name in ('train', 'val'):
        whole, rest = (
            {image['patient_id'] for image in read_coco(tmp_path / out / f'{name}.json')}
            for out in ('whole', 'out')
        )
        assert rest == whole - {'C'}


def test_no_usable_study_is_an_error_even_when_skipping(source, tmp_path):
    for path in (source / 'masks').iterdir():
        path.write_bytes(b'broken')
    with pytest.raises(ConversionError, match='none of 4 studies'):
        run(source, tmp_path / 'out', on_error='skip')
    assert not (tmp_path / 'out' / 'train.json').exists()


def test_copies_of_a_patient_are_found_by_their_pseudonym(source, tmp_path):
    for kind in ('images', 'masks'):
        for z in range(2):
            (source / kind / f'X_{z:02d}.png').write_bytes(
                (source / kind / f'B_{z:02d}.png').read_bytes()
            )
    with pytest.raises(ConversionError, match='X and B'):
        run(source, tmp_path / 'out', patient_ids='pseudonym')


def test_pseudonyms_do_not_depend_on_names(source, tmp_path):
    run(source, tmp_path / 'before', patient_ids='pseudonym')
    for path in sorted(source.rglob('*.png')):
        path.rename(path.with_name('renamed-' + path.name))
    run(source, tmp_path / 'after', patient_ids='pseudonym')
    before, after = (contents(tmp_path / name) for name in ('before', 'after'))
    names = {name for name in before if name.endswith('.png')}
    assert len(names) == 8 and names == {name for name in after if name.endswith('.png')}
    assert all(Path(name).parent.name.startswith('p') for name in names)


class NoiseStudy(Study):
    """A study made up when it is read, of 8 slices of 256 x 256 pixels."""

    def source_files(self) -> list[Path]:
        return [self.root / self.patient]

    def read(self, labels, left_out):
        rng = np.random.default_rng(int(self.patient))
        for z in range(8):
            image = rng.random((256, 256), dtype=np.float32)
            yield LabelledSlice(
                f'z{z}',
                image,
                dict(LV=image > 0.5),
                self.root / self.patient,
                'f' * 64,
                (1.25, 1.25),
            )


def test_memory_does_not_grow_with_the_number_of_studies(tmp_path):
    """40 studies make a JSON of 10 MB, so that holding any of them would show."""

    def peak(count: int, out: Path) -> int:
        studies = [NoiseStudy(f'{index:03d}', tmp_path, None) for index in range(count)]
        tracemalloc.start()
        try:
            convert(
                studies,
                out,
                Settings(LabelMap.parse('1=LV'), pixels='none', patient_ids='folder'),
                Split(val_fraction=0),
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(2, tmp_path / 'first')  # what is loaded on first use
    few, many = peak(2, tmp_path / 'few'), peak(40, tmp_path / 'many')
    assert (tmp_path / 'many' / 'train.json').stat().st_size > 8 << 20
    assert many < few + (1 << 20)


def test_instances_of_a_class_share_one_annotation(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:3], mask[10:12] = True, True
    for instances, count in (('class', 1), ('component', 2)):
        found = coco_writer.encode_instances(
            dict(LV=mask), Settings(LabelMap.parse('1=LV'), instances=instances)
        )
        assert len(found) == count and sum(a['area'] for a in found) == mask.sum()
        assert all(isinstance(a['segmentation']['counts'], str) for a in found)


@pytest.mark.parametrize(
    'text, ignored, message',
    [
        ('1=LV,x=Myo', '', 'not VALUE=CLASS'),
        ('1=', '', 'not VALUE=CLASS'),
        ('LV', '', 'not VALUE'),
        ('0=LV', '', 'background'),
        ('1=LV,1=Myo', '', 'twice'),
        ('1=LV', 'x', 'whole numbers'),
        ('1=LV', '1', 'both a class and ignored'),
    ],
)
def test_bad_labels(text, ignored, message):
    with pytest.raises(ValueError, match=message):
        LabelMap.parse(text, ignored)
