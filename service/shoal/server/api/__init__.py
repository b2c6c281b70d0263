"""The routes. Completions and chat each have a folder; smaller routes are one file each."""
