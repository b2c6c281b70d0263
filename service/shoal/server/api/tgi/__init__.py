"""The API of text-generation-inference: POST /generate, /generate_stream and /, GET /info."""
