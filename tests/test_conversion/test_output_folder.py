"""Output folders: other arguments, withdrawn patients, several processes, odd names."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from cmr_files import contents, heart, read_coco, write_nifti_patient, write_png_patient

from swin_ext.conversion import coco_writer, nifti, patients, png
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.output_folder import OutputFolderError, locked
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.study import LabelledSlice, LabelMap, Study
from swin_ext.conversion.workers import WorkersError
from swin_ext.utils.errors import UserError

LABELS = LabelMap.parse('1=LV,2=Myo,4=RV')


def find_png(source: Path, spacing_mm=(1.25, 1.25)) -> list[Study]:
    return png.find_studies(
        source, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png', spacing_mm
    )


def run(studies, out: Path, patient_ids='folder', split=None, **arguments) -> dict:
    settings = Settings(LABELS, patient_ids=patient_ids, pixels=arguments.pop('pixels', 'png8'))
    return convert(studies, out, settings, split or Split(val_fraction=0), **arguments)


@pytest.fixture
def source(tmp_path) -> Path:
    for seed, patient in enumerate('ABC'):
        write_png_patient(tmp_path / 'in', patient, 10 * seed)
    return tmp_path / 'in'


# ---- arguments ----------------------------------------------------------------------------------


def test_other_spacing_is_written_by_the_next_run(source, tmp_path):
    run(find_png(source), tmp_path / 'out')
    report = run(find_png(source, (1.5, 1.5)), tmp_path / 'out')
    assert (report['converted'], report['resumed']) == (3, 0)
    run(find_png(source, (1.5, 1.5)), tmp_path / 'fresh')
    found, fresh = contents(tmp_path / 'out'), contents(tmp_path / 'fresh')
    assert found.keys() == fresh.keys() and found['train.json'] == fresh['train.json']


def find_volumes(source: Path, frames: dict, same_grid=False) -> list[Study]:
    return nifti.find_studies(
        source, 'generic', '{patient}/sa_ED.nii.gz', '{patient}/seg_sa_ED.nii.gz', frames,
        None, None, same_grid,
    )  # fmt: skip


def test_other_frames_are_written_by_the_next_run(tmp_path):
    import nibabel

    write_nifti_patient(tmp_path / 'in' / 'A')
    for name in ('sa_ED.nii.gz', 'seg_sa_ED.nii.gz'):
        path = tmp_path / 'in' / 'A' / name
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
        again = array if name.startswith('seg') else array[::-1]
        nibabel.save(
            nibabel.Nifti1Image(np.concatenate([array, again], -1), image.affine, image.header),
            path,
        )
    run(find_volumes(tmp_path / 'in', dict(ED=0)), tmp_path / 'out')
    before = contents(tmp_path / 'out')
    run(find_volumes(tmp_path / 'in', dict(ED=1)), tmp_path / 'out')
    run(find_volumes(tmp_path / 'in', dict(ED=1)), tmp_path / 'fresh')
    after, fresh = contents(tmp_path / 'out'), contents(tmp_path / 'fresh')
    pictures = [name for name in fresh if name.endswith('.png')]
    assert pictures and all(after[name] == fresh[name] for name in after if name in pictures)
    assert any(before[name] != after[name] for name in pictures)


@dataclass(frozen=True)
class AnyStudy(Study):
    """A study with arguments of every kind."""

    number: float = 1.0
    text: str = 'a'
    flag: bool = False
    table: tuple = (('ED', 0),)
    mapping: dict = field(default_factory=lambda: dict(a=1, b=2))
    other_file: Path | None = None


@pytest.mark.parametrize(
    'change',
    [
        dict(number=1.0000001),
        dict(text='b'),
        dict(flag=True),
        dict(table=(('ED', 1),)),
        dict(table=(('ED', 0), ('ES', 9))),
        dict(mapping=dict(b=2, a=1)),
        dict(other_file=Path('x')),
        dict(spacing_mm=(1.0, 2.0)),
    ],
    ids=str,
)
def test_every_argument_of_a_reader_is_part_of_the_fingerprint(tmp_path, monkeypatch, change):
    monkeypatch.setattr(AnyStudy, 'source_files', lambda self: [])
    study, settings = AnyStudy('A', tmp_path, None), Settings(LABELS)
    found = patients.fingerprint_of(study, settings)
    assert found == patients.fingerprint_of(replace(study), settings)
    assert found != patients.fingerprint_of(replace(study, **change), settings)


@pytest.mark.parametrize(
    'change',
    [
        dict(labels=LabelMap.parse('2=Myo,1=LV,4=RV')),
        dict(labels=LabelMap.parse('1=LV,2=Myo,4=RV', '3')),
        dict(pixels='png16'),
        dict(window=(1.0, 99.0)),
        dict(instances='component'),
        dict(patient_ids='folder'),
        dict(keep_empty=True),
        dict(allow_burned_in=True),
    ],
    ids=str,
)
def test_every_setting_needs_another_conversion(source, tmp_path, change):
    study, settings = find_png(source)[0], Settings(LABELS)
    assert patients.fingerprint_of(study, settings) != patients.fingerprint_of(
        study, replace(settings, **change)
    )
    convert(find_png(source), tmp_path / 'out', settings, Split(val_fraction=0))
    before = contents(tmp_path / 'out')
    with pytest.raises(OutputFolderError, match=next(iter(change))):
        convert(
            find_png(source), tmp_path / 'out', replace(settings, **change), Split(val_fraction=0)
        )
    assert contents(tmp_path / 'out') == before


def test_another_version_of_the_package_converts_anew(source, tmp_path, monkeypatch):
    run(find_png(source), tmp_path / 'out')
    monkeypatch.setattr(patients, '__version__', '99.0')
    assert run(find_png(source), tmp_path / 'out')['converted'] == 3


# ---- patients that are no longer there ----------------------------------------------------------


@pytest.mark.parametrize('patient_ids', ['folder', 'pseudonym'])
def test_withdrawn_patient_leaves_nothing(source, tmp_path, patient_ids):
    run(find_png(source), tmp_path / 'out', patient_ids)
    for path in source.rglob('B_*'):
        path.unlink()
    report = run(find_png(source), tmp_path / 'out', patient_ids)
    assert report['withdrawn'] == 1
    run(find_png(source), tmp_path / 'fresh', patient_ids)
    found, fresh = contents(tmp_path / 'out'), contents(tmp_path / 'fresh')
    assert found.keys() == fresh.keys()
    assert all(found[name] == fresh[name] for name in found if name != 'report.json')


def test_patient_that_can_no_longer_be_converted_leaves_nothing(source, tmp_path):
    run(find_png(source), tmp_path / 'out')
    (source / 'masks' / 'B_00.png').write_bytes(b'broken')
    run(find_png(source), tmp_path / 'out', on_error='skip')
    assert not [name for name in contents(tmp_path / 'out') if 'B' in Path(name).name]


def test_study_interrupted_between_pixels_and_entries_leaves_nothing(source, tmp_path):
    """Killed just there; then the patient was withdrawn."""
    out = tmp_path / 'out'
    run(find_png(source), out)
    (out / 'studies' / 'B.jsonl').unlink()
    (out / '.partial' / 'B').mkdir(parents=True)
    for path in source.rglob('B_*'):
        path.unlink()
    run(find_png(source), out)
    assert not [name for name in contents(out) if 'B' in Path(name).name]


@pytest.mark.parametrize('error', [KeyboardInterrupt(), OSError(errno.ENOSPC, 'No space left')])
def test_run_stopped_between_pixels_and_entries_leaves_neither(
    source, tmp_path, monkeypatch, error
):
    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(coco_writer, 'os', SimpleNamespace(replace=stop))
        with pytest.raises(type(error)):
            run(find_png(source), tmp_path / 'out')
    assert not list((tmp_path / 'out').glob('images/*'))


def test_files_of_others_stay(source, tmp_path):
    out = tmp_path / 'out'
    run(find_png(source), out)
    own = ('images/B/notes.txt', 'images/Z/Z_0.png', 'studies/mine.jsonl', 'train_mine.json')
    for name in own:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text('{"patient_id": "other"}')
    for path in source.rglob('B_*'):
        path.unlink()
    run(find_png(source), out)
    run(find_png(source), out, overwrite=True, split=Split(folds=2))
    assert set(own) <= set(contents(out)) and 'images/B/B_00.png' not in contents(out)
    assert 'train.json' not in contents(out)


# ---- several processes --------------------------------------------------------------------------


def test_two_runs_into_one_folder_are_refused(source, tmp_path):
    out = tmp_path / 'out'
    run(find_png(source), out)
    before = contents(out)
    with locked(out):
        for overwrite in (False, True):
            with pytest.raises(OutputFolderError, match='another run is writing into'):
                run(find_png(source, (2.0, 2.0)), out, overwrite=overwrite)
    assert contents(out) == before
    run(find_png(source, (2.0, 2.0)), out)


def test_lock_ends_with_a_failed_run(source, tmp_path):
    (source / 'masks' / 'C_00.png').write_bytes(b'broken')
    for _ in range(2):
        with pytest.raises(ConversionError):
            run(find_png(source), tmp_path / 'out', workers=2)


@dataclass(frozen=True)
class MadeUpStudy(Study):
    """Two slices; `event` happens while the first is read."""

    event: str = ''

    def source_files(self) -> list[Path]:
        return [self.root / f'{self.patient}.bin']

    def read(self, labels, left_out):
        if self.event == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if self.event == 'interrupt':
            os.kill(os.getppid(), signal.SIGINT)
        if self.event == 'bug':
            raise ZeroDivisionError('in the reader')
        if self.event == 'memory':
            raise MemoryError
        if self.event == 'io':
            raise PermissionError(errno.EACCES, 'Permission denied', str(self.source_files()[0]))
        for z in range(2):
            image = np.zeros((8, 8), np.float32)
            yield LabelledSlice(
                f'z{z}', image, dict(LV=image == 0), self.source_files()[0], 'f' * 64, (1.0, 1.0),
                10.0, z, 'ED',
            )  # fmt: skip


@pytest.fixture
def made_up(tmp_path):
    (tmp_path / 'in').mkdir()
    for patient in 'ABCDEF':
        (tmp_path / 'in' / f'{patient}.bin').write_text(patient)

    def make(**events: str) -> list[Study]:
        return [MadeUpStudy(p, tmp_path / 'in', None, events.get(p, '')) for p in 'ABCDEF']

    return make


@pytest.fixture
def interruptible():
    """Programs that a shell has started in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
@pytest.mark.parametrize('event, error', [('kill', WorkersError), ('interrupt', KeyboardInterrupt)])
def test_run_that_loses_its_workers_can_be_resumed(made_up, tmp_path, event, error):
    with pytest.raises(error):
        run(made_up(D=event), tmp_path / 'out', workers=2, on_error='skip')
    assert not (tmp_path / 'out' / 'train.json').exists()
    run(made_up(), tmp_path / 'out', workers=2)
    run(made_up(), tmp_path / 'fresh')
    found, fresh = contents(tmp_path / 'out'), contents(tmp_path / 'fresh')
    assert found.keys() == fresh.keys()
    assert all(found[name] == fresh[name] for name in found if name != 'report.json')


@pytest.mark.parametrize('workers', [1, 2])
@pytest.mark.parametrize(
    'event, text', [('bug', 'ZeroDivisionError: in the reader'), ('io', 'Permission denied')]
)
def test_no_error_of_a_reader_ends_a_run(made_up, tmp_path, capsys, workers, event, text):
    report = run(made_up(C=event), tmp_path / 'out', workers=workers, on_error='skip')
    assert [entry['patient_id'] for entry in report['skipped']] == ['C']
    assert report['converted'] == 5 and text in capsys.readouterr().err
    with pytest.raises(ConversionError, match=text):
        run(made_up(C=event), tmp_path / 'out', workers=workers)


def test_lack_of_memory_is_no_fault_of_a_study(made_up, tmp_path):
    with pytest.raises(MemoryError):
        run(made_up(C='memory'), tmp_path / 'out', on_error='skip')


def test_folder_that_cannot_be_written(made_up, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, 'Read-only file system')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'mkdir', refuse)
        with pytest.raises(OSError, match='Read-only'):
            run(made_up(), tmp_path / 'out', on_error='skip')
    with monkeypatch.context() as patch:
        patch.setattr(Path, 'rename', refuse)  # of the pixels into place
        with pytest.raises(OSError, match='Read-only'):
            run(made_up(), tmp_path / 'out', on_error='skip')
    assert {name for name in contents(tmp_path / 'out') if '/' in name} == set()
    run(made_up(), tmp_path / 'out')


# ---- names --------------------------------------------------------------------------------------

NAMES = ['a b', "it's", 'say "hi"', 'Zoë', '心臓', 'x;rm -rf', '%s{}', 'a\\b', 'new\nline', 'tab\t']
NAMES += ['-x', 'p' * 220, 'e' + chr(0x301), 'bad' + chr(0xDCFF), '..', '.hidden', '\x1b[31m']


@pytest.mark.parametrize('patient', NAMES, ids=ascii)
@pytest.mark.parametrize('patient_ids', ['folder', 'pseudonym'])
def test_any_name_gives_data_or_an_error(tmp_path, patient, patient_ids):
    (tmp_path / 'in').mkdir()
    path = tmp_path / 'in' / 'one.bin'
    path.write_text('x')

    class Named(MadeUpStudy):
        def source_files(self):
            return [path]

    (tmp_path / 'out').mkdir()
    try:
        run([Named(patient, tmp_path / 'in', None)], tmp_path / 'out', patient_ids)
    except UserError:
        assert patient_ids == 'folder'
        assert {p.name for p in tmp_path.iterdir()} == {'in', 'out'}
        assert set(contents(tmp_path / 'out')) <= {'conversion.json'}
        return
    for image in read_coco(tmp_path / 'out' / 'train.json'):
        assert (tmp_path / 'out' / 'images' / image['file_name']).is_file()
        assert image['patient_id'] == patient or patient_ids == 'pseudonym'


@pytest.mark.parametrize(
    'names', [('Anna', 'anna'), ('Zoë', 'Zoe' + chr(0x308)), ('STRASSE', 'straße')]
)
def test_names_that_some_file_systems_take_for_one_are_refused(source, tmp_path, names):
    studies = [replace(study, patient=name) for study, name in zip(find_png(source), names)]
    with pytest.raises(ConversionError, match='by case or accents alone'):
        run(studies, tmp_path / 'out')
    assert run(studies, tmp_path / 'out', on_error='skip')['converted'] == 1
    assert run(studies, tmp_path / 'pseudonyms', 'pseudonym')['converted'] == 2


def test_no_studies_are_an_error(tmp_path):
    with pytest.raises(UserError, match='no study'):
        run([], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_state_that_is_no_json_object_needs_overwrite(source, tmp_path):
    for text in ('[]', 'null', '{', ''):
        (tmp_path / 'out').mkdir()
        (tmp_path / 'out' / 'conversion.json').write_text(text)
        with pytest.raises(OutputFolderError, match='other arguments'):
            run(find_png(source), tmp_path / 'out')
        run(find_png(source), tmp_path / 'out', overwrite=True)
        shutil.rmtree(tmp_path / 'out')


def test_preprocessing_is_noted_and_reproduces_the_pictures(tmp_path):
    from swin_ext.images.preprocessing import Preprocessing
    from swin_ext.images.reading import read_frame

    write_nifti_patient(tmp_path / 'in' / 'A')
    studies = nifti.find_studies(
        tmp_path / 'in', 'generic', '{patient}/sa_{phase}.nii.gz', '{patient}/seg_sa_{phase}.nii.gz'
    )
    run(studies, tmp_path / 'out')
    info = json.loads((tmp_path / 'out' / 'train.json').read_text())['info']
    preprocessing = Preprocessing.from_dict(info['preprocessing'])
    assert preprocessing == Preprocessing(window='study', percentiles=(0.5, 99.5))
    stack = np.stack(
        [read_frame(tmp_path / 'in/A/sa_ED.nii.gz', slice_index=z, frame_index=0) for z in range(4)]
    )
    for image in read_coco(tmp_path / 'out' / 'train.json'):
        written = cv2.imread(str(tmp_path / 'out' / 'images' / image['file_name']), -1)
        expected = preprocessing.grey_levels(stack[image['slice']], stack)
        np.testing.assert_array_equal(written, expected)


def test_16_bit_slices_of_small_values_are_windowed_like_their_neighbours(source, tmp_path):
    low = heart(5).astype(np.uint16) * 50  # at most 200
    for path in (source / 'images').iterdir():
        assert cv2.imwrite(str(path), low * (1 if path.stem.endswith('0') else 100))
    run(find_png(source), tmp_path / 'out')
    for path in (tmp_path / 'out' / 'images').rglob('*.png'):
        assert cv2.imread(str(path), -1).max() == 255


def test_8_bit_pictures_keep_their_values(source, tmp_path):
    run(find_png(source), tmp_path / 'out')
    for path in (source / 'images').iterdir():
        written = tmp_path / 'out' / 'images' / path.stem[0] / path.name
        np.testing.assert_array_equal(cv2.imread(str(written), -1), cv2.imread(str(path), -1))
