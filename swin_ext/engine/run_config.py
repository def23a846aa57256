"""The config of a run, whose text is formatted once."""

from __future__ import annotations

from mmengine.config import Config


class RunConfig(Config):
    """A config whose `pretty_text` is made once for as long as its content stays.

    MMEngine asks for the text at five places of a start and in each checkpoint, and yapf takes
    some tenths of a second to lay it out (https://github.com/open-mmlab/mmcv/issues/2466).
    """

    _formatted = '', ''  # content, its text

    @classmethod
    def of(cls, cfg: Config) -> RunConfig:
        """The same config, which shares its content with `cfg`."""
        own = cls.__new__(cls)
        own.__dict__.update(cfg.__dict__)
        return own

    @property
    def pretty_text(self) -> str:
        content = repr(self.to_dict())
        if content != self._formatted[0]:
            # Config takes attributes that are set as keys of its content.
            self.__dict__['_formatted'] = content, super().pretty_text
        return self._formatted[1]
