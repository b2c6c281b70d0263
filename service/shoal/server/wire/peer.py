"""Is a connection's other machine still there? The kernel knows: a machine that reads nothing
acknowledges probes all the same, one that vanished acknowledges nothing."""

import socket
import struct

_TCP_INFO = struct.Struct("=8B13I")
"""Beginning of Linux's `struct tcp_info` (linux/tcp.h), up to tcpi_last_ack_recv."""
_RETRANSMITS, _PROBES, _LAST_ACK_RECV = 2, 3, 20
_UNANSWERED = 3
"""So many times in a row: a single loss is nothing."""


def has_vanished(connection: socket.socket, silent_s: float) -> bool:
    """Was what we sent left unanswered again and again, and nothing acknowledged for `silent_s`
    seconds? False where the system does not tell."""
    if not hasattr(socket, "TCP_INFO"):
        return False
    try:
        raw = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    except OSError:
        return False
    if len(raw) < _TCP_INFO.size:
        return False
    info = _TCP_INFO.unpack(raw)
    unanswered = max(info[_RETRANSMITS], info[_PROBES])
    return bool(unanswered >= _UNANSWERED and info[_LAST_ACK_RECV] >= silent_s * 1000)
