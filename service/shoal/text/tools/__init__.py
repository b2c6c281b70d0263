"""Tool calls in the text of a chat: how models write them, how to read, force and replay them.

`tool.py` has the records, `table.py` the known formats and how a template shows which is its own,
`parser.py` reads calls out of a message, `grammar.py` says what a message with calls may look like,
`history.py` gives past calls and results to a template. Knows nothing of HTTP.
"""
