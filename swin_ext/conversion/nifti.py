"""Find and read image and label volumes in NIfTI; slices are paired by their affines."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swin_ext.conversion.nifti_frames import (
    ChosenFrame,
    VolumePair,
    choose_frames,
    find_frames_csv,
    phase_in_name,
    read_frames_csv,
    read_info_cfg,
)
from swin_ext.conversion.nifti_labels import align_label
from swin_ext.conversion.patterns import pair_paths
from swin_ext.conversion.pixels import read_stack
from swin_ext.conversion.reader_errors import conversion_errors, warn_of
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study, sha256_of
from swin_ext.study.nifti_geometry import (
    VolumeGeometry,
    check_slice_axis,
    header_path,
    read_geometry,
)


@dataclass(frozen=True)
class Layout:
    """Where a published data set keeps its volumes and which label value means what."""

    image: str
    label: str
    labels: str


# ACDC: Bernard et al., 2018, https://doi.org/10.1109/TMI.2018.2837502;
# M&Ms: Campello et al., 2021, https://doi.org/10.1109/TMI.2021.3090082;
# EMIDEC: Lalande et al., 2020, https://doi.org/10.3390/data5040089. Its infarct (3) and no-reflow
# (4) lie within the myocardium.
LAYOUTS = dict(
    acdc=Layout(
        '**/{patient}/{patient}_frame{frame}.nii*',
        '**/{patient}/{patient}_frame{frame}_gt.nii*',
        '3=LV,2=Myo,1=RV',
    ),
    mnms=Layout(
        '**/{patient}/{patient}_sa.nii*', '**/{patient}/{patient}_sa_gt.nii*', '1=LV,2=Myo,3=RV'
    ),
    emidec=Layout(
        '**/{patient}/Images/{patient}.nii*',
        '**/{patient}/Contours/{patient}.nii*',
        '1=LV,2=Myo,3=Myo,4=Myo',
    ),
)


@dataclass(frozen=True)
class NiftiStudy(Study):
    """All volumes of a patient.

    Args:
        info_cfg: ACDC's file that names the frames of ED and ES, if the layout has one.
        assume_same_grid: Pair slices by index where headers have no affine.
    """

    window = 'study'

    pairs: tuple[VolumePair, ...] = ()
    info_cfg: Path | None = None
    assume_same_grid: bool = False

    def source_files(self) -> list[Path]:
        return [
            *(path for pair in self.pairs for path in pair.images),
            *(path for pair in self.pairs for path in pair.labels),
            *([self.info_cfg] if self.info_cfg else []),
        ]

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        with conversion_errors(next(iter(self.source_files()), self.root / self.patient)):
            yield from self._read(labels, left_out)

    def _read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        phase_of_frame = read_info_cfg(self.info_cfg) if self.info_cfg else {}
        found = {int(pair.frame) for pair in self.pairs if pair.frame}
        for frame, phase in phase_of_frame.items():
            if frame not in found:
                left_out[f'{phase} frames that Info.cfg names and that have no file'] += 1
        for pair in self.pairs:
            image_path = self._only(pair.images, 'image')
            label_path = self._only(pair.labels, 'label')
            image = read_geometry(image_path, self.spacing_mm)
            check_slice_axis(image)
            label = read_geometry(label_path, image.spacing_mm)
            warn_of(image.warnings, image_path)
            warn_of(label.warnings, label_path)
            sha256 = sha256_of(image_path)
            for chosen in choose_frames(image, label, pair, phase_of_frame):
                yield from self._read_volume(image, label, sha256, chosen, labels)

    def _only(self, paths: tuple[Path, ...], kind: str) -> Path:
        paths = header_path(paths)
        if not paths:
            raise ConversionError(
                f'it has an image or label volume without its counterpart: no {kind} file',
                f'Check the --{kind} pattern, add the file, or leave the study out',
                next(iter(self.source_files()), self.root / self.patient),
            )
        if len(paths) > 1:
            raise ConversionError(
                f'{len(paths)} files match the --{kind} pattern for one volume',
                'Make the pattern narrower, or move copies away: '
                + ', '.join(str(path.relative_to(self.root)) for path in paths),
                paths[0].parent,
            )
        return paths[0]

    def _read_volume(
        self,
        image: VolumeGeometry,
        label: VolumeGeometry,
        sha256: str,
        chosen: ChosenFrame,
        labels: LabelMap,
    ) -> Iterator[LabelledSlice]:
        label_map, first = align_label(image, label, chosen.label_index, self.assume_same_grid)
        label_map = labels.check(label_map, label.path)
        stack = read_stack(image.path, chosen.image_index)
        outside = [
            z
            for z in range(label_map.shape[2])
            if label_map[:, :, z].any() and not 0 <= z + first < len(stack)
        ]
        if outside:
            raise ConversionError(
                f'{len(outside)} labelled slices lie outside the image volume by the affines',
                f'Check that it belongs to {image.path.name}',
                label.path,
            )
        if not label_map.any():
            raise ConversionError(
                'it has no labelled voxel'
                + f' in frame {chosen.label_index}' * bool(chosen.label_index),
                'Check that it is the label file and of the right frame',
                label.path,
            )
        for z, pixels in enumerate(stack):
            inside = 0 <= z - first < label_map.shape[2]
            # NIfTI's first axis runs along the rows of the image, its second down the columns.
            masks = labels.masks(label_map[:, :, z - first].T) if inside else {}
            yield LabelledSlice(
                name=f'{chosen.name}z{z:02d}',
                image=pixels,
                masks=masks,
                source=image.path,
                sha256=sha256,
                spacing_mm=image.spacing_mm,
                slice_spacing_mm=image.slice_spacing_mm,
                slice=z,
                phase=chosen.phase,
                frame=chosen.frame,
                slice_index=z,
                frame_index=chosen.image_index,
                window_over=stack,
                doubts=(*image.warnings, *label.warnings),
            )


def find_studies(
    root: Path,
    layout: str,
    image: str | None,
    label: str | None,
    frames: dict[str, int] | None = None,
    frames_csv: Path | None = None,
    spacing_mm: tuple[float, float] | None = None,
    assume_same_grid: bool = False,
) -> list[NiftiStudy]:
    """Patients with their volumes.

    Args:
        layout: A key of `LAYOUTS`, or 'generic' with patterns `image` and `label`, see
            `patterns.compile_pattern`.
        frames: Fourth index by phase, for generic 4-D files.
        frames_csv: M&Ms' table of ED and ES frames; by default the one table in `root`.

    Raises:
        ValueError: If the patterns or the table cannot be used.
    """
    if layout != 'generic':
        image, label = LAYOUTS[layout].image, LAYOUTS[layout].label
    table = read_frames_csv(frames_csv or find_frames_csv(root)) if layout == 'mnms' else {}
    pairs, folders = defaultdict(list), {}
    for fields, images, labels in pair_paths(root, image, label):
        patient = fields['patient']
        folders[patient] = (images or labels)[0].parent
        chosen = table.get(patient) if layout == 'mnms' else frames
        pairs[patient].append(
            VolumePair(
                tuple(images),
                tuple(labels),
                fields.get('phase') or phase_in_name(images),
                fields.get('frame'),
                tuple(chosen.items()) if chosen else None,
            )
        )
    return [
        NiftiStudy(
            patient,
            root,
            spacing_mm,
            tuple(volumes),
            folders[patient] / 'Info.cfg' if layout == 'acdc' else None,
            assume_same_grid,
        )
        for patient, volumes in sorted(pairs.items())
    ]
