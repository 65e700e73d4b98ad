"""Rotary positions: what the theory of attention knows of them are the frequencies (E3r)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sigprop.core.arrays import Floats

__all__ = ["Rotation", "frequencies"]

CONTINUUM = 64  # frequencies that stand for a head of infinite width


@dataclass(frozen=True)
class Rotation:
    r"""Rotary positions of frequencies :math:`\omega_i = base^{-2i/d_h}`.

    Parameters
    ----------
    base : float
        Base of the geometric progression, >= 1.

    Examples
    --------
    >>> from sigprop.layers.attention.rotation import Rotation
    >>> Rotation(100.0).frequencies(4).round(12).tolist()
    [1.0, 0.1]
    """

    base: float

    def frequencies(self, head_width: float | None) -> Floats:
        """Frequencies in radians a token, of a head of a width; None is infinite.

        Examples
        --------
        >>> from sigprop.layers.attention.rotation import Rotation
        >>> len(Rotation(1e4).frequencies(None))
        64
        """
        if head_width is None:
            return np.asarray(self.base ** -((np.arange(CONTINUUM) + 0.5) / CONTINUUM))
        half = max(int(head_width) // 2, 1)
        return np.asarray(self.base ** -(np.arange(half) / half))


def frequencies(rotation: Rotation | None, head_width: float | None) -> Floats:
    """Frequencies of a rotation, in radians a token; one of zero without.

    Parameters
    ----------
    rotation : Rotation, optional
        None is no rotation.
    head_width : float, optional
        Width d_h of a head; None is infinite.

    Returns
    -------
    array
        The frequencies.

    Examples
    --------
    >>> from sigprop.layers.attention.rotation import frequencies
    >>> frequencies(None, 4).tolist()
    [0.0]
    """
    return np.zeros(1) if rotation is None else rotation.frequencies(head_width)
