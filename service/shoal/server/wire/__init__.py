"""The wire: between a socket and the app, before a request is whole and after its answer.

`connection.py` adds the limits to uvicorn's protocol classes, one file for each parser;
`connections.py` knows all of them: how many there may be, and whose time is up. `listener.py` makes
the sockets. Nothing here knows a route.
"""
