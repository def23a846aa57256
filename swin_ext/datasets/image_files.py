"""Whether the image files of a data set are where and what its annotation file says."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Sequence

from PIL import Image, ImageOps
from tqdm import tqdm

from swin_ext.datasets.errors import DatasetError
from swin_ext.images.reading import ImageReadError, read_frame

PIL_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')


def place_in_file(image: dict) -> dict:
    """Return `slice_index` and `frame_index` of an image entry as far as it has them."""
    return {key: image[key] for key in ('slice_index', 'frame_index') if image.get(key) is not None}


def find_unreadable(images: Sequence[dict], folder: str, decode: bool, name: str) -> dict[int, str]:
    """Say by image id which image files cannot be used.

    Args:
        images: Entries of an annotation file.
        folder: Their `file_name` is relative to it.
        decode: Whether to read each file; otherwise only whether it is there.
        name: Of the annotation file, for the progress bar.

    Raises:
        DatasetError: If not a single file is there.
    """
    problems, missing = {}, 0
    listings = {}  # one listing per folder is far cheaper than one stat per image
    for image in tqdm(images, f'Decoding images of {name}', disable=not decode):
        path = osp.join(folder, image['file_name'])
        parent, base = osp.split(path)
        if parent not in listings:
            listings[parent] = _list_folder(parent)
        if base not in listings[parent]:
            problems[image['id']] = f'image {image["id"]}: {path} does not exist'
            missing += 1
        elif decode:
            problem = find_image_problem(
                path, image['width'], image['height'], **place_in_file(image)
            )
            if problem:
                problems[image['id']] = f'image {image["id"]}: {problem}'
    if images and missing == len(images):
        raise DatasetError(_describe_all_missing(images, folder, name))
    return problems


def _list_folder(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder or '.'))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DatasetError(f'The image folder {folder} cannot be read: {error}') from error


def _describe_all_missing(images: Sequence[dict], folder: str, name: str) -> str:
    first = osp.abspath(osp.join(folder, images[0]['file_name']))
    existing = osp.dirname(first)
    while not osp.isdir(existing):
        existing = osp.dirname(existing)
    return (
        f'{name}: none of its {len(images)} images exists. The first should be at\n  {first}\n'
        f'of which the folder {existing} is there.'
    )


def find_image_problem(
    path: str,
    width: int,
    height: int,
    slice_index: int | None = None,
    frame_index: int | None = None,
) -> str | None:
    """Say what is wrong with an image file that should have this size in pixels, if anything."""
    try:
        if path.lower().endswith(PIL_SUFFIXES):
            with Image.open(path) as image:
                image.load()
                found_width, found_height = ImageOps.exif_transpose(image).size
        else:
            found_height, found_width = read_frame(
                path, slice_index=slice_index, frame_index=frame_index
            ).shape
    except (OSError, SyntaxError) as error:  # also PIL.UnidentifiedImageError
        return f'{path} cannot be read ({error})'
    except (ImageReadError, ImportError) as error:
        return str(error)
    if (found_width, found_height) != (width, height):
        return size_problem(path, found_width, found_height, width, height)
    return None


def size_problem(path: str, found_width: int, found_height: int, width: int, height: int) -> str:
    """Message for an image of another size than the JSON says."""
    return f'{path} is {found_width} x {found_height} px, but the JSON says {width} x {height}'
