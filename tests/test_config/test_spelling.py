import pytest

from swin_ext.config.spelling import nearest, slip_of

KNOWN = ['max_epochs', 'train_dataloader', 'image_scale', 'type', 'lr', 'filter_empty_gt', 'img']


@pytest.mark.parametrize(
    'name, other',
    [
        ('max_epoch', 'max_epochs'),
        ('trian_dataloader', 'train_dataloader'),
        ('tpye', 'type'),
        ('rl', 'lr'),
        ('l', 'lr'),
        ('filter_empty', 'filter_empty_gt'),
        ('MAX_EPOCHS', 'max_epochs'),
        ('train_dataset', None),
        ('train_dataloader_2', None),
        ('my_image_scale', None),
        ('img2', None),
        ('colour', None),
    ],
)
def test_slip(name, other):
    assert slip_of(name, KNOWN) == other


def test_nearest_is_less_strict():
    assert nearest('train_dataset', KNOWN) == 'train_dataloader'
    assert nearest('zzz', KNOWN) is None
