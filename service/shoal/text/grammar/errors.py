"""What is wrong with a schema or grammar, before it is known which request key it came from."""


class SchemaProblem(Exception):
    """The message is for the caller; `path` is where in the schema: ".properties.a"."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path
