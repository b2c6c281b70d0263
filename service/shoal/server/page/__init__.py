"""The playground: a page for browsers at `/`. Its files are in `static`, served by `routes.py`."""
