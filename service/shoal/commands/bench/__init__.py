"""`shoal bench`: a load generator for any OpenAI-compatible server.

`http` is the HTTP client, `events` parses streams, `load` runs the simulated clients, `stats`
computes statistics, `report` and `plot` present them; `command` is the sub-command itself.
"""
