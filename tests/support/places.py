"""Layers applied to exchangeable tokens, without a spec."""

import numpy as np

from sigprop.layers.attention.exchangeable import Exchangeable
from sigprop.layers.interface import Place, Spread


def at(layer, kernel, source=None, context=np.inf):
    """Kernel behind a layer."""
    return layer.forward(kernel, Place(Exchangeable(context), source)).kernel


def back(layer, kernel, gradient, source=None, context=np.inf):
    """Gradient kernel pulled back through a layer."""
    place = Place(Exchangeable(context), source)
    return layer.backward(kernel, gradient, place, Spread()).gradient
