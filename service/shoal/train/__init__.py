"""Training of small models: a recipe or a user's own text in, a Hugging Face folder out.

Start at `run.py`. `hooks.py` says what a recipe may add by code of its own. Independent of server
and engine, which never import it.
"""
