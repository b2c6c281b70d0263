"""What was found for texts not long ago, so that it need not be found again."""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Keeps the values used last: at most so many, of so many bytes together. Thread-safe."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0
        """Of all that is kept, as their owners told."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Value | None:
        """None where it is not kept."""
        with self._lock:
            if (entry := self._entries.get(key)) is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, value: Value, num_bytes: int) -> None:
        """`num_bytes`: of key and value. One larger than all may be together is not kept."""
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self.num_bytes -= old[1]
            if num_bytes > self._max_bytes:
                return
            self._entries[key] = (value, num_bytes)
            self.num_bytes += num_bytes
            while len(self._entries) > self._max_entries or self.num_bytes > self._max_bytes:
                _, (_, dropped) = self._entries.popitem(last=False)
                self.num_bytes -= dropped

    def clear(self) -> None:
        """Keeps nothing."""
        with self._lock:
            self._entries.clear()
            self.num_bytes = 0
