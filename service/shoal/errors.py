"""One error tree for the whole service; it knows HTTP statuses as numbers and no web framework.

`server/errors.py` turns any of these into the JSON shape of the API. Messages are plain words
for the caller: no paths, no internals, never more than 200 characters of input.
"""


class ShoalError(Exception):
    """Base of all. `status`, `type` and `code` are the answer a caller gets."""

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
    """The request cannot be served as it is; sending it again will not help."""

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
    """The caller's own limit."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, limit: int, code: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.limit = limit
        """How much the caller may have at a time."""


class ClientGone(ShoalError):
    """The connection closed; nobody reads an answer. Seen in logs and metrics only."""

    status = 499
    type = "invalid_request_error"
    code = "client_closed_request"


class Unavailable(ShoalError):
    """The whole server cannot take it now; try again after `retry_after_s`."""

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
    """Our own mistake or a model's failure."""


class NumericalError(InternalError):
    """The model produced NaN or no finite logit for this sequence."""

    code = "numerical_error"


class ModelFolderError(ShoalError):
    """A model folder is incomplete, damaged or of a kind Shoal cannot run."""

    code = "invalid_model_folder"


class ConfigError(ShoalError):
    """A setting is wrong; the message names it, its value and what is expected."""

    code = "invalid_setting"
