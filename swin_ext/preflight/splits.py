"""The data sets of a config: loaded as for training, with all that is wrong with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS
from pycocotools import mask as mask_utils
from tqdm import tqdm

from swin_ext.coco.checks import (
    SEVERITIES,
    check_content,
    compare_splits,
    complete_severities,
)
from swin_ext.coco.masks import to_rle
from swin_ext.coco.spacing import spacing_of
from swin_ext.datasets import CMRDataset
from swin_ext.preflight.report import Report

SPLITS = ('train', 'val', 'test')
MAX_ENTRIES = 3


@dataclass
class Split:
    """A data set that could be loaded, with the entries of its file that are possible."""

    name: str
    dataset: CMRDataset
    content: dict
    severities: dict[str, str]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.metainfo['classes']


def data_set_configs(cfg: Config) -> dict[str, ConfigDict]:
    """Config of each data set; those inside a wrapper are numbered, equal ones are listed once."""
    configs = {}
    for split in SPLITS:
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        found = list(_unwrap(dataset)) if dataset else []
        for number, config in enumerate(found):
            if config not in configs.values():
                configs[split if len(found) == 1 else f'{split}{number}'] = config
    return configs


def _unwrap(dataset: ConfigDict) -> Iterator[ConfigDict]:
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    if not inner:
        yield dataset
    for child in inner:
        yield from _unwrap(child)


def load_split(name: str, config: ConfigDict, report: Report) -> Split | None:
    """Build a data set without its own checks, whose findings would end the first of them."""
    config = config.copy()
    try:
        severities = complete_severities(config.pop('checks', None))
        config.pop('other_splits', None)
        dataset = DATASETS.build({**config, 'lazy_init': True})
        if not isinstance(dataset, CMRDataset):
            report.add(
                'warn', name, f'{type(dataset).__name__} is no CMRDataset; it is not checked.'
            )
            return None
        dataset.severities = dict.fromkeys(SEVERITIES, 'ignore')
        dataset.full_init()
        content = dataset.read_file().content
    except Exception as error:  # whatever would have ended the run
        report.add('error', name, str(error) or type(error).__name__)
        return None
    return Split(name, dataset, content, severities)


def check_split(split: Split, others: list[Split], report: Report) -> None:
    """Run the checks of annotations, against the other splits, and of every image."""
    findings = check_content(split.content, split.severities)
    for other in others:
        findings += compare_splits(split.content, other.content, other.name, split.severities)
        if split.classes != other.classes:
            report.add(
                'error',
                split.name,
                f'its classes are {list(split.classes)}, but those of '
                f'{other.name} {list(other.classes)}. Set the same metainfo.classes for '
                'both.',
            )
    for finding in findings:
        report.add(finding.severity, split.name, finding.describe(MAX_ENTRIES))
    check_images(split, report)
    try:
        split.dataset[0]
    except Exception as error:
        report.add('error', split.name, f'its pipeline fails: {error}')


def load_image(dataset: CMRDataset, index: int) -> np.ndarray:
    """Grey image as the model sees it, uint8 of shape (H, W): the middle one of the channels."""
    results = dataset.get_data_info(index)
    for transform in dataset.pipeline.transforms:
        results = transform(results)
        if 'img' in results:
            break
    image = results['img']
    middle = image[..., image.shape[-1] // 2] if image.ndim == 3 else image
    return np.clip(middle, 0, 255).astype(np.uint8)


def check_images(split: Split, report: Report) -> None:
    """Load every image once: unreadable ones are errors, those without contrast warnings."""
    broken, constant = [], []
    for index in tqdm(
        range(len(split.dataset)), f'Loading the images of {split.name}', unit='image'
    ):
        info = split.dataset.get_data_info(index)
        try:
            image = load_image(split.dataset, index)
        except Exception as error:
            broken.append(f'image {info["img_id"]} ({info["img_path"]}): {error}')
            continue
        if image.shape != (info['height'], info['width']):
            broken.append(
                f'image {info["img_id"]} ({info["img_path"]}): {image.shape[1]} x '
                f'{image.shape[0]} px, but the JSON says {info["width"]} x '
                f'{info["height"]}'
            )
        elif image.min() == image.max():
            constant.append(
                f'image {info["img_id"]} ({info["img_path"]}): all pixels are {image.min()}'
            )
    for severity, entries, text in (
        ('error', broken, 'images cannot be loaded'),
        ('warn', constant, 'images show nothing'),
    ):
        if entries:
            shown = entries[:MAX_ENTRIES]
            if len(entries) > MAX_ENTRIES:
                shown.append(f'... and {len(entries) - MAX_ENTRIES} more')
            report.add(severity, split.name, '\n    '.join([f'{len(entries)} {text}.', *shown]))


def print_summary(splits: list[Split]) -> None:
    """One line for each split and a count for each class."""
    for split in splits:
        images = split.content['images']
        patients = {image['patient_id'] for image in images if image.get('patient_id') is not None}
        spacings = np.array([s for s in map(spacing_of, images) if s])
        counts = class_counts(split)
        print(
            f'{split.name}: {split.dataset.ann_file}\n'
            f'  {len(images)} images, of which {len(split.dataset)} are used; '
            f'{len(patients) or "unknown"} patients'
            + ('' if patients else ' (no patient_id, so splits cannot be compared)')
            + '; pixels of '
            + (
                f'{spacings.min():.3g} to {spacings.max():.3g} mm'
                if len(spacings)
                else 'unknown size'
            )
            + '\n  '
            + ', '.join(f'{name} {counts[name]}' for name in split.classes)
        )


def class_counts(split: Split) -> Counter:
    """Instances of each class in use."""
    return Counter(
        split.classes[instance['bbox_label']]
        for index in range(len(split.dataset))
        for instance in split.dataset.get_data_info(index)['instances']
    )


def instance_sizes(split: Split) -> tuple[dict[str, list[float]], bool]:
    """Areas of the masks of each class in cm2, or in pixels unless all images have a spacing."""
    spacings = {image['id']: spacing_of(image) for image in split.content['images']}
    in_cm2 = all(spacings.values())
    images = {image['id']: image for image in split.content['images']}
    names = {category['id']: category['name'] for category in split.content['categories']}
    sizes = {name: [] for name in split.classes}
    for annotation in split.content['annotations']:
        name = names[annotation['category_id']]
        if name in sizes and annotation.get('segmentation'):
            image = images[annotation['image_id']]
            height, width = spacings[image['id']] if in_cm2 else (1, 1)
            pixels = int(
                mask_utils.area(to_rle(annotation['segmentation'], image['height'], image['width']))
            )
            sizes[name].append(pixels * height * width / (100 if in_cm2 else 1))
    return sizes, in_cm2
