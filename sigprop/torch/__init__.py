"""Real torch models: audit them, initialise them (extra `torch`)."""

from sigprop.core.errors import need

need("sigprop.torch", "torch", "torch")

from sigprop.torch.initialise import Change, initialise_  # noqa: E402
from sigprop.torch.module_audit.report import Audit, UnhealthyError, assert_healthy, audit  # noqa: E402

__all__ = ["Audit", "Change", "UnhealthyError", "assert_healthy", "audit", "initialise_"]
