"""Colours of classes, which belong to their names: LV looks the same in every picture."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterable

# Colour-blind safe and far from grey: Okabe and Ito, https://jfly.uni-koeln.de/color/.
OKABE_ITO = ('#D55E00', '#009E73', '#56B4E9', '#F0E442', '#CC79A7', '#0072B2', '#E69F00')
KNOWN = {'lv': OKABE_ITO[0], 'myo': OKABE_ITO[1], 'rv': OKABE_ITO[2]}


def _more_colours() -> tuple[str, ...]:
    """84 colours: neighbouring hues differ in brightness, too."""
    colours = []
    for index in range(84):
        brightness = (0.95, 0.75, 0.55)[index % 3]
        rgb = colorsys.hsv_to_rgb(index / 84, 0.85 if index % 2 else 0.6, brightness)
        colours.append('#' + ''.join(f'{round(255 * value):02X}' for value in rgb))
    return tuple(colours)


PALETTE = OKABE_ITO + _more_colours()


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """Colour (`#RRGGBB`) of each class, in the order of the names.

    LV, Myo and RV have the same colours always. Any other name has the place in the palette that
    its hash says, or the next that is free, whatever the order of the names; up to seven classes
    share the colours that colour-blind people can tell apart. Beyond the palette colours repeat.
    """
    names = list(names)
    chosen = {name: KNOWN[name.lower()] for name in names if name.lower() in KNOWN}
    palette = OKABE_ITO if len(set(names)) <= len(OKABE_ITO) else PALETTE
    free = [colour for colour in palette if colour not in chosen.values()]
    for name in sorted(set(names) - set(chosen)):
        if not free:
            free = list(palette)
        digest = hashlib.sha256(name.encode('utf-8', 'surrogatepass')).digest()
        chosen[name] = free.pop(int.from_bytes(digest[:4], 'big') % len(free))
    return {name: chosen[name] for name in names}
