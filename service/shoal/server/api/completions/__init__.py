"""POST /v1/completions: `schema.py` what may be asked, `render.py` how it is answered."""
