"""Whose request it is, for fairness and for the prefix cache.

A tenant is a key's name; that of a gateway is split further, by the user it calls for; without
keys it is the client's address.
"""

import hashlib
from collections.abc import Mapping

from shoal.server.keys import Key


def tenant_of(key: Key, headers: Mapping[str, str], user_header: str | None) -> str:
    """`user_header`: where a gateway names its user, if it does so in a header."""
    user = headers.get(user_header, "") if user_header else ""
    return split_tenant(key, key.name, user)


def split_tenant(key: Key, tenant: str, user: str | None) -> str:
    """The tenant of one user of a gateway; of other keys, and where it is split already, as it is.
    Names of keys have no colon. Users may be anything, and are never kept as they are."""
    if key.role != "gateway" or not user or tenant != key.name:
        return tenant
    return f"{tenant}:{hashlib.sha256(user.encode()).hexdigest()[:16]}"


def cache_salt(tenant: str, salt: str | None) -> str:
    """Prefixes are shared within a tenant only, and there by requests of the same salt: no salt of
    one tenant is that of another."""
    return f"{len(tenant)}:{tenant}:{salt or ''}"
