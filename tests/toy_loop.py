"""A loop that has nothing but the classes of its data set."""

from types import SimpleNamespace

from mmengine.runner.base_loop import BaseLoop


class ToyLoop(BaseLoop):
    def __init__(self, classes):
        self.dataloader = SimpleNamespace(dataset=SimpleNamespace(metainfo=dict(classes=classes)))

    def run(self):
        pass
