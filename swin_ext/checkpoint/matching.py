"""Loads weights into a model and says which of them fitted."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.model import BaseTTAModel, is_model_wrapper

MIN_MATCHED_BACKBONE = 0.95  # of the tensors that the model or the file has; below: another one
NUM_LISTED = 6  # names given in full in a message

# Buffers of Swin that follow from the size of a window. A model makes its own; some code saves
# them, and some does not.
CONSTANTS = ('relative_position_index', 'relative_coords_table', 'attn_mask')
# `num_batches_tracked` is of batch norm; MMEngine, too, loads without.
_UNREQUIRED = ('num_batches_tracked', *CONSTANTS)


ADAPTATION = 'swin_ext_adaptation'  # key under which a hook leaves one in a checkpoint


@dataclasses.dataclass
class Adaptation:
    """What was done to a checkpoint before it was loaded, for the one report on its loading.

    Attributes:
        notes: Sentences.
        summary: The most important of it, in a few words each.
        reinitialised: Tensors that were taken out, for the model to keep its own; with the reason.
    """

    notes: list[str] = dataclasses.field(default_factory=list)
    summary: list[str] = dataclasses.field(default_factory=list)
    reinitialised: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Outcome:
    """How the tensors of a file fitted a model. Names are the model's, shapes are by name."""

    in_model: dict[str, list[int]]
    in_file: dict[str, list[int]]
    reshaped: list[str]
    missing: list[str]
    unexpected: list[str]
    adaptation: Adaptation = dataclasses.field(default_factory=Adaptation)

    @property
    def unfit(self) -> list[str]:
        return self.reshaped + self.missing

    def is_same_architecture(self) -> bool:
        backbone = {name for name in self.in_model if name.startswith('backbone.')}
        if not backbone:  # any part may be the head, but not everything
            return len(self.unfit) < len(self.in_model) or not self.in_model
        # The file's surplus counts: all tensors of a Swin-T are among those of a Swin-S.
        surplus = [name for name in self.unexpected if name.startswith('backbone.')]
        num_all = len(backbone) + len(surplus)
        return len(backbone.difference(self.unfit)) >= MIN_MATCHED_BACKBONE * num_all

    @property
    def num_loaded(self) -> int:
        return len(self.in_model) - len(self.unfit)

    def summary(self) -> str:
        tensors = f'{self.num_loaded} of {len(self.in_model)} tensors'
        return '; '.join([tensors, *self.adaptation.summary])

    def report(self) -> str:
        reshaped = [
            f'{name} {self.in_file.get(name, "")} -> {self.in_model.get(name, "")}'
            for name in self.reshaped
        ]
        reinitialised = self.adaptation.reinitialised
        missing = [name for name in self.missing if name not in reinitialised]
        parts = [
            f'{self.num_loaded} of the {len(self.in_model)} tensors of the model loaded',
            f'{len(reshaped)} re-initialised for their other shape ({listed(reshaped)})',
            f'{len(missing)} missing in the file ({listed(missing)})',
            f'{len(self.unexpected)} in the file alone ({listed(self.unexpected)})',
        ]
        if reinitialised:
            reasons = [f'{name}: {reason}' for name, reason in reinitialised.items()]
            parts.append(
                f'{len(reinitialised)} re-initialised for their other classes ({listed(reasons)})'
            )
        return '\n'.join(['; '.join(parts) + '.', *self.adaptation.notes])


def load_weights(
    model: torch.nn.Module,
    checkpoint: dict,
    revise_keys: Iterable[tuple[str, str]],
    adaptation: Adaptation | None = None,
) -> Outcome:
    """Load as MMEngine does, and keep what it only logs."""
    seen = {}

    def keep(state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        # MMEngine fills the three lists later, by what each module finds after its own renaming.
        seen.update(missing=missing, unexpected=unexpected, errors=errors)
        seen.update(in_file=_shapes(state_dict))

    unwrapped = model
    while is_model_wrapper(unwrapped) or isinstance(unwrapped, BaseTTAModel):
        unwrapped = unwrapped.module
    hook = unwrapped._register_load_state_dict_pre_hook(keep)
    try:
        mmengine_checkpoint._load_checkpoint_to_model(
            model, checkpoint, logger='silent', revise_keys=revise_keys
        )
    finally:
        hook.remove()
    named = re.compile(r'\s*(?:size mismatch for |While copying the parameter named ")([^\s":]+)')
    return Outcome(
        in_model=_shapes(unwrapped.state_dict()),
        in_file=seen['in_file'],
        reshaped=[
            match[1]
            for match in map(named.match, seen['errors'])
            if match and not match[1].endswith(_UNREQUIRED)
        ],
        missing=[name for name in seen['missing'] if not name.endswith(_UNREQUIRED)],
        unexpected=[name for name in seen['unexpected'] if not name.endswith(CONSTANTS)],
        adaptation=adaptation or Adaptation(),
    )


def _shapes(state_dict: dict) -> dict[str, list[int]]:
    return {
        name: list(getattr(tensor, 'shape', ()))
        for name, tensor in state_dict.items()
        if not name.endswith(_UNREQUIRED)
    }


def listed(names: Iterable[str], shapes: dict[str, list[int]] | None = None) -> str:
    names = [f'{name} {shapes.get(name, "")}' if shapes else name for name in names]
    more = f' and {len(names) - NUM_LISTED} more' if len(names) > NUM_LISTED else ''
    return ', '.join(names[:NUM_LISTED]) + more if names else 'none'
