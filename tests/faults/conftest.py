from tests.faults.measured import measured

__all__ = ["measured"]
