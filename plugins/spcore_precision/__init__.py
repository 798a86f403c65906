"""Precision policies. A new one is a `PrecisionPolicy` in `policies.py` and a line in `plugin.py`."""
