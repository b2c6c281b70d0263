"""How the HTTP side reaches an engine: in a child process (`remote.py`) or in this one
(`local.py`). Nothing outside this folder knows which."""
