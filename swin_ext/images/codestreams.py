"""What compressed images say of their own size, without decoding them."""

from __future__ import annotations

import struct

# Start-of-frame markers of JPEG (ITU-T T.81, table B.1) and JPEG-LS (T.87).
START_OF_FRAME = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
JPEG_START = b'\xff\xd8'
JPEG_2000_START = b'\xff\x4f\xff\x51'  # SOC and SIZ (T.800, A.4 and A.5)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG, JPEG-LS or JPEG 2000 image; None if they are not found."""
    if data.startswith(JPEG_START):
        start = 2
        while start + 9 <= len(data) and data[start] == 0xFF:
            if data[start + 1] in START_OF_FRAME:
                height, width = struct.unpack('>HH', data[start + 5 : start + 9])
                return height, width
            is_filling = data[start + 1] == 0xFF
            start += 1 if is_filling else 2 + int.from_bytes(data[start + 2 : start + 4], 'big')
        return None
    start = data.find(JPEG_2000_START)
    if start < 0 or len(data) < start + 24:
        return None
    right, bottom, left, top = struct.unpack('>IIII', data[start + 8 : start + 24])
    return bottom - top, right - left
