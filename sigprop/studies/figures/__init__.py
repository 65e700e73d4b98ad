"""The paper's figures: each a picture of data, the data a function of parameters."""

from sigprop.studies.figures.common import Figure, Lab
from sigprop.studies.figures.depth import DECODER, DEPTH, VARIANTS
from sigprop.studies.figures.gradient import GRADIENT
from sigprop.studies.figures.phase import ENTROPY, PHASE
from sigprop.studies.figures.position import POSITIONS, ROTARY
from sigprop.studies.figures.residual import CRITICAL, TRAINABILITY

__all__ = ["FIGURES", "Figure", "Lab"]

FIGURES: dict[str, Figure] = {
    figure.name: figure
    for figure in (
        *(DEPTH, PHASE, TRAINABILITY, CRITICAL, VARIANTS, DECODER, GRADIENT, ENTROPY),
        *(POSITIONS, ROTARY),
    )
}
