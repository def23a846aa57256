"""Images whose header says that text is burned into them."""

from __future__ import annotations

import pydicom
import pytest
from cmr_files import contents, write_contour_patient, write_png_patient

from swin_ext.conversion import dicom
from swin_ext.conversion.burned_in import check_burned_in
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.study import LabelMap


def set_burned_in(path, value: str | None) -> None:
    dataset = pydicom.dcmread(path)
    if value is not None:
        dataset.BurnedInAnnotation = value
    dataset.save_as(path)


def run(source, out, **arguments) -> dict:
    studies = dicom.find_studies(source, 'dicom/{patient}', 'contours/{patient}', None)
    settings = Settings(LabelMap.parse('1=LV'), allow_burned_in=arguments.pop('allowed', False))
    return convert(studies, out, settings, Split(val_fraction=0), **arguments)


@pytest.mark.parametrize(
    'value, refused', [('YES', True), ('yes ', True), ('NO', False), ('', False), (None, False)]
)
def test_burned_in_text_is_refused_unless_asked_for(tmp_path, value, refused):
    for seed, patient in enumerate('AB'):
        write_contour_patient(tmp_path / 'in', patient, 100 * seed)
    set_burned_in(tmp_path / 'in' / 'dicom' / 'B' / '8.dcm', value)
    if not refused:
        assert run(tmp_path / 'in', tmp_path / 'out')['converted'] == 2
        return
    with pytest.raises(
        ConversionError, match=r'8\.dcm: .*BurnedInAnnotation YES.*--allow-burned-in'
    ):
        run(tmp_path / 'in', tmp_path / 'out')
    report = run(tmp_path / 'in', tmp_path / 'skipped', on_error='skip')
    assert report['converted'] == 1 and 'burned into' in report['skipped'][0]['problem']
    report = run(tmp_path / 'in', tmp_path / 'allowed', allowed=True)
    assert report['converted'] == 2 and list(report['noted'].values()) == [1]


def test_file_without_preamble_is_looked_at(tmp_path):
    write_contour_patient(tmp_path, 'A')
    path = tmp_path / 'dicom' / 'A' / '8.dcm'
    set_burned_in(path, 'YES')
    bare = path.with_name('bare')
    bare.write_bytes(path.read_bytes()[132:])
    with pytest.raises(ConversionError, match='BurnedInAnnotation'):
        check_burned_in([bare], False, {})


def test_other_files_are_none_of_its_business(tmp_path):
    write_png_patient(tmp_path, 'A')
    (tmp_path / 'odd').write_bytes(b'\x00' * 500)
    (tmp_path / 'text.txt').write_text('1 2')
    check_burned_in([*tmp_path.rglob('*.*'), tmp_path / 'odd', tmp_path / 'gone.dcm'], False, {})
    assert contents(tmp_path)
