"""The version, from which the package metadata is made, and the revisions of what is computed.

Stored results are named by the revision of their kind, not by the version: a release that changes
no number voids nothing, and a commit that changes one voids what it changes.
"""

__version__ = "0.9.10"

REVISIONS = {
    # Raise it with every commit that changes a number of the theory by more than rounding.
    "theory": 17,
    # Raise it when the network of a given seed, or a statistic measured on it, becomes another.
    "simulation": 1,
    # Raise it when a training run of given arguments becomes another, or is judged otherwise.
    "training": 1,
}
