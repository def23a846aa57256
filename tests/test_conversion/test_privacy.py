"""Nothing that identifies a patient reaches any file of the output, or a name of one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from cmr_files import (
    IDENTIFYING,
    UID_ROOT,
    contents,
    write_contour_patient,
    write_nifti_patient,
    write_png_patient,
    write_segmentation_patient,
)

from swin_ext.conversion import dicom, nifti, png
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import LabelMap

HEADER_SECRETS = [*IDENTIFYING.values(), 'PLANTED', UID_ROOT]


def write_nifti_with_secrets(root: Path, patient: str, seed: int = 0) -> None:
    write_nifti_patient(root / patient, seed)
    for path in (root / patient).iterdir():
        image = nibabel.load(path)
        image = nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
        for field in ('descrip', 'db_name', 'aux_file', 'intent_name'):
            image.header[field] = b'PLANTED^NAME'
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension('comment', b'PLANTED^NAME'))
        path.unlink()
        nibabel.save(image, path)
        assert b'PLANTED' in nibabel.load(path).header.binaryblock


def find_nifti(root):
    return nifti.find_studies(
        root, 'generic', '{patient}/sa_{phase}.nii.gz', '{patient}/seg_sa_{phase}.nii.gz'
    )


CASES = dict(
    nifti=(write_nifti_with_secrets, find_nifti, '1=LV,2=Myo,4=RV'),
    contours=(
        write_contour_patient,
        lambda root: dicom.find_studies(root, 'dicom/{patient}', 'contours/{patient}', None),
        '1=LV,2=Myo',
    ),
    seg=(
        write_segmentation_patient,
        lambda root: dicom.find_studies(root, '{patient}', None, '{patient}'),
        '1=LV,2=Myo,3=RV',
    ),
    png=(
        write_png_patient,
        lambda root: png.find_studies(
            root, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png'
        ),
        '1=LV,2=Myo,4=RV',
    ),
)


def leaks(out: Path, secrets: list[str]) -> list[tuple[str, str]]:
    return [
        (name, secret)
        for name, content in contents(out).items()
        for secret in secrets
        if secret in name or secret.encode() in content
    ]


def write_patients(case: str, root: Path, patients: list[str]) -> None:
    if case == 'seg':
        pytest.importorskip('highdicom')
    for seed, patient in enumerate(patients):
        arguments = (root, patient) if case == 'seg' else (root, patient, 100 * seed)
        CASES[case][0](*arguments)


def test_the_search_finds_what_is_planted(tmp_path):
    write_patients('contours', tmp_path / 'DOE^JANE', ['A'])
    found = {secret for _, secret in leaks(tmp_path, [*HEADER_SECRETS, 'DOE^JANE'])}
    assert found == {*HEADER_SECRETS, 'DOE^JANE'}


@pytest.mark.parametrize('pixels', ['png8', 'png16', 'none'])
@pytest.mark.parametrize('case', CASES)
def test_headers_never_reach_the_output(case, pixels, tmp_path):
    write_patients(case, tmp_path / 'in', ['A', 'B'] if case != 'seg' else ['A'])
    _, find, labels = CASES[case]
    convert(
        find(tmp_path / 'in'),
        tmp_path / 'out',
        Settings(LabelMap.parse(labels), pixels=pixels, patient_ids='folder'),
        Split(val_fraction=0),
    )
    assert len(contents(tmp_path / 'out')) >= 4
    assert leaks(tmp_path / 'out', HEADER_SECRETS) == []


@pytest.mark.parametrize('case', CASES)
def test_names_of_folders_and_files_do_not_reach_the_output_by_default(case, tmp_path, capsys):
    """Not even where studies are skipped and reported, and of patients named in the split."""
    patients = ['DOE^JANE', 'ROE^MARY', 'POE^EDGAR']
    write_patients(case, tmp_path / 'in', patients)
    if case == 'seg':  # of which all are alike
        for index, patient in enumerate(patients):
            path = tmp_path / 'in' / patient / 'sa' / '0.dcm'
            dataset = pydicom.dcmread(path)
            dataset.SeriesNumber = index
            dataset.save_as(path)
    last = sorted(
        path for path in (tmp_path / 'in').rglob('*') if path.is_file() and 'ROE' in str(path)
    )[-1]
    last.write_bytes(last.read_bytes()[:100])
    _, find, labels = CASES[case]
    report = convert(
        find(tmp_path / 'in'),
        tmp_path / 'out',
        Settings(LabelMap.parse(labels)),
        Split(val_patients=('POE^EDGAR',)),
        on_error='skip',
    )
    assert len(report['skipped']) == 1 and report['images']['val'] > 0
    assert 'ROE^MARY' in capsys.readouterr().err  # the user is told
    assert (
        leaks(
            tmp_path / 'out', [*HEADER_SECRETS, 'DOE', 'JANE', 'ROE', 'POE', 'EDGAR', str(tmp_path)]
        )
        == []
    )
    (entry,) = report['skipped']
    assert set(entry) == {'patient_id', 'problem', 'file_sha256'}
