"""Command line of `tools/check_dataset.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check the data sets and the model of a config before a GPU hour is spent.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('config', help='as for training')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        default=[],
        metavar='KEY=VALUE',
        help='as for training, e.g. data_root=data/mine num_classes=2',
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


def load_config(path: str, options: list[str]) -> Config:
    """Read a config and complete it as the runner would.

    Raises:
        ConfigError: If a key is unknown, or two contradict each other.
        Exception: Whatever the config itself raises when it is run.
    """
    from mmengine.config import Config, DictAction
    from mmengine.registry import init_default_scope

    import swin_ext.registration  # noqa: F401
    from swin_ext.config import finalise_config

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='*', action=DictAction)
    cfg = Config.fromfile(path)
    if options:
        cfg.merge_from_dict(parser.parse_args(['--cfg-options', *options]).cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return finalise_config(cfg)


def main(argv: list[str] | None = None) -> int:
    """Return 1 if there is an error, else 0."""
    args = parse_args(argv)
    try:
        cfg = load_config(args.config, args.cfg_options)
    except Exception as error:  # a config is a program
        whole = f'{args.config}: {type(error).__name__}: {error}'
        for problem in getattr(error, 'problems', None) or [whole]:  # of a ConfigError
            print(f'ERROR  {problem}')
        return 1
    from swin_ext.preflight.model import check_files, check_model
    from swin_ext.preflight.pictures import draw_contact_sheet, draw_histograms
    from swin_ext.preflight.report import Report
    from swin_ext.preflight.splits import check_split, data_set_configs, load_split, print_summary

    report = Report()
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
