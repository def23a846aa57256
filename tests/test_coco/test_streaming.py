"""Reading part by part gives what `json` gives, or nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swin_ext.coco.streaming import NotPlain, stream_sections

ENTRIES = [
    dict(id=i, name='é\\' * (i % 3) + '{', box=[i, 0.1 * i], mask=dict(size=[i, 2], counts='}a]'))
    for i in range(40)
]
CONTENT = dict(
    info=dict(year=2026, parts=[dict(a=1), dict(a=[])]),
    images=ENTRIES,
    annotations=ENTRIES[:7],
    categories=[],
    licenses=[dict(id=1)],
    more=[1, 'x', None],
    version=1.5,
)


def joined(path, chunk_bytes):
    content, in_parts = {}, set()
    for key, value, is_part in stream_sections(path, chunk_bytes):
        if is_part:
            content.setdefault(key, []).extend(value)
            in_parts.add(key)
        else:
            content[key] = value
    return content, in_parts


@pytest.mark.parametrize('chunk_bytes', [400, 1000, 4096, 1 << 20])
@pytest.mark.parametrize('indent', [None, 1])
def test_parts_make_up_the_file(tmp_path, chunk_bytes, indent):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(CONTENT, indent=indent), encoding='utf-8')
    content, in_parts = joined(path, chunk_bytes)
    assert json.dumps(content) == json.dumps(CONTENT)  # 1 and 1.0 differ
    assert in_parts == {'images', 'annotations', 'categories', 'licenses'}


def test_large_files_come_in_many_parts(tmp_path):
    path = tmp_path / 'file.json'
    path.write_text(json.dumps(dict(images=ENTRIES)))
    assert len([*stream_sections(path, 500)]) > 5


@pytest.mark.parametrize(
    'text',
    [
        '',
        '[]',
        '{"images": [{"id": 1, "id": 2}]}',
        '{"images": [{"id": 1, "size": {"a": 1, "a": 1}}]}',
        '{"images": [], "images": []}',
        '{"info": {"a": 1, "a": 2}}',
        '{"images": [{"id": NaN}]}',
        '{"info": NaN}',
        '{"images": [{"id": 1e400}]}',
        '{"images": [{"id": 1}',
        '{"images": [{"id": 1}, 5]}',
        '{"images": [{"id": 1}]',
        '{"images": [{"id": 1}]} 5',
        '{"images": [{"id": "\\ud800"}]}',
        '{"images": [{"id" : 1}]}',
    ],
)
def test_what_is_not_plain(tmp_path, text):
    path = tmp_path / 'file.json'
    path.write_text(text)
    with pytest.raises(NotPlain):
        [*stream_sections(path)]


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(['},{', '}]', '":', '\\', '"']),
    ),
    lambda parts: st.one_of(
        st.lists(parts, max_size=4), st.dictionaries(st.text(max_size=3), parts, max_size=3)
    ),
    max_leaves=6,
)
ENTRY_LISTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=3), max_size=8)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.dictionaries(st.text(max_size=3), st.one_of(VALUES, ENTRY_LISTS), max_size=4),
    separators=st.sampled_from([(',', ':'), (', ', ': '), (' , ', ':\n')]),
    chunk_bytes=st.integers(20, 300),
    cut=st.one_of(st.none(), st.integers(0, 200)),
)
def test_any_content_is_read_as_json_reads_it_or_not_at_all(
    tmp_path, content, separators, chunk_bytes, cut
):
    path = tmp_path / 'file.json'
    text = json.dumps(content, separators=separators, ensure_ascii=False)[:cut]
    path.write_bytes(text.encode('utf-8', 'surrogatepass'))
    try:
        read = joined(path, chunk_bytes)[0]
    except NotPlain:
        return
    assert json.dumps(read) == json.dumps(json.loads(text))
