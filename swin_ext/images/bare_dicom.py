"""DICOM files without preamble and file meta information, as some archives export them."""

from __future__ import annotations


def begins_with_element(head: bytes) -> bool:
    """Whether a file begins with a DICOM element of group 0002 or 0008, little or big endian.

    Args:
        head: The first 12 bytes or more.
    """
    if len(head) < 12:
        return False
    for order in ('little', 'big'):
        group = int.from_bytes(head[:2], order)
        element = int.from_bytes(head[2:4], order)
        # Explicit VR has two capitals, implicit VR a length; what comes first is short.
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        length = int.from_bytes(head[4:8], order)
        if group in (0x0002, 0x0008) and element < 0x100 and (explicit or length < 1 << 16):
            return True
    return False
