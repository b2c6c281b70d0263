"""Data exchanged between the HTTP server, the engine and the model runner. Read this first.

Plain records, and the codec for the connection to the engine. Independent of HTTP, torch,
scheduling and text; uses only the standard library and msgspec.
"""
