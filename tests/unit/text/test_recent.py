"""What was found not long ago: bounded by count and bytes; the value used last stays."""

from shoal.text.recent import Recent


def test_what_was_used_last_stays() -> None:
    recent: Recent[str] = Recent(2, 100)
    for key in "ab":
        recent.put(key, key.upper(), 1)
    assert recent.get("a") == "A"
    recent.put("c", "C", 1)
    assert [recent.get(key) for key in "abc"] == ["A", None, "C"]
    assert (len(recent), recent.num_bytes) == (2, 2)


def test_it_holds_no_more_bytes_than_it_may() -> None:
    recent: Recent[int] = Recent(100, 10)
    for key in range(9):
        recent.put(key, key, 4)
        assert recent.num_bytes <= 10
    assert [key for key in range(9) if recent.get(key) is not None] == [7, 8]
    recent.put(7, 70, 1)
    assert (recent.get(7), recent.num_bytes) == (70, 5)
    recent.put(8, 80, 11)
    assert recent.get(8) is None, "the old value is wrong and the new one too large"
    assert recent.num_bytes == 1
    recent.clear()
    assert (len(recent), recent.num_bytes, recent.get(7)) == (0, 0, None)
