"""Reads the sections of a large annotation file one after the other, without holding the file."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from typing import Any

import msgspec

CHUNK_BYTES = 4 << 20
LAST_BYTES = 1 << 19  # of a chunk, in which the last entry's end is sought
SPACE = b' \t\r\n'
# An entry's end that another entry follows, or the end of the list.
_NEXT_ENTRY = re.compile(rb'\}\s*,\s*(?=\{)')
_LIST_END = re.compile(rb'\}\s*\]')


class NotPlain(Exception):
    """The file is not written as usual; whether it is sound, `json` has to find out."""


def stream_sections(
    path: str | os.PathLike, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[str, Any, bool]]:
    """Yield key, value and whether it is a part of a list, for the top of a JSON object.

    A list of objects comes in parts of about `chunk_bytes`, in their order, an empty one once; any
    other value comes whole. Nothing that `json.loads` reads in another way is read here.

    Raises:
        NotPlain: The file is no such object, a key occurs twice in an object, a value is NaN,
            infinite or no Unicode, or entries are laid out in a way that takes them apart slowly.
    """
    with open(path, 'rb') as file:
        buffer = _Buffer(file, chunk_bytes)
        buffer.take(b'{')
        seen = set()
        while True:
            key, value = _key_of(buffer), None
            if key in seen:
                raise NotPlain
            seen.add(key)
            if buffer.next_is(b'[') and buffer.starts_objects():
                for value in _entries(buffer):
                    yield key, value, True
            else:
                value = buffer.small_value()
                yield key, value, value == []
            if buffer.next_is(b'}'):
                break
            buffer.take(b',')
        buffer.take(b'}')
        if not buffer.is_at_end():
            raise NotPlain


def _key_of(buffer: _Buffer) -> str:
    key = buffer.small_value()
    if not isinstance(key, str):
        raise NotPlain
    buffer.take(b':')
    return key


def _entries(buffer: _Buffer) -> Iterator[list[dict]]:
    """Parts of a list whose first entry is an object.

    A cut is right if what comes before it, closed by a bracket, is a whole list: what a reader of
    JSON makes of the text up to there does not depend on what follows.
    """
    buffer.take(b'[')
    while True:
        buffer.fill()
        cut = buffer.last(_NEXT_ENTRY)
        entries = None if cut is None else _decode_list(buffer.text[: cut.start() + 1])
        if entries is not None:
            buffer.drop(cut.end())
            yield entries
            continue
        end = _LIST_END.search(buffer.text)
        entries = None if end is None else _decode_list(buffer.text[: end.start() + 1])
        if entries is None:
            raise NotPlain
        buffer.drop(end.end())
        yield entries
        return


def _decode_list(text: bytes) -> list[dict] | None:
    try:
        entries = msgspec.json.decode(b'[' + text + b']')
    except (msgspec.DecodeError, RecursionError):
        return None
    # A key that occurs twice is decoded once. With `":` in a text, spaces after a key, or objects
    # deeper inside, numbers differ too, and are never equal by chance: none of these adds to the
    # second one.
    if text.count(b'":') != sum(map(_count_keys, entries)):
        raise NotPlain
    return entries


def _count_keys(entry: Any) -> int:
    if type(entry) is not dict:
        raise NotPlain
    return len(entry) + sum(len(value) for value in entry.values() if type(value) is dict)


class _Buffer:
    """What has been read of a file and not been used."""

    def __init__(self, file: io.BufferedReader, chunk_bytes: int) -> None:
        self._file = file
        self._chunk_bytes = chunk_bytes
        self.text = b''

    def fill(self) -> None:
        """Read until there is a chunk, or the file has ended."""
        missing = self._chunk_bytes - len(self.text)
        if missing > 0:
            self.text += self._file.read(missing)

    def drop(self, count: int) -> None:
        self.text = self.text[count:]

    def next_is(self, symbol: bytes) -> bool:
        self.fill()
        self.text = self.text.lstrip(SPACE)
        return self.text.startswith(symbol)

    def take(self, symbol: bytes) -> None:
        if not self.next_is(symbol):
            raise NotPlain
        self.drop(len(symbol))

    def is_at_end(self) -> bool:
        return not self.next_is(b'') or not self.text

    def starts_objects(self) -> bool:
        """Whether an object follows the bracket that is next."""
        return self.text[1:].lstrip(SPACE).startswith(b'{')

    def last(self, pattern: re.Pattern) -> re.Match | None:
        """The last match, sought for in the end of the text, which need not have all of it."""
        matches = pattern.finditer(self.text, max(0, len(self.text) - LAST_BYTES))
        return max(matches, key=re.Match.start, default=None)

    def small_value(self) -> Any:
        """A value that lies within a chunk, as `json` reads it."""
        self.fill()
        self.text = self.text.lstrip(SPACE)
        decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)
        text = self.text.decode('utf-8', 'surrogateescape')
        try:
            value, end = decoder.raw_decode(text)
        except (ValueError, RecursionError) as error:
            raise NotPlain from error
        used = text[:end]
        try:
            self.drop(len(used.encode('utf-8')))
        except UnicodeEncodeError as error:
            raise NotPlain from error
        # A number may go on in the next chunk.
        if not self.text:
            raise NotPlain
        return value


def _once(pairs: list[tuple[str, Any]]) -> dict:
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise NotPlain
    return entry


def _refuse(constant: str) -> None:
    raise NotPlain
