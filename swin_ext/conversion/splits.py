"""Split patients into training and validation sets."""

from __future__ import annotations

import random
from dataclasses import dataclass

from swin_ext.conversion.errors import ArgumentError


@dataclass(frozen=True)
class Split:
    """Arguments of `split_patients`."""

    val_fraction: float | None = None
    val_patients: tuple[str, ...] | None = None
    folds: int | None = None
    seed: int = 0


def split_patients(
    patients: list[str],
    val_fraction: float | None = None,
    val_patients: list[str] | None = None,
    folds: int | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """Patients by the name of their JSON file, all slices of a patient together.

    Exactly one of `val_fraction`, `val_patients` and `folds` is given. The same patients and seed
    yield the same split, in whatever order they come.

    Returns:
        'train' and 'val'; or 'train_fold0', 'val_fold0', ... where every patient is in the
        validation set of one fold. 'train' alone if `val_fraction` is 0.

    Raises:
        ArgumentError: If a set would be empty, or a patient is unknown.
    """
    patients = sorted(patients)
    shuffled = patients.copy()
    random.Random(seed).shuffle(shuffled)
    if folds is not None:
        if not 2 <= folds <= len(patients):
            raise ArgumentError(
                f'--folds {folds}: needs at least 2 and at most one per patient, and '
                f'there are {len(patients)} patients'
            )
        held_out = {f'fold{fold}': shuffled[fold::folds] for fold in range(folds)}
    elif val_patients is not None:
        unknown = sorted(set(val_patients) - set(patients))
        if unknown:
            raise ArgumentError(
                f'--val-patients: {", ".join(unknown)} not found; the patients are '
                f'{", ".join(patients[:20])}' + ', ...' * (len(patients) > 20)
            )
        held_out = {'': val_patients}
    else:
        if not 0 <= val_fraction < 1:
            raise ArgumentError(f'--val-fraction {val_fraction} must be at least 0 and below 1')
        if val_fraction == 0:
            return dict(train=patients)
        held_out = {'': shuffled[: max(1, round(val_fraction * len(patients)))]}
    splits = {}
    for name, val in held_out.items():
        suffix = f'_{name}' if name else ''
        splits[f'train{suffix}'] = [patient for patient in patients if patient not in set(val)]
        splits[f'val{suffix}'] = sorted(val)
    empty = [name for name, members in splits.items() if not members]
    if empty:
        raise ArgumentError(f'{empty[0]} would have no patient: there are {len(patients)} in all')
    return splits
