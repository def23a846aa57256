"""Write a synthetic short-axis cardiac MR (CMR) data set in COCO format.

Clinical CMR may not be shipped with the project, so its demo runs on simulated patients: a left
ventricle (LV), the myocardial ring around it (Myo) and the right ventricle (RV) in a thorax with
balanced steady-state free precession (bSSFP) contrast, cut into slices from base to apex at end
diastole (ED) and end systole (ES).

    python tools/make_cmr_phantom.py --out data/cmr_phantom --patients 40 --seed 0
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from scipy import fft
from tqdm import tqdm

CATEGORIES = [dict(id=1, name='LV'), dict(id=2, name='Myo'), dict(id=3, name='RV')]
LV, MYO, RV = (category['id'] for category in CATEGORIES)
PHASES = ('ED', 'ES')

PARAMETERS_FILE = 'phantom.json'
# Raised whenever the same parameters give other pixels, so that an older data set is not reused.
PHANTOM_VERSION = 1

DEFAULT_FIELD_OF_VIEW_MM = 230.4
MIN_FIELD_OF_VIEW_MM = 200.0  # the largest heart, off centre, still fits
MIN_SIZE_PX = 64
MAX_SPACING_MM = 3.6  # beyond it the thinnest walls are not two pixels wide
MAX_SLICE_GAP_MM = 20.0
MIN_INSTANCE_AREA_PX = 20

# The anatomy is drawn on a grid this many times finer than the image. Cutting the outer k-space of
# that grid away, as a scanner never samples it, gives the point spread and the Gibbs ringing.
SUPERSAMPLING = 2
CONTOUR_ANGLES = 1440
ROUNDING = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SUPERSAMPLING + 1,) * 2)


@dataclass(frozen=True)
class PhantomParameters:
    """What determines the bytes of a data set; lengths in mm, ``size`` in px."""

    patients: int = 40
    val_fraction: float = 0.25
    seed: int = 0
    size: int = 128
    spacing_mm: float = DEFAULT_FIELD_OF_VIEW_MM / 128
    slice_gap_mm: float = 8.0
    version: int = PHANTOM_VERSION

    def check(self) -> None:
        """Raise ValueError naming the first parameter no data set can be made with."""
        if self.patients < 2:
            raise ValueError(
                f'--patients is {self.patients}: at least 2 are needed, one to train '
                'on and one to hold out'
            )
        if not 0 < self.val_fraction < 1:
            raise ValueError(
                f'--val-fraction is {self.val_fraction}: it must lie between 0 and 1, both excluded'
            )
        if self.seed < 0:
            raise ValueError(f'--seed is {self.seed}: it must not be negative')
        if self.size < MIN_SIZE_PX:
            raise ValueError(f'--size is {self.size}: at least {MIN_SIZE_PX} px are needed')
        if not 0 < self.spacing_mm <= MAX_SPACING_MM:
            raise ValueError(
                f'--spacing-mm is {self.spacing_mm}: it must lie in '
                f'(0, {MAX_SPACING_MM:g}], so that the heart wall is some pixels wide'
            )
        field_of_view = self.size * self.spacing_mm
        if field_of_view < MIN_FIELD_OF_VIEW_MM:
            raise ValueError(
                f'--size {self.size} px times --spacing-mm {self.spacing_mm:g} is a '
                f'field of view of {field_of_view:g} mm; the heart needs '
                f'{MIN_FIELD_OF_VIEW_MM:g} mm: raise one of the two'
            )
        if not 0 < self.slice_gap_mm <= MAX_SLICE_GAP_MM:
            raise ValueError(
                f'--slice-gap-mm is {self.slice_gap_mm}: it must lie in '
                f'(0, {MAX_SLICE_GAP_MM:g}], so that each heart gets several slices'
            )

    def num_val(self) -> int:
        """Number of held-out patients, at least one, with at least one left to train on."""
        return min(max(round(self.patients * self.val_fraction), 1), self.patients - 1)


@dataclass(frozen=True)
class Contour:
    """Relative radius over the angle, ``1 + sum_k amplitude_k cos(order_k angle - phase_k)``."""

    orders: tuple[int, ...]
    amplitudes: tuple[float, ...]
    phases: tuple[float, ...]

    @classmethod
    def sample(cls, rng: np.random.Generator, amplitudes: dict[int, float]) -> Contour:
        """Draw amplitudes up to those given per order (relative to the radius) and phases."""
        return cls(
            tuple(amplitudes),
            tuple(rng.uniform(0, limit) for limit in amplitudes.values()),
            tuple(rng.uniform(0, 2 * np.pi) for _ in amplitudes),
        )

    def __call__(self, angle: np.ndarray) -> np.ndarray:
        """Relative radius at ``angle``, in rad from -pi to pi, same shape."""
        # A table, as one cosine per order and pixel takes far longer. Negative angles index it
        # from its end.
        table_angle = np.linspace(0, 2 * np.pi, CONTOUR_ANGLES, endpoint=False)
        table = np.ones(CONTOUR_ANGLES)
        for order, amplitude, phase in zip(self.orders, self.amplitudes, self.phases):
            table += amplitude * np.cos(order * table_angle - phase)
        return table.astype(np.float32)[(angle * (CONTOUR_ANGLES / (2 * np.pi))).astype(np.int32)]


@dataclass(frozen=True)
class Patient:
    """One simulated patient: lengths in mm, angles in rad, signals as fractions of full scale.

    The patient's axes are x to the left of the patient, y to the back; unrotated, these are the
    image's x and y. All positions but ``heart_centre`` are relative to the LV's centre.
    """

    # Left ventricle at ED, radius and wall at the base.
    lv_radius: float
    lv_length: float
    lv_wall: float
    ejection_fraction: float
    lv_contour: Contour
    wall_contour: Contour
    heart_centre: tuple[float, float]  # in the image, from its centre
    rotation: float
    tilt: tuple[float, float]  # in-plane shift of the LV centre per mm towards the base
    apex_to_first_plane: float  # fraction of the slice gap
    papillary_angles: tuple[float, float]
    papillary_radii: tuple[float, float]
    # Right ventricle; its depth is the extent beyond the septum at ED.
    septum_angle: float
    rv_depth: float
    rv_apex: float  # fraction of the LV length below which there is no RV
    rv_contour: Contour
    # Thorax.
    body_offset: tuple[float, float]
    body_axes: tuple[float, float]
    body_contour: Contour
    fat_thickness: float
    chest_wall_thickness: float
    epicardial_fat: Contour
    diaphragm_gap: float
    liver_edge: float
    stomach_signal: float
    aorta_offset: tuple[float, float]
    aorta_radius: float
    # Scanner.
    blood_signal: float
    muscle_signal: float
    gain: float
    coil_decay: float
    noise_sigma: float

    def lv_shape(self, z: float, phase: str) -> tuple[float, float, float]:
        """LV at the plane ``z`` mm above the apex.

        The cavity is half a prolate ellipsoid, of volume 2/3 pi radius^2 length. The ejection
        fraction fixes its volume at ES, the shortening of the long axis its length; the wall
        thickens as the muscle, being incompressible, keeps its volume.

        Returns:
            Relative height between apex (0) and base (1); mean radius of the cavity and mean wall
            thickness in mm. A plane of height above 1 does not cut the LV.
        """
        radius, length, wall = self.lv_radius, self.lv_length, self.lv_wall
        if phase == 'ES':
            shortening = 1 - 0.25 * self.ejection_fraction
            muscle_area = ((radius + wall) ** 2 - radius**2) / shortening
            radius *= math.sqrt((1 - self.ejection_fraction) / shortening)
            length *= shortening
            wall = math.sqrt(radius**2 + muscle_area) - radius
        height = z / length
        profile = math.sqrt(1 - (1 - height) ** 2)
        return height, radius * profile, wall * (0.85 + 0.15 * height)

    def planes(self, slice_gap_mm: float) -> list[float]:
        """Slice positions in mm above the apex, base first, that cut the LV at ED."""
        first = self.apex_to_first_plane * slice_gap_mm
        count = int((self.lv_length - first) // slice_gap_mm) + 1
        return [first + index * slice_gap_mm for index in reversed(range(count))]


def simulate_patient(rng: np.random.Generator) -> Patient:
    """Draw one patient's anatomy and scanner settings.

    Sizes follow adult reference values for CMR (Kawel-Boehm et al., J Cardiovasc Magn Reson 2020,
    22:87), with walls at their thick end so that the ring stays several pixels wide.
    """
    uniform = rng.uniform
    septum_angle = math.radians(uniform(180, 215))
    body_depth = uniform(106, 122)
    return Patient(
        lv_radius=float(np.clip(rng.normal(26, 1.8), 21.6, 28.8)),
        lv_length=uniform(76, 92),
        lv_wall=uniform(9, 11.5),
        ejection_fraction=uniform(0.35, 0.70),
        lv_contour=Contour.sample(rng, {2: 0.09, 3: 0.05, 4: 0.02, 5: 0.015}),
        wall_contour=Contour.sample(rng, {1: 0.06, 2: 0.04, 3: 0.03}),
        heart_centre=(uniform(0, 22), uniform(-18, 10)),
        rotation=math.radians(uniform(-40, 25)),
        tilt=(uniform(-0.12, 0.12), uniform(-0.12, 0.12)),
        apex_to_first_plane=uniform(0.35, 0.85),
        papillary_angles=(
            septum_angle + math.radians(uniform(110, 140)),
            septum_angle + math.radians(uniform(215, 250)),
        ),
        papillary_radii=(uniform(2.8, 4.8), uniform(2.8, 4.8)),
        septum_angle=septum_angle,
        rv_depth=uniform(26, 38),
        rv_apex=uniform(0.14, 0.26),
        rv_contour=Contour.sample(rng, {2: 0.04, 3: 0.06, 4: 0.04}),
        body_offset=(uniform(-40, -15), body_depth - uniform(72, 86)),
        body_axes=(uniform(135, 165), body_depth),
        body_contour=Contour.sample(rng, {2: 0.02, 3: 0.02, 5: 0.01}),
        fat_thickness=uniform(6, 18),
        chest_wall_thickness=uniform(12, 18),
        epicardial_fat=Contour.sample(rng, {1: 0.9, 2: 0.8, 3: 0.5, 5: 0.4}),
        diaphragm_gap=uniform(-12, 2),
        liver_edge=uniform(-10, 45),
        stomach_signal=uniform(0.12, 0.8),
        aorta_offset=(uniform(5, 30), uniform(64, 80)),
        aorta_radius=uniform(9.5, 13),
        blood_signal=uniform(0.72, 0.88),
        muscle_signal=uniform(0.19, 0.27),
        gain=uniform(0.85, 1.1),
        coil_decay=uniform(130, 300),
        noise_sigma=uniform(0.012, 0.028),
    )


def add_rician_noise(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Magnitude of the signal plus complex white noise (Gudbjartsson and Patz, MRM 1995, 34:910).

    Args:
        signal: Real signal, signed, any shape.
        sigma: Standard deviation of the noise in each of the two channels, unit of ``signal``.
        rng: Source of the noise.

    Returns:
        Non-negative magnitude. Where the signal is 0 it is Rayleigh distributed, with the mean
        ``sigma sqrt(pi / 2)``.
    """
    return np.hypot(
        signal + sigma * rng.standard_normal(signal.shape),
        sigma * rng.standard_normal(signal.shape),
    )


def acquire(anatomy: np.ndarray) -> np.ndarray:
    """Sample the k-space of the fine grid as a scanner would: its centre, Fermi filtered.

    Args:
        anatomy: Signal on the fine grid, shape (SUPERSAMPLING * N, SUPERSAMPLING * N).

    Returns:
        Signal on the image grid, shape (N, N), sample i being the fine sample SUPERSAMPLING * i.
    """
    size = anatomy.shape[0] // SUPERSAMPLING
    frequency = fft.fftfreq(size, 1 / size).astype(int)
    k_space = fft.fft2(anatomy)[np.ix_(frequency, frequency)]
    radius = np.hypot(*np.meshgrid(frequency, frequency)) / (size / 2)
    fermi = 1 / (1 + np.exp((radius - 0.85) / 0.06))
    return fft.ifft2(k_space * fermi).real / SUPERSAMPLING**2


def render_slice(
    patient: Patient, z: float, phase: str, size: int, spacing_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Image and label map of one short-axis slice.

    Papillary muscles and trabeculae are dark in the image and belong to the cavity in the labels,
    the convention of most CMR volumetry.

    Args:
        patient: Whom to image.
        z: Height of the plane above the apex at ED in mm.
        phase: ``'ED'`` or ``'ES'``.
        size: Width and height in px.
        spacing_mm: Width and height of a pixel in mm.
        rng: Source of the tissue texture and the noise.

    Returns:
        uint8 image and uint8 labels (0 background, else category id), both of shape (size, size).
        Structures of fewer than ``MIN_INSTANCE_AREA_PX`` px are in neither.
    """
    # Each fine sample SUPERSAMPLING * i lies on the centre of pixel i.
    fine_size = size * SUPERSAMPLING
    pixel = np.arange(fine_size, dtype=np.float32) / SUPERSAMPLING + 0.5
    x, y = np.meshgrid((pixel - size / 2) * spacing_mm, (pixel - size / 2) * spacing_mm)

    height, radius, wall = patient.lv_shape(z, phase)
    heart_x, heart_y = (
        centre + tilt * (z - patient.lv_length / 2)
        for centre, tilt in zip(patient.heart_centre, patient.tilt)
    )
    x, y = x - heart_x, y - heart_y
    cos, sin = math.cos(patient.rotation), math.sin(patient.rotation)
    x, y = x * cos + y * sin, y * cos - x * sin

    from_lv = np.hypot(x, y)
    angle = np.arctan2(y, x)
    endocardium = radius * patient.lv_contour(angle)
    if _image_area(from_lv < endocardium) < MIN_INSTANCE_AREA_PX:
        radius, endocardium = 0.0, np.zeros_like(endocardium)
    epicardium = endocardium + wall * patient.wall_contour(angle)
    cavity = from_lv < endocardium
    muscle = (from_lv < epicardium) & ~cavity
    if _image_area(muscle) < MIN_INSTANCE_AREA_PX:
        epicardium, muscle = np.full_like(epicardium, -np.inf), np.zeros_like(muscle)
    outside_rv = _distance_outside_rv(patient, x, y, height, radius + wall, phase)
    rv = (outside_rv < 0) & (from_lv >= epicardium)
    # The cusps at the septum are rounded: narrower than a pixel, they would come off in pieces.
    rv = cv2.morphologyEx(rv.astype(np.uint8), cv2.MORPH_OPEN, ROUNDING).astype(bool)
    if _image_area(rv) < MIN_INSTANCE_AREA_PX:
        rv = np.zeros_like(rv)
        outside_rv = np.full_like(outside_rv, np.inf)

    def noise(correlation_mm: float) -> np.ndarray:
        return _smooth_noise(rng, fine_size, correlation_mm * SUPERSAMPLING / spacing_mm)

    signal = _thorax(patient, x, y, height, radius + wall, noise)
    _add_pericardium(patient, signal, np.minimum(from_lv - epicardium, outside_rv), angle)

    trabeculae = noise(3.5)
    blood = patient.blood_signal * (1 + 0.05 * noise(6))
    signal[rv] = 0.88 * blood[rv]
    signal[rv & (trabeculae > 0.7) & (outside_rv > -9)] *= 0.55
    signal[muscle] = patient.muscle_signal * (1 + 0.10 * trabeculae[muscle])
    signal[cavity] = blood[cavity]
    signal[cavity & (trabeculae > 0.9) & (from_lv > endocardium - 3.5)] *= 0.45
    if 0.25 < height < 0.75:
        for papillary_angle, papillary_radius in zip(
            patient.papillary_angles, patient.papillary_radii
        ):
            distance = np.hypot(
                x - 0.74 * radius * math.cos(papillary_angle),
                y - 0.74 * radius * math.sin(papillary_angle),
            )
            papillary = cavity & (distance < papillary_radius * (1 + 0.3 * trabeculae))
            signal[papillary] = 1.2 * patient.muscle_signal

    # The surface coils lie on the chest: what is anterior and near is brighter.
    coil = np.exp(-(0.45 * x + 0.9 * y) / patient.coil_decay) * (1 + 0.06 * noise(90))
    image = add_rician_noise(acquire(patient.gain * coil * signal), patient.noise_sigma, rng)

    labels = np.zeros((size, size), np.uint8)
    for category, mask in ((RV, rv), (MYO, muscle), (LV, cavity)):
        labels[mask[::SUPERSAMPLING, ::SUPERSAMPLING]] = category
    return np.clip(np.rint(255 * image), 0, 255).astype(np.uint8), labels


def _image_area(fine_mask: np.ndarray) -> int:
    """Number of image pixels whose centre is in a mask on the fine grid."""
    return int(np.count_nonzero(fine_mask[::SUPERSAMPLING, ::SUPERSAMPLING]))


def _distance_outside_rv(
    patient: Patient,
    x: np.ndarray,
    y: np.ndarray,
    height: float,
    lv_outer_radius: float,
    phase: str,
) -> np.ndarray:
    """Approximate distance in mm outside the RV's outline (negative inside), inf without an RV.

    The outline is an ellipse next to the LV which reaches ``depth`` beyond the septum; the part of
    it under the LV is not RV, which leaves the crescent.
    """
    if height < patient.rv_apex:
        return np.full_like(x, np.inf)
    growth = math.sqrt((height - patient.rv_apex) / (1 - patient.rv_apex))
    depth = patient.rv_depth * (0.3 + 0.7 * min(growth, 1.0))
    if phase == 'ES':
        depth *= 1 - 0.7 * patient.ejection_fraction
    depth = max(depth, 8.0)

    centre = 0.9 * lv_outer_radius
    along_axis = lv_outer_radius + depth - centre
    across_axis = lv_outer_radius * (0.78 + 0.30 * min(height, 1.0))
    cos, sin = math.cos(patient.septum_angle), math.sin(patient.septum_angle)
    along = x * cos + y * sin - centre
    across = y * cos - x * sin
    contour = patient.rv_contour(np.arctan2(across, along))
    relative = np.hypot(along / along_axis, across / across_axis) / contour
    distance = np.hypot(along, across)
    return distance - distance / np.maximum(relative, 1e-3)


def _add_pericardium(
    patient: Patient, signal: np.ndarray, outside_heart: np.ndarray, angle: np.ndarray
) -> None:
    """Draw the thin RV wall and the epicardial fat around the heart into ``signal``."""
    # Most of the fat is in front of the RV.
    fat_thickness = 3 + 5 * np.maximum(np.cos(angle - patient.septum_angle - 0.6), -0.4)
    fat_thickness *= np.maximum(patient.epicardial_fat(angle), 0)
    signal[outside_heart < fat_thickness] = -0.55
    signal[outside_heart < 2.5] = patient.muscle_signal


def _thorax(
    patient: Patient,
    x: np.ndarray,
    y: np.ndarray,
    height: float,
    lv_outer_radius: float,
    noise: Callable[[float], np.ndarray],
) -> np.ndarray:
    """Signal of all but the heart. Fat is negative.

    In bSSFP fat and water precess in opposition, so that where they meet within a pixel their
    signals cancel: the magnitude of a signed sum shows the dark boundary lines of real images.
    """
    fine, coarse, broad = noise(3), noise(10), noise(30)

    body_x, body_y = x - patient.body_offset[0], y - patient.body_offset[1]
    body_angle = np.arctan2(body_y, body_x)
    relative = np.hypot(body_x / patient.body_axes[0], body_y / patient.body_axes[1])
    relative /= patient.body_contour(body_angle)
    from_centre = np.hypot(body_x, body_y)
    depth = from_centre / np.maximum(relative, 1e-3) - from_centre
    # Subcutaneous fat is thicker at the sides than in front of the sternum.
    fat_thickness = patient.fat_thickness * (0.8 + 0.6 * np.cos(body_angle) ** 2) + 1.5 * broad
    lung_depth = fat_thickness + patient.chest_wall_thickness + 1.5 * coarse

    signal = np.zeros_like(x)
    signal[depth > 0] = 0.25  # skin
    fat = (depth > 1.5) & (depth < fat_thickness)
    signal[fat] = -0.75 - 0.06 * coarse[fat]
    chest_wall = (depth >= fat_thickness) & (depth < lung_depth)
    signal[chest_wall] = 0.17 + 0.03 * fine[chest_wall]
    rib_depth = np.abs(depth - fat_thickness - 0.5 * patient.chest_wall_thickness + 2 * coarse)
    ribs = chest_wall & (rib_depth < 3.5) & (np.cos(13 * body_angle + 2 * broad) > 0.1)
    signal[ribs] = -0.35 - 0.08 * fine[ribs]
    inside = depth >= lung_depth
    signal[inside] = np.clip(0.04 + 0.012 * broad[inside], 0.01, None)
    # Pulmonary vessels thin out from the hilum, behind the heart, to the periphery.
    from_hilum = np.hypot(x - 15, y - 35)
    vessels = inside & (0.7 * fine + 0.7 * coarse > 1.3 + from_hilum / 90)
    signal[vessels] = 0.35

    # Towards the apex the planes dip deeper below the diaphragm.
    diaphragm = lv_outer_radius + patient.diaphragm_gap + 18 * min(height, 1.0)
    diaphragm = diaphragm + 0.003 * (x + 25) ** 2 + 3 * broad
    abdomen = inside & (y > diaphragm)
    signal[abdomen] = -0.5 - 0.06 * coarse[abdomen]
    liver = abdomen & (y > diaphragm + 2.5)
    liver &= x < patient.liver_edge - 0.4 * (y - 60) + 6 * broad
    signal[liver] = patient.muscle_signal * (1.25 + 0.06 * fine[liver])
    signal[liver & (0.6 * fine + 0.8 * coarse > 1.9)] = 0.5  # hepatic vessels
    stomach = np.hypot((x - patient.liver_edge - 34) / 32, (y - diaphragm - 22) / 19)
    stomach = abdomen & (stomach < 1 + 0.12 * broad)
    signal[stomach] = patient.stomach_signal * (1 + 0.10 * coarse[stomach])

    aorta_x, aorta_y = x - patient.aorta_offset[0], y - patient.aorta_offset[1]
    from_spine = np.hypot(aorta_x + 30, (aorta_y - 26) / 0.85) + 1.5 * broad + coarse
    signal[inside & (from_spine < 32)] = 0.18
    signal[inside & (from_spine < 23)] = -0.35
    vertebra = inside & (from_spine < 21)
    signal[vertebra] = 0.3 + 0.05 * fine[vertebra]
    from_aorta = np.hypot(aorta_x, aorta_y)
    signal[inside & (from_aorta < patient.aorta_radius + 1.8)] = 0.15
    signal[inside & (from_aorta < patient.aorta_radius)] = 0.95 * patient.blood_signal
    return signal


def _smooth_noise(rng: np.random.Generator, size: int, correlation_px: float) -> np.ndarray:
    """Noise of about unit variance and the given correlation length, shape (size, size)."""
    cells = max(4, math.ceil(size / correlation_px))
    coarse = rng.standard_normal((cells, cells), dtype=np.float32)
    return 1.25 * cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def render_patient(
    index: int, parameters: PhantomParameters
) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """All slices of one patient, at ED and then at ES, base first.

    A patient depends on the seed and its own index alone, so a larger data set begins with the
    patients of a smaller one. Slices are numbered at ED; at ES, when the base has moved towards
    the apex, the planes left above it are not part of the stack.

    Yields:
        COCO image entry without its id; image and labels as in :func:`render_slice`.
    """
    rng = np.random.default_rng(np.random.SeedSequence(parameters.seed, spawn_key=(index,)))
    patient = simulate_patient(rng)
    for phase in PHASES:
        for number, z in enumerate(patient.planes(parameters.slice_gap_mm)):
            if patient.lv_shape(z, phase)[0] > 1:
                continue
            image, labels = render_slice(
                patient, z, phase, parameters.size, parameters.spacing_mm, rng
            )
            patient_id = f'patient{index:04d}'
            yield (
                dict(
                    file_name=f'{patient_id}_{phase}_slice{number:02d}.png',
                    width=parameters.size,
                    height=parameters.size,
                    patient_id=patient_id,
                    slice=number,
                    phase=phase,
                    spacing_mm=parameters.spacing_mm,
                    slice_spacing_mm=parameters.slice_gap_mm,
                ),
                image,
                labels,
            )


def encode_instances(labels: np.ndarray) -> list[dict]:
    """COCO annotations of a label map, without ids: one instance per category present."""
    annotations = []
    for category in CATEGORIES:
        mask = labels == category['id']
        if mask.any():
            rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                dict(
                    category_id=category['id'],
                    bbox=mask_utils.toBbox(rle).tolist(),
                    area=int(mask_utils.area(rle)),
                    iscrowd=0,
                    segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode('ascii')),
                )
            )
    return annotations


def write_dataset(folder: Path, parameters: PhantomParameters) -> dict[str, int]:
    """Render all patients into ``folder``; the last patients are the held-out ones.

    Returns:
        Number of images per split.
    """
    (folder / 'images').mkdir()
    num_train = parameters.patients - parameters.num_val()
    num_images = {}
    with tqdm(total=parameters.patients, desc='simulated patients', unit='patient') as progress:
        for split, indices in (
            ('train', range(num_train)),
            ('val', range(num_train, parameters.patients)),
        ):
            images, annotations = [], []
            for index in indices:
                for entry, image, labels in render_patient(index, parameters):
                    path = folder / 'images' / entry['file_name']
                    if not cv2.imwrite(str(path), image):
                        raise OSError(f'could not write {path}')
                    images.append(dict(id=len(images) + 1, **entry))
                    for annotation in encode_instances(labels):
                        annotations.append(
                            dict(id=len(annotations) + 1, image_id=images[-1]['id'], **annotation)
                        )
                progress.update()
            coco = dict(
                info=dict(description='Simulated short-axis cardiac MR', **asdict(parameters)),
                categories=CATEGORIES,
                images=images,
                annotations=annotations,
            )
            (folder / f'{split}.json').write_text(json.dumps(coco) + '\n')
            num_images[split] = len(images)
    (folder / PARAMETERS_FILE).write_text(json.dumps(asdict(parameters), indent=2) + '\n')
    return num_images


def holds_dataset(out: Path, parameters: PhantomParameters, overwrite: bool) -> bool:
    """Whether ``out`` already is the data set made with ``parameters``.

    Raises:
        FileExistsError: ``out`` holds something which must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / PARAMETERS_FILE
    if not marker.is_file():
        raise FileExistsError(
            f'{out} exists and has no {PARAMETERS_FILE}, so it is no phantom '
            'data set and is never replaced: choose another --out'
        )
    try:
        found = json.loads(marker.read_text())
    except json.JSONDecodeError:
        found = None
    if found == asdict(parameters):
        return True
    if not overwrite:
        raise FileExistsError(
            f'{out} holds a phantom data set made with other parameters '
            f'({marker}): choose another --out, or replace it with --overwrite'
        )
    return False


def replace_folder(out: Path, parameters: PhantomParameters) -> dict[str, int]:
    """Write the data set beside ``out`` and move it there once it is whole.

    Returns:
        Number of images per split.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as scratch:
        new, old = Path(scratch, 'new'), Path(scratch, 'old')
        new.mkdir()
        num_images = write_dataset(new, parameters)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    return num_images


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/cmr_phantom'),
        help='folder to write: images/, train.json, val.json',
    )
    parser.add_argument('--patients', type=int, default=32, help='simulated patients, all splits')
    parser.add_argument(
        '--val-fraction', type=float, default=0.25, help='fraction of the patients that is held out'
    )
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--size', type=int, default=128, help='image width and height in px')
    parser.add_argument(
        '--spacing-mm',
        type=float,
        help='pixel width; without it the field of view is '
        f'{DEFAULT_FIELD_OF_VIEW_MM:g} mm whatever the size',
    )
    parser.add_argument('--slice-gap-mm', type=float, default=8.0, help='distance between slices')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace a phantom data set made with other parameters',
    )
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    spacing_mm = args.spacing_mm
    if spacing_mm is None:
        spacing_mm = DEFAULT_FIELD_OF_VIEW_MM / max(args.size, 1)
    parameters = PhantomParameters(
        patients=args.patients,
        val_fraction=args.val_fraction,
        seed=args.seed,
        size=args.size,
        spacing_mm=spacing_mm,
        slice_gap_mm=args.slice_gap_mm,
    )
    out = args.out.resolve()
    try:
        parameters.check()
        if holds_dataset(out, parameters, args.overwrite):
            print(f'{args.out} already holds this data set: nothing to do')
            return
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    num_images = replace_folder(out, parameters)
    print(
        f'wrote {num_images["train"]} training and {num_images["val"]} validation images of '
        f'{parameters.patients} patients to {args.out}'
    )


if __name__ == '__main__':
    main()
