"""Pixels of NIfTI files: `.nii`, `.nii.gz`, and pairs of `.hdr` and `.img`.

nibabel reads the header. The pixels of one image are a contiguous piece of the file, as the
slowest axes are those of slices and frames, and only that piece is read.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from swin_ext.images.image_file import Content, ImageFile, ImageReadError, check_size
from swin_ext.utils.optional import import_optional

GZIP_SIGNATURE = b'\x1f\x8b'
# Of a single file, and of a pair.
NIFTI_1, NIFTI_2 = (b'n+1\0', b'ni1\0'), (b'n+2\0', b'ni2\0')
HEADER_BYTES = 540  # of NIfTI-2; NIfTI-1 has 348
# A few cine stacks in each worker: 12 slices, 25 frames, 256 x 256 px, 2 bytes are 39 MB.
CACHE_BYTES = 2**29
DEFLATE_RATIO = 1032  # no stream of zlib inflates to more (zlib.net/zlib_tech.html)

Read = Callable[[int, int], bytes]  # of start and count


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins so is a NIfTI file or the header of a pair."""
    return head[344:348] in NIFTI_1 or head[4:8] in NIFTI_2


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """Return the header and the pixels of a pair, of which `path` is one; None if it is none."""
    stem, zipped = (path.with_suffix(''), '.gz') if path.suffix == '.gz' else (path, '')
    if stem.suffix not in ('.hdr', '.img'):
        return None
    pair = []
    for suffix in ('.hdr', '.img'):
        candidates = [Path(f'{stem.with_suffix(suffix)}{z}') for z in (zipped, '', '.gz')]
        pair.append(next((c for c in candidates if c.is_file()), None))
    return tuple(pair) if None not in pair else None


def open_nifti(content: Content) -> ImageFile:
    """Open a NIfTI file of versions 1 or 2."""
    nibabel = import_optional('nibabel', f'Reading {content.name}')
    pair = find_pair(content.path) if content.path else None
    header_content, pixel_content = (
        (Content(content.name, pair[0]), Content(content.name, pair[1]))
        if pair
        else (content, content)
    )
    head = _reader(header_content)(0, HEADER_BYTES)
    if not is_nifti(head):
        raise ImageReadError(
            f'{content.name} belongs to a pair of .hdr and .img that is no NIfTI: Analyze 7.5, '
            'maybe. Convert it to .nii.'
            if pair
            else f'{content.name} is gzip of something else than NIfTI.'
        )
    is_second = head[4:8] in NIFTI_2
    is_single = (head[4:8] if is_second else head[344:348]) in (NIFTI_1[0], NIFTI_2[0])
    if not is_single and not pair:
        raise ImageReadError(
            f'{content.name} is the header of a pair of files, .hdr and .img, and the other is '
            'not beside it. Copy it there, or convert both to one .nii file.'
        )
    kinds = (
        (nibabel.nifti2.Nifti2PairHeader, nibabel.nifti2.Nifti2Header)
        if is_second
        else (nibabel.nifti1.Nifti1PairHeader, nibabel.nifti1.Nifti1Header)
    )
    kind = kinds[is_single]
    header = kind(head[: kind.template_dtype.itemsize])
    if is_single and header.get_data_offset() < kind.single_vox_offset:
        raise ImageReadError(
            f'{content.name} has a vox_offset of {header.get_data_offset()}, which lies within '
            'its header. Correct it, or save the volume again.'
        )
    return _open_pixels(content.name, header, pixel_content)


def _open_pixels(name: str, header, content: Content) -> ImageFile:
    dtype = header.get_data_dtype()
    if dtype.kind not in 'buif':
        raise ImageReadError(f'{name} holds {dtype}, not one real number per voxel.')
    shape = tuple(int(n) for n in header.get_data_shape())
    if len(shape) < 2 or any(n != 1 for n in shape[4:]):
        raise ImageReadError(
            f'{name} has shape {shape}, but needs 2 to 4 axes: columns, rows, slices, frames.'
        )
    columns, rows, num_slices, num_frames = (*shape, 1, 1)[:4]
    check_size(name, rows, columns)
    if num_slices < 1 or num_frames < 1:
        raise ImageReadError(f'{name} has shape {shape}, which holds no image.')
    slope, intercept = header.get_slope_inter()  # None for a slope of 0 or NaN: not scaled
    image_bytes, offset = columns * rows * dtype.itemsize, header.get_data_offset()
    read = _reader(content, offset + math.prod(shape) * dtype.itemsize)

    def decode(z: int, t: int) -> np.ndarray:
        piece = read(offset + (t * num_slices + z) * image_bytes, image_bytes)
        if len(piece) < image_bytes:
            raise ImageReadError(f'{name} is truncated: it ends before slice {z} of frame {t}.')
        image = np.frombuffer(piece, dtype).reshape(rows, columns)
        if slope is None:
            return image
        return image.astype(np.float64) * slope + intercept

    return ImageFile(name, num_slices, num_frames, False, decode)


def _reader(content: Content, promised: int | None = None) -> Read:
    """Return what reads pieces of a file, unpacked if it is packed.

    Args:
        promised: Size in bytes that the header gives; nothing beyond is unpacked.

    Raises:
        ImageReadError: If the file cannot hold that much.
    """
    packed = content.read(0, 2) == GZIP_SIGNATURE
    if promised is not None and promised > content.size * (DEFLATE_RATIO if packed else 1):
        raise ImageReadError(
            f'{content.name} is truncated: its header promises {promised} bytes, but it has '
            f'{content.size}{" packed" if packed else ""}.'
        )
    if not packed:
        return content.read
    if promised is None or promised > CACHE_BYTES:
        return lambda start, count: _inflate(content, start, count)
    inflated = CACHE.get(content, promised)
    return lambda start, count: inflated[start : start + count]


def _inflate(content: Content, start: int, count: int) -> bytes:
    """Unpack a piece, and what lies before it without keeping that.

    If nothing follows the piece, the checksum of the whole is compared as well.
    """
    source = io.BytesIO(content.data) if content.path is None else open(content.path, 'rb')
    with closing(source), gzip.GzipFile(fileobj=source) as file:
        file.seek(start)
        piece = file.read(count)
        file.read(1)
    return piece


class InflatedFiles:
    """Unpacked files that were last asked for, of `CACHE_BYTES` together at most.

    A data set asks for one slice at a time; without this, each would cost the time of the whole.
    """

    def __init__(self):
        self._files = OrderedDict()
        self.unlock()

    def unlock(self) -> None:
        self._lock = threading.Lock()

    def get(self, content: Content, promised: int) -> bytes:
        """Return the first `promised` bytes of a packed file."""
        if content.path is None:
            return _inflate(content, 0, promised)
        stat = os.stat(content.path)
        key = (os.path.abspath(content.path), stat.st_mtime_ns, stat.st_size, promised)
        with self._lock:
            if key not in self._files:
                self._files[key] = _inflate(content, 0, promised)
                while sum(map(len, self._files.values())) > CACHE_BYTES:
                    self._files.popitem(last=False)
            self._files.move_to_end(key)
            return self._files[key]


CACHE = InflatedFiles()
# A worker that is forked while another thread unpacks would wait for it for ever.
if hasattr(os, 'register_at_fork'):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=CACHE.unlock)
