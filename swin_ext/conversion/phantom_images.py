"""Short-axis images of simulated patients, as balanced steady-state free precession shows them."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from scipy import fft

from swin_ext.conversion.phantom_anatomy import Patient

LV, MYO, RV = 1, 2, 3  # in label maps
MIN_INSTANCE_AREA_PX = 20

# The anatomy is drawn on a grid this many times finer than the image. Cutting the outer k-space of
# that grid away, as a scanner never samples it, gives the point spread and the Gibbs ringing.
SUPERSAMPLING = 2
ROUNDING = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * SUPERSAMPLING + 1,) * 2)


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
