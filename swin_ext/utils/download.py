"""Downloads checkpoints: resumable, with progress, and checked against the hash in their name."""

from __future__ import annotations

import http.client
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from tqdm import tqdm

from swin_ext.utils.errors import UserError
from swin_ext.utils.hashes import hash_in_name, sha256_of
from swin_ext.utils.ranks import on_all_ranks, on_main_process

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
ATTEMPTS = 5
FIRST_PAUSE_SECONDS = 1  # doubled before each further attempt


class DownloadError(UserError, RuntimeError):
    """A file that could not be fetched, or is not what its name says."""


def download(url: str, folder: str | os.PathLike) -> Path:
    """Fetch `url` into `folder`, or return the file that is already there.

    The bytes go to `NAME.part` first. A download that was cut short is taken up again, within a
    call and, where the name has a hash to check the outcome by, also by the next call. Several
    processes must not fetch the same file at once.

    Args:
        url: http or https; the last part of its path names the file.

    Returns:
        Path of the complete file, its hash checked if its name has one.

    Raises:
        DownloadError: If the server refuses, the connection keeps breaking, or the hash differs; a
            downloaded file of another hash is deleted, one that was there before is left.
    """
    parts = urllib.parse.urlsplit(url)
    name = urllib.parse.unquote(Path(parts.path).name)
    if parts.scheme not in ('http', 'https') or not name:
        raise DownloadError(f'{url!r} is not an http(s) address of a file.')
    path = Path(folder) / name
    part = path.with_name(f'{name}.part')
    digest = hash_in_name(name)

    if path.exists():
        if digest and not sha256_of(path).startswith(digest):
            raise DownloadError(
                f'{path} is damaged or another file: its SHA-256 does not begin '
                f'with {digest}. Delete it to have it downloaded again.'
            )
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    if digest is None:
        # Nothing could tell whether the bytes of an earlier call are of the same file.
        part.unlink(missing_ok=True)

    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise DownloadError(
                    f'{url}: the server answered {error.code} {error.reason}. Check the address.'
                ) from error
            reason = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.URLError) and not part.exists():
                raise DownloadError(f'{url} cannot be reached: {error.reason}.') from error
            reason = error
        if attempt == ATTEMPTS:
            size = part.stat().st_size if part.exists() else 0
            raise DownloadError(
                f'{url}: gave up after {ATTEMPTS} attempts, the last one failed with: {reason}. '
                f'{size} bytes are in {part}; call again to go on from there.'
            ) from reason
        time.sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))

    found = sha256_of(part)
    if digest and not found.startswith(digest):
        part.unlink()
        raise DownloadError(
            f'{url}: the SHA-256 of the downloaded file begins with '
            f'{found[: len(digest)]} where its name says {digest}. The file was '
            'deleted; try again, or another source.'
        )
    part.replace(path)
    return path


def fetch_once(location: str, folder: str | os.PathLike | None = None) -> Path:
    """Return a local path for a path or an http(s) address.

    Files are kept in `folder`, by default where `torch.hub` keeps checkpoints. In distributed
    training one process per run downloads and the others wait for it.

    Raises:
        DownloadError: As `download`; on every rank.
    """
    if urllib.parse.urlsplit(str(location)).scheme not in ('http', 'https'):
        return Path(location).expanduser()
    folder = folder or Path(torch.hub.get_dir()) / 'checkpoints'
    on_main_process(download, location, folder)
    return on_all_ranks(download, location, folder)


def _fetch(url: str, part: Path) -> None:
    """Append to `part` what is missing of `url`.

    Raises:
        OSError: If the connection breaks before the end; what came is kept.
    """
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={'Range': f'bytes={start}-'} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get('Content-Range') == f'bytes */{start}':
            return  # nothing is missing
        part.unlink()
        raise ConnectionError(f'{start} bytes were there, more than the file has') from error
    with response:
        sent = response.headers.get('Content-Range', '')
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server knows no ranges and sends everything
        elif not sent.startswith(f'bytes {start}-'):
            raise ConnectionError(f'the server sent {sent!r} when asked for bytes {start}-')
        length = response.headers.get('Content-Length')
        total = start + int(length) if length else None
        bar = tqdm(desc=part.stem, total=total, initial=start, unit='B', unit_scale=True)
        with bar, part.open('ab' if start else 'wb') as file:
            # read1 gives what has come, where read would drop it if the connection broke
            for chunk in iter(lambda: response.read1(CHUNK_BYTES), b''):
                file.write(chunk)
                bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f'the connection broke after {size} of {total} bytes')
