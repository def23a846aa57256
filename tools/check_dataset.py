"""Check the data sets and the model of a config before a GPU hour is spent on it.

    python tools/check_dataset.py configs/mask_rcnn_swin-s_cmr.py \\
        --cfg-options data_root=data/cmr_phantom --out-dir work_dirs/check

prints what is wrong, draws class and size histograms and a contact sheet of every split into the
folder, and ends with exit code 1 if there is an error.
"""

from __future__ import annotations

import argparse
import math
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.registry import DATASETS, MODELS, init_default_scope
from pycocotools import mask as mask_utils
from torch import nn
from tqdm import tqdm

from swin_ext.coco.checks import (
    SEVERITIES,
    check_content,
    compare_splits,
    complete_severities,
    spacing_of,
)
from swin_ext.coco.masks import to_rle
from swin_ext.config import finalise_config
from swin_ext.datasets import CMRDataset
from swin_ext.datasets.cmr import select_possible
from swin_ext.utils.hashes import hash_in_name, sha256_of
from swin_ext.visualization.overlays import COLOURS, DPI, TILE_INCHES, draw_tile

SPLITS = ('train', 'val', 'test')
FILE_KEYS = ('checkpoint', 'load_from', 'pretrained')  # whose values are weight files
# Servers that refuse HEAD still answered: the address exists or the download would say more.
HEAD_REFUSED = (403, 405, 501)
MAX_ENTRIES = 3
COLUMNS = 6


@dataclass
class Report:
    """What was found; errors decide about the exit code."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, where: str, text: str) -> None:
        (self.errors if severity == 'error' else self.warnings).append(f'{where}: {text}')

    def print(self) -> None:
        for kind, lines in (('ERROR', self.errors), ('WARNING', self.warnings)):
            for line in lines:
                print(f'{kind}  {line}')
        print(f'\n{len(self.errors)} errors, {len(self.warnings)} warnings')


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


def load_config(path: str, options: dict | None) -> Config:
    """Read a config and complete it as `SwinExtRunner` would."""
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options or {})
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return finalise_config(cfg)


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


def _unwrap(dataset: ConfigDict):
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
        content = dataset.read_content()
    except Exception as error:  # whatever would have ended the run
        report.add('error', name, str(error) or type(error).__name__)
        return None
    images = {image['id']: image for image in content['images']}
    annotations, _ = select_possible(content, images)
    return Split(name, dataset, dict(content, annotations=annotations), severities)


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
    image = dataset.pipeline.transforms[0](dataset.get_data_info(index))['img']
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


def check_model(cfg: Config, classes: tuple[str, ...] | None, report: Report) -> None:
    """Build the model without weights and compare it with the classes and what is frozen."""
    for where, backbone in _dicts_with(cfg.model, 'frozen_stages', 'model'):
        stages = backbone.get('num_stages', 4)
        if not -1 <= backbone['frozen_stages'] <= stages:
            report.add(
                'error',
                where,
                f'frozen_stages={backbone["frozen_stages"]} must lie '
                f'between -1 (none) and {stages} (all).',
            )
            return
    try:
        model = MODELS.build(cfg.model)
    except Exception as error:
        report.add('error', 'model', f'it cannot be built: {error}')
        return
    for name, module in model.named_modules():
        found = getattr(module, 'num_classes', None)
        # An RPN tells objects from background, whatever their class.
        if classes and found not in (None, len(classes)) and not name.endswith('rpn_head'):
            report.add(
                'error',
                f'model.{name}',
                f'num_classes={found}, but there are '
                f'{len(classes)} classes: {list(classes)}. Set num_classes={len(classes)}.',
            )
    check_frozen(model, cfg.get('custom_hooks') or [], report)


def check_frozen(model: nn.Module, hooks: list[dict], report: Report) -> None:
    """Find out whether something is left to train, also at each step of a freezing schedule."""
    from swin_ext.engine.hooks.backbone_freeze_hook import (
        check_schedule,
        frozen_by_patterns,
        frozen_by_stages,
    )

    names = {name for name, _ in model.named_parameters()}
    steps = {'': {name for name, p in model.named_parameters() if not p.requires_grad}}
    for hook in hooks:
        if hook['type'] != 'BackboneFreezeHook':
            continue
        schedule = hook.get('schedule')
        try:
            check_schedule(schedule)
            frozen = (frozen_by_patterns if 'patterns' in schedule[0] else frozen_by_stages)(
                model, schedule
            )
        except ValueError as error:
            report.add('error', 'custom_hooks', str(error))
            continue
        steps = {f' from {entry["at"]} on': part for entry, part in zip(schedule, frozen)}
    for when, frozen in steps.items():
        if frozen >= names:
            report.add('error', 'model', f'all parameters are frozen{when}.')
        sizes = dict((name, p.numel()) for name, p in model.named_parameters())
        total, fixed = sum(sizes.values()), sum(sizes[name] for name in frozen)
        print(f'model: {total / 1e6:.1f} M parameters, {fixed / total:.0%} frozen{when}')


def check_files(cfg: Config, timeout: float, report: Report) -> None:
    """Find weight files that are not there."""
    locations = {}
    for where, part in [('load_from', cfg), *_dicts_with(cfg.get('model') or {}, None, 'model')]:
        for key in FILE_KEYS:
            value = part.get(key)
            if isinstance(value, str):
                locations[value] = where if where == key else f'{where}.{key}'
    for location, where in locations.items():
        problem = find_file_problem(location, timeout)
        if problem:
            report.add('error', where, f'{location} {problem}')


def find_file_problem(location: str, timeout: float) -> str | None:
    """Say why a weight file, local or at an http(s) address, could not be loaded, if so.

    Other addresses, such as torchvision://resnet50, are not looked at.
    """
    parts = urllib.parse.urlsplit(location)
    if '://' not in location:
        path = Path(location).expanduser()
        if not path.is_file():
            return f'does not exist (from {Path.cwd()}).'
        return 'is empty (0 bytes).' if not path.stat().st_size else None
    if parts.scheme not in ('http', 'https'):
        return None
    name = Path(urllib.parse.unquote(parts.path)).name
    cached, digest = Path(torch.hub.get_dir()) / 'checkpoints' / name, hash_in_name(name)
    if cached.is_file():
        damaged = digest and not sha256_of(cached).startswith(digest)
        return f'is damaged where it was saved: delete {cached}.' if damaged else None
    try:
        urllib.request.urlopen(
            urllib.request.Request(location, method='HEAD'), timeout=timeout
        ).close()
    except urllib.error.HTTPError as error:
        if error.code not in HEAD_REFUSED:
            return f'is not there: the server answered {error.code} {error.reason}.'
    except (OSError, ValueError) as error:
        return (
            f'cannot be reached: {getattr(error, "reason", error)}. Download it where there '
            f'is a connection and save it as {cached}.'
        )
    return None


def _dicts_with(part, key: str | None, where: str):
    """Yield place and content of each dict in a config that has a key (or any, for None)."""
    if isinstance(part, dict):
        if key is None or key in part:
            yield where, part
        for name, value in part.items():
            yield from _dicts_with(value, key, f'{where}.{name}')
    elif isinstance(part, (list, tuple)):
        for index, value in enumerate(part):
            yield from _dicts_with(value, key, f'{where}[{index}]')


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


def draw_histograms(splits: list[Split]) -> Figure:
    """Instances per class and split, and how large they are."""
    figure = Figure(figsize=(4.2 + 4.2 * len(splits), 3.6), dpi=DPI, layout='constrained')
    class_axes, *size_axes = np.atleast_1d(figure.subplots(1, 1 + len(splits)))
    names = list(dict.fromkeys(name for split in splits for name in split.classes))
    width = 0.8 / len(splits)
    for number, split in enumerate(splits):
        counts = class_counts(split)
        bars = class_axes.bar(
            np.arange(len(names)) + number * width,
            [counts[name] for name in names],
            width,
            label=split.name,
            color=str(0.25 + 0.5 * number / len(splits)),
        )
        class_axes.bar_label(bars, fontsize=7)
    class_axes.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names)
    class_axes.set(title='instances per class')
    class_axes.margins(y=0.25)  # room for the legend
    class_axes.legend(frameon=False, loc='upper right', ncols=len(splits), fontsize=8)
    for ax, split in zip(size_axes, splits):
        sizes, in_cm2 = instance_sizes(split)
        values = [value for part in sizes.values() for value in part]
        edges = np.linspace(0, max(values, default=1), 30)
        for colour, (name, part) in zip(_colours(len(sizes)), sizes.items()):
            ax.hist(part, edges, histtype='step', linewidth=1.6, color=colour, label=name)
        ax.set(
            title=f'sizes, {split.name}',
            xlabel='area of an instance in ' + ('cm$^2$' if in_cm2 else 'pixels'),
            ylabel='instances',
        )
        ax.legend(frameon=False)
    return figure


def draw_contact_sheet(split: Split, num: int) -> Figure:
    """Images evenly spaced over a split with their masks."""
    indices = np.unique(np.linspace(0, len(split.dataset) - 1, num).round().astype(int))
    columns = min(COLUMNS, len(indices))
    rows = math.ceil(len(indices) / columns)
    colours = dict(enumerate(_colours(len(split.classes))))
    figure = Figure(
        figsize=(columns * TILE_INCHES, rows * (TILE_INCHES + 0.2) + 0.4),
        dpi=DPI,
        facecolor='white',
        layout='constrained',
    )
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, index in zip(axes, indices):
        info = split.dataset.get_data_info(int(index))
        masks = {}
        for instance in info['instances']:
            if 'mask' in instance:
                mask = mask_utils.decode(
                    to_rle(instance['mask'], info['height'], info['width'])
                ).astype(bool)
                label = instance['bbox_label']
                masks[label] = (masks[label][0] | mask if label in masks else mask, 1.0)
        try:
            image = load_image(split.dataset, int(index))
        except Exception:  # check_images has said why
            image = np.zeros((info['height'], info['width']), np.uint8)
        draw_tile(ax, image, {}, masks, colours)
        ax.set_title(f'{info["img_id"]}: {Path(info["img_path"]).name}'[-40:], fontsize=7)
    figure.legend(
        handles=[
            Patch(color=colours[label], label=name) for label, name in enumerate(split.classes)
        ],
        loc='outside upper left',
        ncols=8,
        frameon=False,
        title=f'{split.name}: {len(indices)} of {len(split.dataset)} images',
    )
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('config', help='as for training')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='KEY=VALUE as for training, e.g. data_root=data/mine num_classes=2',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        help='folder of the pictures; work_dirs/check_dataset/CONFIG unless given',
    )
    parser.add_argument('--num', type=int, default=24, help='images of a contact sheet')
    parser.add_argument('--timeout', type=float, default=10.0, help='seconds to wait for a server')
    args = parser.parse_args(argv)
    if args.num < 1:
        parser.error(f'--num is {args.num}: at least one image is needed')
    return args


def main(argv: list[str] | None = None) -> int:
    """Return 1 if there is an error, else 0."""
    args = parse_args(argv)
    report = Report()
    try:
        cfg = load_config(args.config, args.cfg_options)
    except Exception as error:
        print(f'ERROR  {args.config}: {type(error).__name__}: {error}')
        return 1
    out_dir = args.out_dir or Path('work_dirs/check_dataset', Path(args.config).stem)

    loaded = [load_split(name, config, report) for name, config in data_set_configs(cfg).items()]
    splits = [split for split in loaded if split]
    for number, split in enumerate(splits):
        check_split(split, splits[:number], report)
    if 'model' in cfg:
        check_model(cfg, splits[0].classes if splits else None, report)
    check_files(cfg, args.timeout, report)

    print_summary(splits)
    out_dir.mkdir(parents=True, exist_ok=True)
    if splits:
        draw_histograms(splits).savefig(out_dir / 'histograms.png')
    for split in splits:
        draw_contact_sheet(split, args.num).savefig(out_dir / f'contact_sheet_{split.name}.png')
    print(f'pictures: {out_dir}\n')
    report.print()
    return 1 if report.errors else 0


if __name__ == '__main__':
    sys.exit(main())
