import pytest

from swin_ext.coco.categories import category_ids
from swin_ext.coco.errors import AnnotationError


def content(*names):
    return dict(categories=[dict(id=10 * i, name=name) for i, name in enumerate(names, 1)])


def test_ids_are_in_the_order_of_the_file():
    assert list(category_ids(content('RV', 'LV'), ('LV',), 'a.json').items()) == [
        ('RV', 10),
        ('LV', 20),
    ]


def test_missing_and_double_names():
    with pytest.raises(AnnotationError, match=r"a.json has no category \['lv'\](?s:.*)mean 'LV'"):
        category_ids(content('RV', 'LV'), ('lv',), 'a.json')
    with pytest.raises(AnnotationError, match=r"a.json: .* not unique: \['LV'\]"):
        category_ids(content('LV', 'LV'), ('LV',), 'a.json')
