from swin_ext.models.swin import SwinBackbone

__all__ = ['SwinBackbone']
