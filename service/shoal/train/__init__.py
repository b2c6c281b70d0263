"""Training of small models: recipe or own text in, a Hugging Face folder out (`shoal train`).

Start at `run.py`. Knows nothing of the server, the engine or requests; the server never imports it.
"""
