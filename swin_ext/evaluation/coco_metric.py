"""COCO metrics whose class order is the data set's."""
from __future__ import annotations

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.registry import METRICS


@METRICS.register_module()
class ClassOrderCocoMetric(CocoMetric):
    """`CocoMetric` for data sets whose label i is `classes[i]`, such as `CMRDataset`.

    mmdet's metric takes label i for the i-th category of the JSON instead. Without `ann_file`
    the data set's own annotation file is the ground truth.

    Raises:
        ValueError: If a class of the data set is not a category of the ground truth.
    """

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        if self._coco_api is None:
            self._coco_api = COCO(self.dataset_meta['ann_file'])
        super().process(data_batch, data_samples)

    def compute_metrics(self, results: list) -> dict[str, float]:
        ids = {category['name']: i for i, category in self._coco_api.cats.items()}
        classes = self.dataset_meta['classes']
        missing = [name for name in classes if name not in ids]
        if missing:
            raise ValueError(f'The ground truth of the metric has no category {missing}; it has '
                             f'{list(ids)}, the data set {list(classes)}.')
        # COCOeval sorts category ids, and mmdet's per-class table trusts that order.
        self.cat_ids = sorted(ids[name] for name in classes)
        self._rank_of_label = np.array([self.cat_ids.index(ids[name]) for name in classes])
        return super().compute_metrics(results)

    def results2json(self, results: list[dict], outfile_prefix: str) -> dict:
        """Write predictions; label i becomes the category id of `classes[i]`."""
        results = [{**r, 'labels': self._rank_of_label[r['labels']]} for r in results]
        return super().results2json(results, outfile_prefix)
