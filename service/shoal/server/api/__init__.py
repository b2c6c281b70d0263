"""The routes. Completions and chat have folders of their own; small ones are one file each."""
