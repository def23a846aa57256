"""The test files that pydicom and nibabel bring along, against these libraries themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from swin_ext.images.reading import open_image
from swin_ext.utils.errors import UserError

pydicom = pytest.importorskip('pydicom', minversion='3')
nibabel = pytest.importorskip('nibabel')
DICOM = Path(pydicom.__file__).parent / 'data'
NIFTI = Path(nibabel.__file__).parent / 'tests' / 'data'

pytestmark = pytest.mark.filterwarnings('ignore')  # the files are odd on purpose


def files_of(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob('*')
        if path.is_file() and path.suffix not in ('.py', '.pyc', '.json')
    )


def frames_by_pydicom(path: Path) -> np.ndarray | None:
    """Modality values (frames, H, W); None if there is no grey image that pydicom decodes."""
    try:
        dataset = pydicom.dcmread(path)
        if dataset.SamplesPerPixel != 1 or dataset.PhotometricInterpretation == 'PALETTE COLOR':
            return None
        pixels = dataset.pixel_array
    except Exception:
        return None
    values = pydicom.pixels.apply_modality_lut(pixels, dataset).astype(float)
    if dataset.PhotometricInterpretation == 'MONOCHROME1':
        ends = np.array([0, 2**dataset.BitsStored - 1], pixels.dtype)
        values = pydicom.pixels.apply_modality_lut(ends, dataset).astype(float).sum() - values
    return values.reshape(-1, *values.shape[-2:])


def frames_by_nibabel(path: Path) -> np.ndarray | None:
    """Values (frames, slices, H, W); None if it is no NIfTI file that nibabel reads."""
    try:
        image = nibabel.load(path)
        if not isinstance(image, (nibabel.Nifti1Pair, nibabel.Nifti2Image)):
            return None
        array = image.get_fdata()
    except Exception:
        return None
    shape = (*array.shape, 1, 1)[:4]
    if array.size != np.prod(shape):
        return None
    return array.reshape(shape).T


@pytest.mark.parametrize('folder, at_least', [(DICOM, 60), (NIFTI, 8)], ids=['dicom', 'nifti'])
def test_values_are_the_library_s_or_an_error_names_the_file(folder, at_least):
    if not folder.is_dir():
        pytest.skip(f'the package is installed without its files in {folder}')
    equal, refused, wrong = 0, 0, []
    for path in files_of(folder):
        expected = frames_by_pydicom(path)
        if expected is None:
            expected = frames_by_nibabel(path)
        may_read = expected is not None and np.isfinite(expected).all()
        try:
            file = open_image(path)
            found = np.stack([file.stack(t) for t in range(file.num_frames)])
        except (UserError, ImportError) as error:
            refused += 1
            if may_read or str(path) not in str(error):
                wrong.append(f'{path}: {error}')
            continue
        if not may_read:
            wrong.append(f'{path}: read, but not by the library')
        elif not np.array_equal(found.reshape(expected.shape), expected.astype(np.float32)):
            wrong.append(f'{path}: other values')
        else:
            equal += 1
    print(f'{folder}: {equal} equal, {refused} refused')
    assert not wrong, '\n'.join(wrong)
    assert equal >= at_least
