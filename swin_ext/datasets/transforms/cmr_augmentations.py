"""Random changes that cardiac MR scans undergo in practice, computed by MONAI.

They belong between `LoadAnnotations` and `Resize`, where images are small. None changes a label:
a rotated or flipped left ventricle is still one. Each draws from NumPy's global generator, which
MMEngine seeds in every worker, so that a seeded run is repeatable.
"""

from __future__ import annotations

import math

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import TRANSFORMS

INSTANCE_KEYS = ('gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks')


def import_monai_transforms():
    """Return `monai.transforms`; an ImportError says how to get it."""
    try:
        import monai.transforms
    except ImportError as error:
        raise ImportError(
            'The CMR augmentations are computed by MONAI, which is not installed: pip install monai'
        ) from error
    return monai.transforms


class RandomMonaiTransform(BaseTransform):
    """Calls a random transform of MONAI with probability `prob`.

    Args:
        monai_transform: Takes and returns float32 of shape (channels, H, W).
    """

    def __init__(self, monai_transform, prob: float):
        if not 0 <= prob <= 1:
            raise ValueError(f'{type(self).__name__}: prob={prob} must lie in 0..1.')
        self.prob = prob
        self.monai_transform = monai_transform

    def make_monai_transform(self, size: tuple[int, int]):
        """Return the MONAI transform for images of `size` (H, W)."""
        return self.monai_transform

    def transform(self, results: dict) -> dict:
        """Change `results` or leave them as they are."""
        if np.random.random() >= self.prob:
            return results
        self.change(results)
        return results

    def change(self, results: dict) -> None:
        """Apply the MONAI transform."""
        raise NotImplementedError

    def apply(self, planes: np.ndarray) -> np.ndarray:
        """Call MONAI on float32 (channels, H, W)."""
        monai_transform = self.make_monai_transform(planes.shape[1:])
        monai_transform.set_random_state(seed=np.random.randint(2**31))
        return np.asarray(monai_transform(planes))


class RandomIntensity(RandomMonaiTransform):
    """Base of the transforms that change `img` alone.

    What leaves 0..255 is clipped. Where the channels repeat one image they still do so afterwards.
    """

    def change(self, results: dict) -> None:
        image = results['img']
        repeats = image.ndim == 3 and (image[..., :1] == image[..., 1:]).all()
        planes = image[..., :1] if repeats else np.atleast_3d(image)
        planes = self.apply(np.moveaxis(planes, -1, 0).astype(np.float32) / 255)
        changed = np.moveaxis(np.clip(planes, 0, 1) * 255, 0, -1)
        if image.dtype == np.uint8:
            changed = np.rint(changed)
        changed = np.broadcast_to(changed.reshape(*image.shape[:2], -1), np.atleast_3d(image).shape)
        results['img'] = changed.reshape(image.shape).astype(image.dtype)


@TRANSFORMS.register_module()
class CMRRandomBiasField(RandomIntensity):
    """Brighten and darken smoothly across the image, as surface coils do.

    The image is multiplied by exp of a Legendre polynomial (MONAI's `RandBiasField`).

    Args:
        coeff_range: The polynomial's coefficients are drawn from it.
        degree: Of the polynomial.
    """

    def __init__(
        self, coeff_range: tuple[float, float] = (-0.2, 0.2), degree: int = 3, prob: float = 0.5
    ):
        check_range(self, 'coeff_range', coeff_range)
        super().__init__(
            import_monai_transforms().RandBiasField(
                degree=degree, coeff_range=tuple(coeff_range), prob=1.0
            ),
            prob,
        )


@TRANSFORMS.register_module()
class CMRRandomNoise(RandomIntensity):
    """Add the noise of magnitude images (MONAI's `RandRicianNoise`) or white Gaussian noise.

    Args:
        max_std: The standard deviation is drawn from 0 to this fraction of full scale.
        distribution: 'rician' or 'gaussian'.
    """

    def __init__(self, max_std: float = 0.05, distribution: str = 'rician', prob: float = 0.5):
        check_range(self, 'max_std', (0, max_std))
        kinds = dict(rician='RandRicianNoise', gaussian='RandGaussianNoise')
        if distribution not in kinds:
            raise ValueError(
                f'CMRRandomNoise: distribution={distribution!r} must be one of {list(kinds)}.'
            )
        super().__init__(
            getattr(import_monai_transforms(), kinds[distribution])(std=max_std, prob=1.0), prob
        )


@TRANSFORMS.register_module()
class CMRRandomGamma(RandomIntensity):
    """Raise the grey levels, scaled to 0..1, to a random power (MONAI's `RandAdjustContrast`).

    Args:
        gamma_range: The power is drawn from it; below 1 brightens.
    """

    def __init__(self, gamma_range: tuple[float, float] = (0.7, 1.5), prob: float = 0.5):
        check_range(self, 'gamma_range', gamma_range, lowest=0)
        super().__init__(
            import_monai_transforms().RandAdjustContrast(gamma=tuple(gamma_range), prob=1.0), prob
        )


class RandomSpatial(RandomMonaiTransform):
    """Base of the transforms that move `img` and `gt_masks` together.

    The size stays; what comes in from outside is 0. A mask pixel is set where more than half of
    it is covered after bilinear interpolation. Boxes are drawn anew around the masks, and
    instances of which nothing is left in the image are removed.

    Raises:
        TypeError: If there are boxes without bitmap masks to move.
    """

    def change(self, results: dict) -> None:
        image, masks = results['img'], results.get('gt_masks')
        if (
            masks is None
            and 'gt_bboxes' in results
            or not isinstance(masks, (BitmapMasks, type(None)))
        ):
            raise TypeError(
                f'{type(self).__name__} needs bitmap masks to move, but gt_masks is '
                f'{type(masks).__name__}: put LoadAnnotations(with_mask=True, poly2mask=True) '
                'before it.'
            )
        planes = np.moveaxis(np.atleast_3d(image), -1, 0).astype(np.float32)
        channels = len(planes)
        if masks is not None:
            planes = np.concatenate([planes, masks.masks.astype(np.float32)])
        planes = self.apply(planes)  # in one call, as each draws anew

        changed = np.moveaxis(planes[:channels], 0, -1)
        if image.dtype == np.uint8:
            changed = np.clip(np.rint(changed), 0, 255)
        results['img'] = np.ascontiguousarray(changed.reshape(image.shape), image.dtype)
        if masks is not None:
            self._replace_masks(results, planes[channels:] > 0.5)

    def _replace_masks(self, results: dict, moved: np.ndarray) -> None:
        remaining = moved.any(axis=(1, 2))
        results['gt_masks'] = BitmapMasks(moved.astype(np.uint8), *moved.shape[1:])
        for key in INSTANCE_KEYS:
            if key in results:
                results[key] = results[key][remaining]
        if 'gt_bboxes' in results:
            boxes = results['gt_masks'].get_bboxes('hbox')
            results['gt_bboxes'] = (
                boxes.numpy() if isinstance(results['gt_bboxes'], np.ndarray) else boxes
            )


@TRANSFORMS.register_module()
class CMRRandomRotate(RandomSpatial):
    """Rotate about the image's centre (MONAI's `RandRotate`).

    Args:
        angle_range: The angle is drawn from it, in degrees, clockwise.
    """

    def __init__(self, angle_range: tuple[float, float] = (-30.0, 30.0), prob: float = 0.5):
        check_range(self, 'angle_range', angle_range)
        super().__init__(
            import_monai_transforms().RandRotate(
                range_x=tuple(math.radians(angle) for angle in angle_range),
                prob=1.0,
                keep_size=True,
                mode='bilinear',
                padding_mode='zeros',
            ),
            prob,
        )


@TRANSFORMS.register_module()
class CMRRandomElastic(RandomSpatial):
    """Deform smoothly (MONAI's `RandSmoothDeform`); the image's border stays in place.

    Args:
        max_shift: Largest shift along an axis, as a fraction of the image's size.
        control_points: Random shifts per axis; those between are interpolated.

    Raises:
        ValueError: If the shifts could fold the image, max_shift * control_points > 1/3.
    """

    def __init__(self, max_shift: float = 0.04, control_points: int = 5, prob: float = 0.5):
        if not 0 < max_shift * control_points <= 1 / 3:
            raise ValueError(
                f'CMRRandomElastic: max_shift={max_shift} times control_points={control_points} '
                'must lie above 0 and be at most 1/3, or neighbouring points could change places.'
            )
        super().__init__(import_monai_transforms().RandSmoothDeform, prob)
        self.max_shift = max_shift
        self.control_points = control_points

    def make_monai_transform(self, size: tuple[int, int]):
        # A grid from -1 to 1 with aligned corners is the identity where nothing shifts.
        return self.monai_transform(
            spatial_size=size,
            rand_size=(self.control_points,) * 2,
            pad=1,
            prob=1.0,
            field_mode='bicubic',
            align_corners=True,
            def_range=2 * self.max_shift,
            grid_mode='bilinear',
            grid_padding_mode='zeros',
            grid_align_corners=True,
        )


def check_range(owner, name: str, limits: tuple[float, float], lowest: float = -math.inf) -> None:
    """Raise ValueError unless `limits` are two rising numbers from `lowest` on."""
    if len(limits) != 2 or not lowest <= limits[0] <= limits[1] < math.inf:
        raise ValueError(
            f'{type(owner).__name__}: {name}={limits} must be two rising numbers'
            + (f' from {lowest} on.' if lowest > -math.inf else '.')
        )
