"""The HTTP server: routes, validation, responses, streaming. Startup is in `serve.py`."""
