"""POST /v1/chat/completions: `schema.py` what may be asked, `render.py` how it is answered."""
