"""Files of discs with a known place and time, and the volume that they must give."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from swin_ext.study.frames import Frame
from swin_ext.study.stacks import Stack

logging.getLogger('pydicom').setLevel(logging.ERROR)
UID_ROOT = '1.2.826.0.1.3680043.8.498.4712'
SIZE = 48
MR, ENHANCED_MR = '1.2.840.10008.5.1.4.1.1.4', '1.2.840.10008.5.1.4.1.1.4.1'
AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def disc(radius: float, size: int = SIZE) -> np.ndarray:
    """(size, size) uint16, 1 within the disc."""
    y, x = np.mgrid[:size, :size] - size // 2
    return (x**2 + y**2 <= radius**2).astype(np.uint16)


def area_px(radius: float) -> int:
    return int(disc(radius).sum())


def write_dicom(path: Path, number: int, pixels: np.ndarray | None = None, **tags) -> FileDataset:
    """MR image at z = 0 without any tag of time; tags of value None are left out."""
    pixels = disc(8) if pixels is None else pixels
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = tags.get('SOPClassUID', MR)
    meta.MediaStorageSOPInstanceUID = f'{UID_ROOT}.{number}'
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b'\0' * 128)
    elements = dict(
        SOPClassUID=MR,
        SOPInstanceUID=f'{UID_ROOT}.{number}',
        SeriesInstanceUID=f'{UID_ROOT}.0.1',
        InstanceNumber=number,
        ImagePositionPatient=[0, 0, 0],
        ImageOrientationPatient=AXIAL,
        PixelSpacing=[1.5, 1.5],
        SamplesPerPixel=1,
        PhotometricInterpretation='MONOCHROME2',
        Rows=pixels.shape[-2],
        Columns=pixels.shape[-1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=0,
    )
    elements.update(tags)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for keyword, value in elements.items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.PixelData = pixels.astype(np.uint16).tobytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
    return dataset


def strip_preamble(path: Path) -> None:
    """As some archives export: no preamble, no file meta information."""
    dataset = pydicom.dcmread(path)
    bare = Dataset()
    bare.update(dataset)
    bare.save_as(path, implicit_vr=True, little_endian=True)


def item(**elements) -> Dataset:
    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def group(**elements) -> Sequence:
    return Sequence([item(**elements)])


def pixels_of(frame: Frame) -> np.ndarray:
    """By pydicom and nibabel alone."""
    if frame.slice_index is not None:
        import nibabel

        array = np.asanyarray(nibabel.load(frame.path).dataobj)
        array = array.reshape((*array.shape, 1, 1)[:4])
        return array[:, :, frame.slice_index, frame.frame_index].T
    dataset = pydicom.dcmread(frame.path, force=True)
    if 'TransferSyntaxUID' not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    array = dataset.pixel_array
    return array if frame.frame_index is None else array[frame.frame_index]


def volume_ml(stack: Stack, phase: int = 0) -> float:
    """Area times distance, summed over the slices that there are."""
    rows, columns = stack.spacing_mm
    pixels = sum(
        int((pixels_of(item.frames[phase]) > 0).sum())
        for item in stack.slices
        if phase in item.frames
    )
    return pixels * rows * columns * stack.slice_spacing_mm / 1000
