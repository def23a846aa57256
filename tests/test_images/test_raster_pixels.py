"""PNG and JPEG: depth, palette, transparency, interlacing and orientation."""

from __future__ import annotations

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from swin_ext.images.raster_pixels import read_png_chunks, turn
from swin_ext.images.reading import ImageReadError, open_image, read_frame

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (13, 18)).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    check = zlib.crc32(kind + body)
    return struct.pack('>I', len(body)) + kind + body + struct.pack('>I', check)


def write_png(values, depth, interlaced=False, colour_type=0, palette=None, **chunks) -> bytes:
    """Grey or palette values as PNG of 1 to 16 bits, written by the specification (ISO 15948)."""

    def pack(image):
        rows = []
        for row in image:
            if depth == 16:
                rows.append(b'\0' + row.astype('>u2').tobytes())
                continue
            bits = ((row[:, None] >> np.arange(depth)[::-1]) & 1).astype(np.uint8)
            rows.append(b'\0' + np.packbits(bits).tobytes())
        return b''.join(rows) if image.size else b''

    adam7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    passes = [values[y::dy, x::dx] for y, x, dy, dx in [*adam7, (1, 0, 2, 1)]]
    pixels = b''.join(map(pack, passes)) if interlaced else pack(values)
    height, width = values.shape
    header = struct.pack('>IIBBBBB', width, height, depth, colour_type, 0, 0, int(interlaced))
    return b''.join(
        [
            b'\x89PNG\r\n\x1a\n',
            chunk(b'IHDR', header),
            b'' if palette is None else chunk(b'PLTE', palette.astype(np.uint8).tobytes()),
            *(chunk(kind.encode(), body) for kind, body in chunks.items()),
            chunk(b'IDAT', zlib.compress(pixels)),
            chunk(b'IEND', b''),
        ]
    )


@pytest.mark.parametrize('depth', [1, 2, 4, 8, 16])
@pytest.mark.parametrize('interlaced', [False, True])
@pytest.mark.parametrize('largest', [1.0, 0.0038], ids=['bright', 'below 256 of 16 bits'])
def test_depths_of_grey(depth, interlaced, largest):
    values = RNG.integers(0, max(2, int(2**depth * largest)), (13, 18))
    file = open_image(write_png(values, depth, interlaced))
    factor = 255 // (2**depth - 1) if depth < 8 else 1  # the specification spreads them to 8 bits
    assert np.array_equal(file.frame(), values * factor)
    assert file.is_display == (depth <= 8)


@pytest.mark.parametrize('depth', [1, 2, 4, 8])
@pytest.mark.parametrize('transparent', [False, True])
def test_palettes(depth, transparent):
    values = RNG.integers(0, 2**depth, (13, 18))
    levels = RNG.permutation(256)[: 2**depth]
    chunks = dict(tRNS=bytes([7])) if transparent else {}
    grey = np.repeat(levels[:, None], 3, 1)
    data = write_png(values, depth, colour_type=3, palette=grey, **chunks)
    assert np.array_equal(read_frame(data), levels[values])
    colours = grey.copy()
    colours[:, 0] ^= 1
    data = write_png(values, depth, colour_type=3, palette=colours, **chunks)
    with pytest.raises(ImageReadError, match='has colours'):
        read_frame(data)
    assert np.array_equal(open_image(data).display()[..., ::-1], colours[values])


@pytest.mark.parametrize('mode', ['RGB', 'RGBA', 'LA', '16 bit RGB', '16 bit RGBA'])
def test_grey_that_is_stored_with_more_channels(mode):
    if mode.startswith('16'):
        values = GREY.astype(np.uint16) * 200
        channels = [values] * 3 + [values[::-1]] * mode.endswith('A')
        data = cv2.imencode('.png', np.stack(channels, -1))[1].tobytes()
    else:
        image = Image.fromarray(GREY).convert(mode)
        if mode.endswith('A'):
            image.putalpha(Image.fromarray(GREY[::-1]))
        buffer = io.BytesIO()
        image.save(buffer, 'PNG')
        data, values = buffer.getvalue(), GREY
    file = open_image(data)
    assert np.array_equal(file.frame(), values)
    assert file.is_display == (not mode.startswith('16'))


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('orientation', [None, *range(0, 11)])
def test_orientation_is_that_of_pillow(kind, orientation):
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    Image.fromarray(GREY).save(buffer, kind, exif=exif)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        stored = np.asarray(image)
    assert np.array_equal(read_frame(buffer.getvalue()), expected)
    assert np.array_equal(turn(stored, orientation or 1), expected)


@pytest.mark.parametrize('exif', [b'', b'Exif\0\0', b'MM\0*\xff\xff\xff\xff', b'\x89' * 40])
def test_exif_that_is_damaged(exif):
    """Pixels as stored, or an error: what the orientation is cannot be known."""
    data = write_png(GREY, 8, eXIf=exif)
    try:
        assert np.array_equal(read_frame(data), GREY)
    except ImageReadError as error:
        assert 'the image of' in str(error)


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('part', [0.2, 0.5, 0.9, 0.99])
def test_truncated_pictures_are_errors(kind, part):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64)).astype(np.uint8)).save(buffer, kind)
    data = buffer.getvalue()
    with pytest.raises(ImageReadError, match='truncated'):
        read_frame(data[: int(part * len(data))])
    assert read_frame(data + b'behind the end').shape == (64, 64)


def test_every_bit_of_a_png_is_checked():
    data = write_png(GREY, 8)
    assert set(read_png_chunks(data, 'x')) == {b'IHDR', b'IDAT', b'IEND'}
    for i in range(8, len(data)):
        damaged = bytearray(data)
        damaged[i] ^= 1
        with pytest.raises(ImageReadError):
            read_frame(bytes(damaged))


@pytest.mark.parametrize('size', [(2**20, 2**20), (2**31, 2), (8000, 8000), (0, 4)])
def test_sizes_that_no_image_has(size):
    header = chunk(b'IHDR', struct.pack('>IIBBBBB', *size, 8, 0, 0, 0, 0))
    data = b'\x89PNG\r\n\x1a\n' + header + chunk(b'IDAT', zlib.compress(bytes(99)))
    with pytest.raises(ImageReadError, match='which no MR image is'):
        read_frame(data + chunk(b'IEND', b''))


def test_jpeg_of_print_colours_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.stack([GREY] * 4, -1), 'CMYK').save(buffer, 'JPEG')
    with pytest.raises(ImageReadError, match='CMYK'):
        open_image(buffer.getvalue())


@pytest.mark.parametrize('options, marker', [({}, 0xC0), (dict(progressive=True), 0xC2)])
def test_jpeg_of_fewer_bytes_than_its_size_takes(options, marker):
    """libjpeg would fill up with grey."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, 'JPEG', **options)
    data = bytearray(buffer.getvalue())
    struct.pack_into('>HH', data, data.index(bytes([0xFF, marker])) + 5, 4000, 4000)
    with pytest.raises(ImageReadError, match='cannot hold 4000 x 4000 px'):
        read_frame(bytes(data))
