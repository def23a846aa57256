"""Simulated patients: the anatomy of a heart in its thorax, and the settings of the scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CONTOUR_ANGLES = 1440


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
