"""How the domain says no. A refusal lives beside the rule that raises it, has a stable `code`, and is of one of these kinds."""

from typing import Any


class Refusal(Exception):
    """Nothing was changed. `message` is for a person, `code` for a program, `details` may help either.

    Attributes:
        retry_after: whole seconds after which asking again makes sense, or None.
    """

    code = "INTERNAL_ERROR"
    message = "Something went wrong."

    def __init__(self, message: str = "", *, details: dict[str, Any] | None = None, retry_after: int | None = None):
        self.message = message or self.message
        self.details = details
        self.retry_after = retry_after
        super().__init__(self.message)


class Invalid(Refusal):
    code = "INVALID_REQUEST"
    message = "The request is not valid."


class Unauthorized(Refusal):
    code = "UNAUTHORIZED"
    message = "Sign in: send a valid access token as `Authorization: Bearer …`."


class Forbidden(Refusal):
    code = "FORBIDDEN"
    message = "You may not do this."


class Conflict(Refusal):
    code = "CONFLICT"
    message = "This has already been done."


class RateLimited(Refusal):
    code = "RATE_LIMITED"
    message = "Too many requests. Wait as long as Retry-After says."


class Unavailable(Refusal):
    code = "UNAVAILABLE"
    message = "The scoreboard cannot do this right now. Nothing was changed: try again."

    def __init__(self, message: str = "", *, details: dict[str, Any] | None = None, retry_after: int | None = 1):
        super().__init__(message, details=details, retry_after=retry_after)
