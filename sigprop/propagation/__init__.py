"""From a spec to the state of every layer."""
