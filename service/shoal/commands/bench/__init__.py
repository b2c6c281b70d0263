"""`shoal bench`: a load generator for any OpenAI-compatible address.

`http` moves bytes, `events` reads streams, `load` keeps clients busy, `stats` turns records into
numbers, `report` and `plot` show them; `command` is the sub-command itself.
"""
