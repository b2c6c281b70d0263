"""POST /v1/chat/completions: request fields in `schema.py`, responses in `render.py`."""
