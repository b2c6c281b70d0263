"""Finds the key of a caller: stored as SHA-256 only, compared in constant time against all."""

import hmac
from collections.abc import Iterable, Mapping

from shoal.config import Settings
from shoal.errors import AuthenticationFailed
from shoal.server.keys import Key, Role, digest_of, parse_setting, read_keys_file

OPEN_PATHS = frozenset(
    {"/livez", "/readyz", "/health", "/health/live", "/health/ready"}
)  # routes that never need a key
PAGE_PREFIX = "/page/"
"""Files of the page: they hold nothing of this server, and the page asks for a key itself."""
ADMIN_PREFIX = "/admin/"
"""Routes that need an admin key, and are there only where one can be set."""
SHARED_PREFIXES = ("/v1/usage", "/v1/requests/")
"""Routes for everyone that show an admin the whole."""


def is_open(method: str, path: str) -> bool:
    """Needs this no key?"""
    of_page = path == "/" or path.startswith(PAGE_PREFIX)
    return path in OPEN_PATHS or (of_page and method in ("GET", "HEAD"))


class KeyRing:
    """The accepted API keys."""

    def __init__(
        self, entries: Iterable[str], *, setting: str = "api_keys", role: Role = "user"
    ) -> None:
        """Entries are KEY, NAME:KEY or NAME:sha256:HEX. Raises ConfigError that names the
        setting."""
        self._own = [
            parse_setting(entry, number, setting, role) for number, entry in enumerate(entries, 1)
        ]
        self._keys = tuple(self._own)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def set_file_keys(self, keys: Iterable[Key]) -> None:
        """The keys of a file, in place of those it had before."""
        self._keys = (*self._own, *keys)

    def find(self, headers: Mapping[str, str]) -> Key:
        """The request's key. Raises the same AuthenticationFailed in all cases."""
        presented = digest_of(_presented_key(headers))
        found: Key | None = None
        for key in self._keys:  # no early exit, so that timing reveals nothing
            if hmac.compare_digest(presented, key.digest):
                found = key
        if found is None:
            raise AuthenticationFailed(
                "missing or wrong API key",
                hint="send it as 'Authorization: Bearer KEY'",
            )
        return found


def check_keys(settings: Settings) -> None:
    """Raises ConfigError for keys that cannot be used, before anything is started."""
    KeyRing(settings.api_keys)
    KeyRing(settings.admin_keys, setting="admin_keys", role="admin")
    if settings.keys_file is not None:
        read_keys_file(settings.keys_file)


def _presented_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key") or ""
