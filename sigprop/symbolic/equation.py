"""What the symbolic theory is made of: equations, and derivations in steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import sympy as sp

from sigprop.symbolic.symbols import latex

__all__ = ["Derivation", "Equation", "Step"]


class Equation(NamedTuple):
    r"""One equation of the theory, its right side not evaluated further.

    Attributes
    ----------
    name : str
        Key in `EQUATIONS`.
    number : str
        Number in theory.md.
    meaning : str
        In words.
    left, right : sympy.Expr
        Both sides; the right side names other quantities by their symbols.
    source : str
        Literature.

    Examples
    --------
    >>> from sigprop.symbolic import EQUATIONS
    >>> print(EQUATIONS["score_std"].number, EQUATIONS["beta_c"].latex)
    E3 \beta_c = \frac{\sqrt{2}}{\sqrt{\Delta} \sqrt{q}}
    """

    name: str
    number: str
    meaning: str
    left: sp.Expr
    right: sp.Expr
    source: str

    @property
    def latex(self) -> str:
        """LaTeX of the equation."""
        return f"{latex(self.left)} = {latex(self.right)}"


class Step(NamedTuple):
    """One step of a derivation.

    Attributes
    ----------
    text : str
        What is done.
    expression : sympy object
        What results.

    Examples
    --------
    >>> import sympy as sp
    >>> from sigprop.symbolic import Step
    >>> Step("one", sp.Integer(1)).text
    'one'
    """

    text: str
    expression: sp.Basic

    @property
    def latex(self) -> str:
        """LaTeX of the expression."""
        return latex(self.expression)


class Derivation(NamedTuple):
    """A derived result and the way to it.

    Attributes
    ----------
    name, title, equations, source : str
        Key, meaning, equations of theory.md that it starts from or proves, literature.
    steps : tuple of Step
        In order; the last one is the result.

    Examples
    --------
    >>> from sigprop.symbolic import derive
    >>> print(derive("critical-beta").result)
    Eq(beta_c, sqrt(2)/(sqrt(gap)*sqrt(q)))
    """

    name: str
    title: str
    equations: str
    source: str
    steps: tuple[Step, ...]

    @property
    def result(self) -> sp.Basic:
        """Expression of the last step."""
        return self.steps[-1].expression

    @property
    def latex(self) -> str:
        """LaTeX of the result."""
        return self.steps[-1].latex

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values.

        Returns
        -------
        dict
            Name, title, equations, source, and the steps as text, expression and LaTeX.

        Examples
        --------
        >>> from sigprop.symbolic import derive
        >>> derive("chi-norm").to_dict()["steps"][-1]["expression"]
        'Eq(chi, 1)'
        """
        steps = [{"text": s.text, "expression": str(s.expression), "latex": s.latex}
                 for s in self.steps]  # fmt: skip
        return {**self._asdict(), "steps": steps}
