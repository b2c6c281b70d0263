"""POST /v1/completions: request fields in `schema.py`, responses in `render.py`."""
