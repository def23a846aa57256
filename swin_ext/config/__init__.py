"""What a config may say, and how one value reaches all places that depend on it."""

from swin_ext.config.errors import ConfigError
from swin_ext.config.finalise import finalise_config

__all__ = ['ConfigError', 'finalise_config']
