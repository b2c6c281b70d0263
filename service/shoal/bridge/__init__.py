"""Connects the HTTP server to an engine, in a child process (`remote.py`) or in this process
(`local.py`). Code outside this folder uses `EngineClient` and does not depend on which."""
