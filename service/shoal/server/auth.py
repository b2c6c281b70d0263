"""API keys: stored as SHA-256 only, compared in constant time against all of them."""

import hashlib
import hmac
from collections.abc import Iterable, Mapping

from shoal.errors import AuthenticationFailed, ConfigError

OPEN_PATHS = frozenset(
    {"/livez", "/readyz", "/health", "/health/live", "/health/ready"}
)  # routes that never need a key
ADMIN_PREFIX = "/admin/"
"""Routes that need an admin key, and are there only where one is set."""
SHARED_PREFIXES = ("/v1/usage", "/v1/requests/")
"""Routes for everyone that show an admin the whole."""


class KeyRing:
    """The accepted API keys, each with its tenant."""

    def __init__(self, entries: Iterable[str], *, setting: str = "api_keys") -> None:
        """Entries are KEY, NAME:KEY or NAME:sha256:HEX. Raises ConfigError that names the
        setting."""
        self._keys = [_parse(entry, number, setting) for number, entry in enumerate(entries, 1)]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def tenant(self, headers: Mapping[str, str]) -> str:
        """Tenant of the request's key. Raises the same AuthenticationFailed in all cases."""
        presented = hashlib.sha256(_presented_key(headers).encode()).digest()
        owner: str | None = None
        for name, digest in self._keys:  # no early exit, so that timing reveals nothing
            if hmac.compare_digest(presented, digest):
                owner = name
        if owner is None:
            raise AuthenticationFailed(
                "missing or wrong API key",
                hint="send it as 'Authorization: Bearer KEY'",
            )
        return owner


def _presented_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("x-api-key") or headers.get("api-key") or ""


def _parse(entry: str, number: int, setting: str) -> tuple[str, bytes]:
    name, colon, key = entry.partition(":")
    if not colon:
        name, key = f"key-{number}", entry
    if not key:
        raise ConfigError(f"{setting} entry {number} has no key after its name")
    if key.startswith("sha256:"):
        try:
            digest = bytes.fromhex(key.removeprefix("sha256:"))
        except ValueError:
            digest = b""
        if len(digest) != 32:
            raise ConfigError(f"{setting} entry {number}: sha256 needs 64 hexadecimal digits")
        return name, digest
    return name, hashlib.sha256(key.encode()).digest()
