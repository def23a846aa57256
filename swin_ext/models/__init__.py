"""Networks. Their modules are imported where they are used: commands start without PyTorch."""

__all__ = ['SwinBackbone']


def __getattr__(name: str):
    if name == 'SwinBackbone':
        from swin_ext.models.swin import SwinBackbone

        return SwinBackbone
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
