"""mmdet's COCO, evaluated against the very file that was loaded."""

from __future__ import annotations

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.registry import DATASETS

from swin_ext.datasets.errors import DatasetError


@DATASETS.register_module()
class CocoFileDataset(CocoDataset):
    """`CocoDataset` whose metainfo names its annotation file, as `CMRDataset`'s does.

    So `FastCocoMetric` needs no `ann_file` of its own, which would stay what it was where
    `data_root` is another. What the file says is taken as it is: published ones have boxes without
    a height, with which `CMRDataset` would end the run. The metric skips and counts these.

    Raises:
        DatasetError: If `classes` are not in the order of the file's categories, in which upstream
            numbers labels, or not all there.
    """

    def COCOAPI(self, path: str) -> COCO:  # noqa: N802 -- upstream reads the file by this name
        coco = COCO(path)
        classes = list(self._metainfo['classes'])
        names = [each['name'] for each in coco.dataset['categories'] if each['name'] in classes]
        if names != classes:
            raise DatasetError(
                f'{self.ann_file}: metainfo.classes must be categories of the file in their order '
                f'there.\n  metainfo.classes: {classes}\n  in the file:      {names}\n'
                'Give those of the file; or use CMRDataset, whose label i is classes[i].'
            )
        self._metainfo.update(ann_file=self.ann_file, invalid='skip')
        return coco
