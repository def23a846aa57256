"""Pixels of PNG and JPEG files, by one rule for depth, palette, transparency and orientation.

OpenCV decodes with its flag for unchanged values: grey of 1, 2 and 4 bits is spread to 8, palettes
become colours, and transparency is a fourth channel, which is left out. That flag ignores EXIF
orientation, which others honour; here it is always applied, as `mmcv.imread` and viewers do.
"""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image

from swin_ext.images.image_file import Content, ImageFile, ImageReadError, check_size

PNG_SIGNATURE, JPEG_SIGNATURE = b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff'
ORIENTATION = 0x0112  # tag of EXIF
JPEG_PIXELS_PER_BYTE = 8 * 64  # each block of 8 x 8 px takes at least a bit


def open_png(content: Content) -> ImageFile:
    """Open a PNG file of 1 to 16 bits."""
    data = content.read()
    chunks = read_png_chunks(data, content.name)
    width, height = struct.unpack('>II', chunks[b'IHDR'][:8])
    check_size(content.name, height, width)
    exif = Image.Exif()
    if b'eXIf' in chunks:
        exif.load(chunks[b'eXIf'])
    return _open(content.name, data, exif)


def open_jpeg(content: Content) -> ImageFile:
    """Open a JPEG file of 8 bits."""
    data = content.read()
    with Image.open(io.BytesIO(data), formats=('JPEG', 'MPO')) as image:
        check_size(content.name, image.height, image.width)
        if image.height * image.width > JPEG_PIXELS_PER_BYTE * len(data):
            raise ImageReadError(
                f'{content.name} is truncated or damaged: {len(data)} bytes cannot hold '
                f'{image.width} x {image.height} px.'
            )
        if image.mode == 'CMYK':
            raise ImageReadError(
                f'{content.name} has colours for print (CMYK). Convert it to grey.'
            )
        image.load()  # OpenCV fills up what a truncated file lacks
        exif = image.getexif()
    return _open(content.name, data, exif)


def read_png_chunks(data: bytes, name: str) -> dict[bytes, bytes]:
    """Return the last chunk of each type, after checking that all are whole.

    Raises:
        ImageReadError: If the file ends too early or a checksum is wrong.
    """
    chunks, start = {}, len(PNG_SIGNATURE)
    while b'IEND' not in chunks:
        head = data[start : start + 8]
        if len(head) < 8:
            raise ImageReadError(f'{name} cannot be read: the PNG is truncated.')
        length, kind = struct.unpack('>I4s', head)
        body, check = data[start + 8 : start + 8 + length], data[start + 8 + length :][:4]
        if len(body) < length or len(check) < 4:
            raise ImageReadError(f'{name} cannot be read: the PNG is truncated.')
        if zlib.crc32(kind + body) != int.from_bytes(check, 'big'):
            raise ImageReadError(f'{name} cannot be read: the PNG is damaged (checksum of {kind}).')
        chunks[kind] = body
        start += length + 12
    return chunks


def _open(name: str, data: bytes, exif: Image.Exif) -> ImageFile:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageReadError(f'{name} cannot be read: it is truncated or damaged.')
    if pixels.ndim == 3:
        pixels = pixels[..., :3]
    pixels = np.ascontiguousarray(turn(pixels, exif.get(ORIENTATION, 1)))
    return ImageFile(name, 1, 1, pixels.dtype == np.uint8, lambda z, t: pixels)


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn pixels (H, W, ...) upright that are stored in an orientation of EXIF (1 to 8).

    Values that EXIF does not define are taken as 1, which is upright.
    """
    if orientation in (5, 6, 7, 8):  # rows of the file are columns of the picture
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
