"""`download` against servers on this host, with and without ranges, steady and breaking off."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from swin_ext.utils import download as module
from swin_ext.utils.download import DownloadError, download
from swin_ext.utils.hashes import hash_in_name

CONTENT = bytes(range(256)) * 4096  # 1 MiB
NAME = f'model-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth'


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT` under any name; `server` holds its habits and what it was asked."""

    def do_GET(self):
        server = self.server
        asked = self.headers.get('Range')
        server.ranges.append(asked)
        if self.path == '/missing.pth':
            return self.send_error(404)
        if server.failures:
            return self.send_error(server.failures.pop())
        start = 0
        if asked and server.supports_range:
            start = int(re.fullmatch(r'bytes=(\d+)-', asked)[1])
            if start >= len(CONTENT):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(CONTENT)}')
                self.send_header('Content-Length', '0')
                return self.end_headers()
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}')
        else:
            self.send_response(200)
        self.send_header('Content-Length', str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if server.breaks > 0:
            server.breaks -= 1
            body = body[:300_000]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, 'FIRST_PAUSE_SECONDS', 0)
    for variable in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(variable, raising=False)
    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.supports_range, server.breaks, server.failures, server.ranges = True, 0, [], []
    server.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    'name, expected',
    [
        ('swin_tiny-b92c91f1.pth', 'b92c91f1'),
        ('resnet50-0676ba61.pth.tar', '0676ba61'),
        ('x-' + 'a' * 64 + '.safetensors', 'a' * 64),
        ('swin_tiny_patch4_window7_224.pth', None),
        ('mask_rcnn_swin-s-p4-w7_fpn.pth', None),
        ('model-b92c91f.pth', None),
        ('model-b92c91f1', None),
    ],
)
def test_hash_in_name(name, expected):
    assert hash_in_name(name) == expected


def test_download_shows_progress(server, tmp_path, capsys):
    path = download(f'{server.url}/some/{NAME}?x=1', tmp_path / 'new')
    assert path == tmp_path / 'new' / NAME
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == [NAME]
    assert NAME in capsys.readouterr().err

    assert download(f'{server.url}/{NAME}', tmp_path / 'new') == path
    assert len(server.ranges) == 1  # the second call asked for nothing


@pytest.mark.parametrize('supports_range', [True, False])
def test_connection_that_breaks(server, tmp_path, supports_range):
    server.supports_range, server.breaks = supports_range, 2
    assert download(f'{server.url}/{NAME}', tmp_path).read_bytes() == CONTENT
    expected = 'bytes=600000-' if supports_range else 'bytes=300000-'
    assert server.ranges == [None, 'bytes=300000-', expected]


def test_resumes_in_next_call(server, tmp_path):
    server.breaks = module.ATTEMPTS
    server.supports_range = False  # so that no attempt gets beyond 300 000 bytes
    with pytest.raises(DownloadError, match=r'gave up after 5 attempts.*300000 bytes are in'):
        download(f'{server.url}/{NAME}', tmp_path)
    server.supports_range, server.ranges = True, []
    assert download(f'{server.url}/{NAME}', tmp_path).read_bytes() == CONTENT
    assert server.ranges == ['bytes=300000-']


@pytest.mark.parametrize(
    'left_over, ranges',
    [
        (CONTENT, [f'bytes={len(CONTENT)}-']),
        (CONTENT + b'x', [f'bytes={len(CONTENT) + 1}-', None]),
    ],
)
def test_part_that_is_complete_or_too_long(server, tmp_path, left_over, ranges):
    (tmp_path / f'{NAME}.part').write_bytes(left_over)
    assert download(f'{server.url}/{NAME}', tmp_path).read_bytes() == CONTENT
    assert server.ranges == ranges


def test_part_is_not_trusted_without_hash(server, tmp_path):
    (tmp_path / 'model.pth.part').write_bytes(b'of an older file')
    assert download(f'{server.url}/model.pth', tmp_path).read_bytes() == CONTENT
    assert server.ranges == [None]


def test_wrong_hash_deletes_file(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()[:8]
    with pytest.raises(DownloadError, match=f'{digest} where its name says 00000000.*deleted'):
        download(f'{server.url}/model-00000000.pth', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_wrong_part_is_found_by_hash(server, tmp_path):
    (tmp_path / f'{NAME}.part').write_bytes(b'of an older file')
    with pytest.raises(DownloadError, match='deleted'):
        download(f'{server.url}/{NAME}', tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_existing_file_of_wrong_hash_is_kept(server, tmp_path):
    (tmp_path / NAME).write_bytes(b'mine')
    with pytest.raises(DownloadError, match='Delete it to have it downloaded again'):
        download(f'{server.url}/{NAME}', tmp_path)
    assert (tmp_path / NAME).read_bytes() == b'mine'
    assert server.ranges == []


def test_server_errors(server, tmp_path):
    server.failures = [503, 429]
    assert download(f'{server.url}/{NAME}', tmp_path).read_bytes() == CONTENT
    assert len(server.ranges) == 3
    with pytest.raises(DownloadError, match='404.*Check the address'):
        download(f'{server.url}/missing.pth', tmp_path)
    assert len(server.ranges) == 4  # no second attempt


@pytest.mark.parametrize('url', ['file:///etc/hosts', 'ftp://host/model.pth', 'http://host/'])
def test_refuses_address(url, tmp_path):
    with pytest.raises(DownloadError, match='not an http'):
        download(url, tmp_path)
