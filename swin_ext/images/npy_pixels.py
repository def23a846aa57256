"""Pixels of NumPy files: (rows, columns), (slices, ...) or (frames, slices, ...)."""

from __future__ import annotations

import io
import math

import numpy as np

from swin_ext.images.image_file import Content, ImageFile, ImageReadError, check_size

NPY_SIGNATURE = b'\x93NUMPY'
HEADER_BYTES = 2**16  # more than NumPy accepts of a header


def open_npy(content: Content) -> ImageFile:
    """Open a `.npy` file; of a local one only the wanted image is read."""
    name = content.name
    head = io.BytesIO(content.read(0, HEADER_BYTES))
    version = np.lib.format.read_magic(head)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(head)
    if dtype.hasobject:
        raise ImageReadError(
            f'{name} holds pickled Python objects, which could run any code '
            'when read. Save a numeric array.'
        )
    if dtype.kind not in 'buif':
        raise ImageReadError(f'{name} holds {dtype}, not real numbers.')
    if not 2 <= len(shape) <= 4:
        raise ImageReadError(
            f'{name} has shape {shape}, but needs (rows, columns), '
            '(slices, rows, columns) or (frames, slices, rows, columns).'
        )
    if 0 in shape[:-2]:
        raise ImageReadError(f'{name} has shape {shape}, which holds no image.')
    check_size(name, *shape[-2:])
    # Against the file before any memory is asked for: a header may promise anything.
    needed, found = math.prod(shape) * dtype.itemsize, content.size - head.tell()
    if found < needed:
        raise ImageReadError(
            f'{name} is truncated: {needed} bytes of pixels are promised, but {found} are there.'
        )
    array = np.ndarray(
        shape,
        dtype,
        content.data if content.path is None else np.memmap(content.path, np.uint8, 'r'),
        head.tell(),
        order='F' if fortran_order else 'C',
    )
    array = array[(None,) * (4 - array.ndim)]
    return ImageFile(
        name, array.shape[1], array.shape[0], array.dtype == np.uint8, lambda z, t: array[t, z]
    )
