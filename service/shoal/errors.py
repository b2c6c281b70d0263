"""All exceptions of the service, with their HTTP status; independent of the web framework.

`server/errors.py` converts them to the API's JSON. Messages are written for the caller: no paths,
no internals, at most 200 characters of the request's own text.
"""


class ShoalError(Exception):
    """Base class. `status`, `type` and `code` go into the error response."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        hint: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else type(self).code
        self.param = param
        self.hint = hint
        self.retry_after_s = retry_after_s


class InvalidRequest(ShoalError):
    """The request is invalid; retrying it unchanged will fail again."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class NotSupportedByModel(InvalidRequest):
    code = "not_supported_by_model"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class NotFound(InvalidRequest):
    status = 404
    code = "not_found"


class Conflict(ShoalError):
    """What is asked for cannot be done in the state things are in."""

    status = 409
    type = "conflict_error"
    code = "model_busy"


class AuthenticationFailed(ShoalError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(ShoalError):
    status = 403
    type = "permission_error"
    code = "insufficient_permissions"


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class RateLimited(ShoalError):
    """The caller has reached a per-caller limit."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self,
        message: str,
        *,
        limit: int,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.limit = limit
        """The caller's limit."""


class ClientGone(ShoalError):
    """The client closed the connection. Appears only in logs and metrics."""

    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"


class Unavailable(ShoalError):
    """The server cannot take the request now; retry after `retry_after_s`."""

    status = 503
    type = "service_unavailable_error"
    code = "server_is_overloaded"


class EngineRestarted(Unavailable):
    code = "engine_restarted"


class RequestTimeout(ShoalError):
    status = 504
    type = "timeout_error"
    code = "request_timeout"


class InternalError(ShoalError):
    """A bug in Shoal, or a failure of the model."""


class NumericalError(InternalError):
    """The model produced NaN, or no finite logits, for this sequence."""

    code = "numerical_error"


class PoisonRequest(InternalError):
    """The engine ended twice while it had this request."""

    code = "poison_request"


class ModelFolderError(ShoalError):
    """A model folder is incomplete, damaged or not supported."""

    code = "invalid_model_folder"


class ConfigError(ShoalError):
    """A setting is invalid; the message has its name, its value and what is expected."""

    code = "invalid_setting"
