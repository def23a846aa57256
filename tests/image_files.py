"""Writes small image files of the formats that cardiac MR comes in, for the tests."""

from __future__ import annotations

import io

import numpy as np

EXPLICIT_LITTLE_ENDIAN = '1.2.840.10008.1.2.1'
RLE_LOSSLESS = '1.2.840.10008.1.2.5'


def make_dicom(pixels: np.ndarray, **elements):
    """MR image as a pydicom data set; pixels of shape (H, W), (frames, H, W) or (H, W, 3)."""
    import pydicom

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.UID(EXPLICIT_LITTLE_ENDIAN)
    meta.MediaStorageSOPClassUID = pydicom.uid.UID('1.2.840.10008.5.1.4.1.1.4')
    meta.MediaStorageSOPInstanceUID = pydicom.uid.UID('1.2.3.4')
    dataset = pydicom.dataset.FileDataset('', {}, file_meta=meta, preamble=b'\0' * 128)
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.PatientName = 'Secret^Name'
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = 'RGB' if colour else 'MONOCHROME2'
    if colour:
        dataset.PlanarConfiguration = 0
    elif pixels.ndim == 3:
        dataset.NumberOfFrames = len(pixels)
    dataset.Rows, dataset.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == 'i')
    dataset.PixelData = pixels.tobytes()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def dicom_bytes(dataset) -> bytes:
    """Bytes of a DICOM file."""
    import pydicom

    buffer = io.BytesIO()
    if pydicom.__version__ < '3':
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        pydicom.dcmwrite(buffer, dataset, write_like_original=False)
    else:
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def nifti_bytes(array: np.ndarray, slope: float = 1.0, intercept: float = 0.0) -> bytes:
    """Bytes of an uncompressed NIfTI-1 file, array indexed as [x, y, z, t]."""
    import nibabel

    image = nibabel.Nifti1Image(array, np.eye(4), dtype=array.dtype)
    image.header.set_slope_inter(slope, intercept)
    return image.to_bytes()


def npy_bytes(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()
