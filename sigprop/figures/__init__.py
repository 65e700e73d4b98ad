"""The paper's figures: each a picture of data, the data a function of parameters."""

from sigprop.figures.depth import DECODER, DEPTH, VARIANTS
from sigprop.figures.gradient import GRADIENT
from sigprop.figures.lab import Figure, Lab
from sigprop.figures.phase import ENTROPY, PHASE
from sigprop.figures.position import POSITIONS, ROTARY
from sigprop.figures.residual import CRITICAL, TRAINABILITY

__all__ = ["FIGURES", "Figure", "Lab"]

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        *(DEPTH, PHASE, TRAINABILITY, CRITICAL, VARIANTS, DECODER, GRADIENT, ENTROPY),
        *(POSITIONS, ROTARY),
    )
}
