"""Real clients of the APIs we speak, each in a script that an environment of its own runs.

`environment.py` makes that environment from `requirements.txt`, `run.py` runs the scripts against
a server and prints what works, `test_clients.py` does the same as tests (marker `peers`).
A script imports its client and `checks.py`, nothing of ours.
"""
