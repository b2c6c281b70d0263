"""HTTP only: routes, validation, rendering, streams. Wiring is in `serve.py`."""
