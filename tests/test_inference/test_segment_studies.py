"""Whole runs: each study is whole or not there, and one that fails stops no other."""

from __future__ import annotations

import csv
import errno
import gzip
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from segmentable import IDENTIFYING, ThresholdModel, truths, write_cine, write_nifti
from swin_ext.evaluation.cmr_metric import CMRMetric
from swin_ext.inference import command, segment_studies
from swin_ext.inference.inputs import InputError
from swin_ext.inference.segment_studies import OutputError, Settings
from swin_ext.inference.segment_studies import segment_studies as run
from swin_ext.utils.optional import MissingPackageError

LIGHT = Settings(formats=('nifti', 'volumes'))
ROOT = Path(__file__).parents[2]


def folders(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def test_everything_of_a_study(tmp_path):
    out = tmp_path / 'out'
    outcome = run([write_cine(tmp_path / 'in')], ThresholdModel(), out)
    assert (outcome.segmented, outcome.resumed, outcome.failed) == (1, 0, [])
    (name,) = folders(out)
    assert re.fullmatch('p[0-9a-f]{10}', name)
    names = set(folders(out / name))
    assert names == {
        *('labels.nii.gz', 'dicom_seg', 'coco.json', 'coco_results.json', 'images'),
        *('volumes.csv', 'study.json', 'report.html'),
    }
    summary = json.loads((out / name / 'study.json').read_text())
    assert (summary['phases'], summary['slices'], summary['rows']) == (4, 3, 40)
    assert summary['labels'] == {'0': 'background', '1': 'LV', '2': 'Myo', '3': 'RV'}
    assert summary['model']['sha256'] == 'ab' * 32 and summary['missing_frames'] == []
    with open(out / name / 'volumes.csv') as file:
        rows = list(csv.DictReader(file))
    for label, key in (('ed_phase', 'LV_EDV'), ('es_phase', 'LV_ESV')):
        of_phase = [r for r in rows if r['class'] == 'LV' and int(r['phase']) == summary[label]]
        volume = sum(float(row['volume_ml']) for row in of_phase)
        assert summary['figures'][key] == pytest.approx(volume, abs=1e-4)
        assert summary['curves_ml']['LV'][summary[label]] == pytest.approx(volume, abs=1e-3)
    assert summary['units']['LV_EF'] == 'percent'


def test_nothing_names_the_patient_but_dicom_segmentations(tmp_path):
    """Names, ids and dates, of the header and of the paths, nowhere but there."""
    source = write_cine(tmp_path / 'PLANTED-PATH' / 'PLANTED-FOLDER')
    write_cine(source.parent / 'b', study=6, SeriesDescription='PLANTED')
    told = []
    run([source.parent], ThresholdModel(), tmp_path / 'out', show=told.append)
    planted = [value.encode() for value in IDENTIFYING.values()] + [b'PLANTED', b'1901', b'1902']
    checked = 0
    for path in (tmp_path / 'out').rglob('*'):
        assert 'PLANTED' not in str(path.relative_to(tmp_path))
        if path.is_file() and path.parent.name != 'dicom_seg':
            content = path.read_bytes()
            content += gzip.decompress(content) if path.suffix == '.gz' else b''
            for value in planted:
                assert value not in content or (value.isdigit() and path.suffix == '.png'), path
            checked += 1
    assert checked > 20
    segmentation = next((tmp_path / 'out').rglob('phase000.dcm'))
    assert str(pydicom.dcmread(segmentation).PatientName) == 'PLANTED^NAME'


def test_finished_studies_are_skipped_until_something_changes(tmp_path):
    write_cine(tmp_path / 'in' / 'a', study=1)
    write_cine(tmp_path / 'in' / 'b', study=2)
    out, model = tmp_path / 'out', ThresholdModel()

    def counts(settings=LIGHT, model=model):
        outcome = run([tmp_path / 'in'], model, out, settings)
        return outcome.segmented, outcome.resumed, len(outcome.failed)

    assert counts() == (2, 0, 0)
    times = {path: path.stat().st_mtime_ns for path in out.rglob('*') if path.is_file()}
    calls = len(model.calls)
    assert counts() == (0, 2, 0)
    assert times == {path: path.stat().st_mtime_ns for path in out.rglob('*') if path.is_file()}
    assert len(model.calls) == calls
    assert counts(model=ThresholdModel(sha256='cd' * 32)) == (2, 0, 0)
    assert counts(Settings(formats=('nifti',))) == (2, 0, 0)
    assert counts(Settings(formats=('nifti',), nms_threshold=0.3)) == (2, 0, 0)
    last = Settings(formats=('nifti',), nms_threshold=0.3)
    path = tmp_path / 'in' / 'a' / '2.dcm'
    os.utime(path, (1, 1))
    assert counts(last) == (1, 1, 0)
    assert folders(out / folders(out)[0]) == ['labels.nii.gz', 'study.json']


@pytest.mark.parametrize('workers', [1, 3])
def test_a_failing_study_stops_no_other(tmp_path, workers):
    write_cine(tmp_path / 'in' / 'a', study=1)
    write_cine(tmp_path / 'in' / 'b', study=2)
    path = tmp_path / 'in' / 'b' / '1.dcm'
    shutil.copy(path, path.with_name('copy.dcm'))
    write_cine(tmp_path / 'in' / 'c', study=3)
    told = []
    outcome = run(
        [tmp_path / 'in'],
        ThresholdModel(),
        tmp_path / 'out',
        LIGHT,
        workers=workers,
        show=told.append,
    )
    assert (outcome.segmented, len(outcome.failed)) == (2, 1)
    assert outcome.failed[0][0] == 'in/b' and 'SOP instance UID' in outcome.failed[0][1]
    assert len(folders(tmp_path / 'out')) == 2
    assert any(text.startswith('in/b: FAILED, nothing of it is written') for text in told)


def test_an_error_that_no_check_foresaw_is_one_studys(tmp_path):
    class Broken(ThresholdModel):
        def predict(self, images):
            if len(self.calls) == 0:
                self.calls.append(0)
                raise RuntimeError('out of something')
            return super().predict(images)

    for study in (1, 2):
        write_cine(tmp_path / 'in' / str(study), study=study, phases=1)
    outcome = run([tmp_path / 'in'], Broken(), tmp_path / 'out', LIGHT)
    assert outcome.segmented == 1
    assert outcome.failed == [('in/1', 'RuntimeError: out of something')]


def test_two_studies_of_one_name(tmp_path):
    nifti = write_nifti(tmp_path / 'n1' / 'x.nii.gz', truths(1))
    (tmp_path / 'n2').mkdir()
    shutil.copy(nifti, tmp_path / 'n2' / 'x.nii.gz')
    outcome = run([tmp_path / 'n1', tmp_path / 'n2'], ThresholdModel(), tmp_path / 'out', LIGHT)
    assert outcome.segmented == 1
    assert re.search('would be called p.*its first file is the same', outcome.failed[0][1])
    write_cine(tmp_path / 'tree' / 'A_b', study=1, phases=1)
    write_cine(tmp_path / 'tree' / 'a' / 'B', study=2, phases=1)
    settings = Settings(formats=('volumes',), names='path')
    outcome = run([tmp_path / 'tree'], ThresholdModel(), tmp_path / 'paths', settings)
    assert (outcome.segmented, len(outcome.failed)) == (1, 1)
    assert 'rename one of them' in outcome.failed[0][1]


def test_unicode_and_spaces_in_paths(tmp_path):
    source = write_cine(tmp_path / 'Studie äöü' / 'Serie 心臓 1')
    settings = Settings(names='path')
    outcome = run([source.parent], ThresholdModel(), tmp_path / 'out put é', settings)
    assert outcome.segmented == 1
    assert folders(tmp_path / 'out put é') == ['Studie äöü_Serie 心臓 1']


def test_results_below_the_input_are_no_input(tmp_path):
    source = write_cine(tmp_path / 'in')
    for _ in range(2):
        outcome = run([source], ThresholdModel(), source / 'out', Settings(formats=('coco',)))
        assert len(outcome.failed) == 0 and not outcome.skipped
    assert outcome.resumed == 1


def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path):
    source = write_cine(tmp_path / 'in', phases=1)
    out = tmp_path / 'out'
    run([source], ThresholdModel(), out, LIGHT)
    (name,) = folders(out)
    (out / name / 'study.json').unlink()
    (out / name / 'diary.txt').write_text('precious')
    outcome = run([source], ThresholdModel(), out, LIGHT)
    assert 'holds no results of this program' in outcome.failed[0][1]
    assert (out / name / 'diary.txt').read_text() == 'precious'


def test_what_a_killed_run_left_is_removed(tmp_path):
    source = write_cine(tmp_path / 'in', phases=1)
    out = tmp_path / 'out'
    run([source], ThresholdModel(), out, LIGHT)
    (name,) = folders(out)
    (out / '.p1.saving').mkdir()
    (out / name).rename(out / f'.{name}.old')  # killed between the two moves
    outcome = run([source], ThresholdModel(), out, LIGHT)
    assert outcome.resumed == 1 and folders(out) == [name]


class TestDisk:
    def test_a_file_beyond_the_limit(self, tmp_path):
        """As a full disk for one file: an error of the study, and nothing half-written."""
        source = write_cine(tmp_path / 'in')
        program = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from segmentable import ThresholdModel
from swin_ext.inference.segment_studies import Settings, segment_studies
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
out = Path({str(tmp_path / 'out')!r})
outcome = segment_studies([Path({str(source)!r})], ThresholdModel(), out, Settings(('coco',)))
print(outcome.failed)
"""
        environment = {**os.environ, 'SWIN_EXT_LIGHT': '1', 'PYTHONDONTWRITEBYTECODE': '1'}
        done = subprocess.run(
            [sys.executable, '-c', program], capture_output=True, text=True, env=environment
        )
        assert 'File too large' in done.stdout, done.stderr
        assert folders(tmp_path / 'out') == []

    def test_a_full_disk_ends_the_run(self, tmp_path, monkeypatch):
        for study in (1, 2, 3):
            write_cine(tmp_path / 'in' / str(study), study=study, phases=1)
        written = []
        original = segment_studies.write_formats

        def full(study, *arguments):
            written.append(study.name)
            original(study, *arguments)
            if len(written) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(segment_studies, 'write_formats', full)
        with pytest.raises(OutputError, match='No space left on device. 1 studies are finished'):
            run([tmp_path / 'in'], ThresholdModel(), tmp_path / 'out', LIGHT, workers=1)
        assert folders(tmp_path / 'out') == written[:1]

    def test_a_full_disk_keeps_the_earlier_results(self, tmp_path, monkeypatch):
        source = write_cine(tmp_path / 'in', phases=1)
        run([source], ThresholdModel(), tmp_path / 'out', LIGHT)
        (name,) = folders(tmp_path / 'out')
        before = (tmp_path / 'out' / name / 'study.json').read_bytes()

        def full(*arguments):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(segment_studies, 'write_summary', full)
        with pytest.raises(OutputError):
            run([source], ThresholdModel(sha256='cd'), tmp_path / 'out', LIGHT)
        assert (tmp_path / 'out' / name / 'study.json').read_bytes() == before
        assert folders(tmp_path / 'out') == [name]

    def test_a_folder_that_cannot_be_made(self, tmp_path):
        source = write_cine(tmp_path / 'in', phases=1)
        (tmp_path / 'file').write_text('in the way')
        with pytest.raises(OutputError, match='cannot be made.*Choose another --out'):
            run([source], ThresholdModel(), tmp_path / 'file' / 'out', LIGHT)

    def test_a_folder_that_cannot_be_written(self, tmp_path, monkeypatch):
        source = write_cine(tmp_path / 'in', phases=1)
        monkeypatch.setattr(os, 'access', lambda path, mode: False)  # root may write anywhere
        with pytest.raises(OutputError, match='cannot be written'):
            run([source], ThresholdModel(), tmp_path / 'out', LIGHT)


class TestNoStudy:
    def test_an_empty_folder(self, tmp_path):
        (tmp_path / 'in').mkdir()
        with pytest.raises(InputError, match='There is no study in .*it has no file.*Give files'):
            run([tmp_path / 'in'], ThresholdModel(), tmp_path / 'out')

    def test_other_files_alone(self, tmp_path):
        (tmp_path / 'in').mkdir()
        for number in range(50):
            (tmp_path / 'in' / f'{number}.txt').touch()
        with pytest.raises(InputError, match='50 neither DICOM, NIfTI'):
            run([tmp_path / 'in'], ThresholdModel(), tmp_path / 'out')


class TestFormats:
    def test_no_dicom_no_segmentation(self, tmp_path):
        path = write_nifti(tmp_path / 'in.nii.gz', truths())
        outcome = run([path], ThresholdModel(), tmp_path / 'out')
        assert outcome.segmented == 1 and not list((tmp_path / 'out').rglob('*.dcm'))
        asked = Settings(formats=('dicomseg',))
        outcome = run([path], ThresholdModel(), tmp_path / 'other', asked)
        assert 'is no DICOM' in outcome.failed[0][1] and not folders(tmp_path / 'other')

    def test_dicom_that_cannot_be_referred_to(self, tmp_path):
        source = write_cine(tmp_path / 'in', phases=1, FrameOfReferenceUID=None)
        told = []
        outcome = run([source], ThresholdModel(), tmp_path / 'out', show=told.append)
        assert outcome.segmented == 1 and not list((tmp_path / 'out').rglob('*.dcm'))
        assert any('no DICOM segmentation is written: it has no Frame' in text for text in told)
        outcome = run([source], ThresholdModel(), tmp_path / 'x', Settings(formats=('dicomseg',)))
        assert 'Leave dicomseg out' in outcome.failed[0][1]

    def test_a_missing_package(self, tmp_path, monkeypatch):
        def missing(module, user):
            raise MissingPackageError(f'{user} needs {module}: pip install {module}')

        monkeypatch.setattr(segment_studies, 'require', missing)
        source, told = write_cine(tmp_path / 'in', phases=1), []
        run([source], ThresholdModel(), tmp_path / 'out', show=told.append)
        assert 'No DICOM segmentations are written' in told[0]
        assert not list((tmp_path / 'out').rglob('*.dcm'))
        with pytest.raises(MissingPackageError):
            run([source], ThresholdModel(), tmp_path / 'x', Settings(formats=('dicomseg',)))

    def test_a_model_of_other_classes(self, tmp_path):
        source = write_cine(tmp_path / 'in', phases=1)
        outcome = run([source], ThresholdModel(('scar', 'LV')), tmp_path / 'out')
        assert outcome.segmented == 1
        summary = json.loads(next((tmp_path / 'out').rglob('study.json')).read_text())
        assert summary['labels'] == {'0': 'background', '1': 'scar', '2': 'LV'}
        segment = pydicom.dcmread(next((tmp_path / 'out').rglob('*.dcm'))).SegmentSequence[0]
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodingSchemeDesignator, kind.CodeMeaning) == ('99SWINEXT', 'scar')


class TestCommand:
    @pytest.fixture
    def loaded(self, monkeypatch):
        """The arguments that the model was loaded with."""
        arguments = []

        def load_model(*given):
            arguments.append(given)
            return ThresholdModel()

        module = types.ModuleType('swin_ext.inference.model')
        module.load_model = load_model
        monkeypatch.setitem(sys.modules, 'swin_ext.inference.model', module)
        return arguments

    def test_a_run(self, tmp_path, loaded, capsys):
        source = write_cine(tmp_path / 'in' / 'a', study=1, phases=1)
        (tmp_path / 'in' / 'x.txt').touch()
        arguments = [str(source.parent), '--out', str(tmp_path / 'out'), '--model', 'm.pth']
        options = '--score-thr 0.4 --nms-thr 0.4 --precision fp32 --device cpu --formats nifti'
        assert command.main(arguments + options.split()) == 0
        assert loaded == [('m.pth', 'cpu', 'fp32', 0.4, 0.4)]
        told = capsys.readouterr().out
        assert '1 studies segmented, 0 were finished before, 0 failed' in told
        assert 'left out: 1 files, neither DICOM' in told and 'in the box' not in told
        write_cine(tmp_path / 'in' / 'b', study=2, phases=1, BurnedInAnnotation='YES')
        assert command.main(arguments[:-2] + options.split()) == 1
        told = capsys.readouterr()
        assert 'the model in the box is used: fake.pth' in told.out
        assert '1 were finished before, 1 failed' in told.out
        assert 'failed: in/b' in told.err

    def test_what_dice_counts_is_segmented(self, tmp_path, loaded):
        (tmp_path / 'x.txt').touch()
        command.main([str(tmp_path), '--out', str(tmp_path / 'out')])
        of_metric = inspect.signature(CMRMetric).parameters['score_thr'].default
        assert loaded == [(None, 'auto', 'auto', of_metric, None)]

    def test_no_study_ends_with_1(self, tmp_path, loaded, capsys):
        assert command.main([str(tmp_path), '--out', str(tmp_path / 'out')]) == 1
        assert 'There is no study in' in capsys.readouterr().err

    @pytest.mark.parametrize(
        'wrong',
        ['--score-thr 2', '--batch-size 0', '--spacing-mm 1,x', '--formats html', '--workers -1'],
    )
    def test_wrong_arguments_end_with_2(self, tmp_path, wrong, capsys):
        with pytest.raises(SystemExit) as ended:
            command.main([str(tmp_path), '--out', 'out', *wrong.split()])
        assert ended.value.code == 2 and wrong.split()[0] in capsys.readouterr().err

    @pytest.mark.parametrize(
        'text, spacing',
        [('1.25', (1.25, 1.25)), ('1.2,1.3', (1.2, 1.3)), ('1.2,1.3,8', (1.2, 1.3, 8.0))],
    )
    def test_spacing(self, text, spacing):
        assert command.parse_spacing(text) == spacing

    def test_help_needs_no_torch(self):
        code = (
            "import runpy, sys\nsys.argv = ['segment.py', '--help']\ntry:\n"
            "    runpy.run_path('tools/segment.py', run_name='__main__')\n"
            "except SystemExit:\n    assert 'torch' not in sys.modules\n"
        )
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT
        )
        assert done.returncode == 0 and 'usage: segment' in done.stdout, done.stderr

    def test_it_is_a_module_too(self):
        done = subprocess.run(
            [sys.executable, '-m', 'swin_ext.inference', '--help'],
            capture_output=True,
            text=True,
            env={**os.environ, 'SWIN_EXT_LIGHT': '1'},
        )
        assert done.returncode == 0 and 'usage: segment' in done.stdout, done.stderr


def test_real_cine(real_data, tmp_path):
    """Ten slices in twenty phases, in 4-D, where ITK places the frames."""
    source = real_data / 'sunnybrook_study' / 'SCD0000301'
    outcome = run([source], ThresholdModel(), tmp_path / 'out', LIGHT)
    assert outcome.segmented == 1
    image = nibabel.load(next((tmp_path / 'out').rglob('labels.nii.gz')))
    assert image.shape == (256, 256, 10, 20)
    assert np.allclose(image.header.get_zooms()[:3], (1.2891, 1.2891, 8), atol=1e-3)
    labels = np.asarray(image.dataobj)
    for path in (source / '1.dcm', source / '137.dcm'):
        dataset = pydicom.dcmread(path)
        corner = np.array(dataset.ImagePositionPatient) * (-1, -1, 1)
        voxel = np.linalg.inv(image.affine) @ [*corner, 1]
        assert np.allclose(voxel[:2], 0, atol=0.01)
        index = int(round(voxel[2]))
        assert abs(voxel[2] - index) < 0.01
        pixels = dataset.pixel_array.astype(float)
        levels = np.rint(255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)
        expected = ThresholdModel().predict([levels])[0]
        phases = [
            t for t in range(20) if np.array_equal(labels[:, :, index, t].T == 3, expected.masks[2])
        ]
        trigger = [float(dataset.TriggerTime)]
        summary = json.loads(next((tmp_path / 'out').rglob('study.json')).read_text())
        nearest = int(np.argmin(np.abs(np.array(summary['times_ms']) - trigger)))
        assert nearest in phases
