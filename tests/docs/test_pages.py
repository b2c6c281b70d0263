"""What the pages show is run: every block of code of README and guides, against a server."""

from pathlib import Path

import pytest

from tests.docs.blocks import BadNote, Block, blocks_of, matches, pages, read
from tests.docs.walk import walking, why_not

QUICK = {"docs/stream.md"}


def with_code() -> list[str]:
    return [page for page in pages() if read(page)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in with_code()],
)
def test_every_block_of_the_page_runs(
    page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left_out: list[str] = []
    with walking(tmp_path) as walk:
        for block in (blocks := read(page)):
            if reason := why_not(block, blocks):
                left_out.append(f"{block.place} is not run: {reason}")
            else:
                walk.run(block)
    with capsys.disabled():
        print("", *left_out, sep="\n  ")


def test_the_guides_are_among_the_pages() -> None:
    found = with_code()
    assert "README.md" in found
    assert "docs/first-five-minutes.md" in found
    assert len(found) > 10
    assert set(found) >= QUICK


def test_most_blocks_are_run() -> None:
    blocks = [block for page in pages() for block in read(page)]
    assert sum(not block.not_run for block in blocks) > 0.6 * len(blocks)


PAGE = """\
```sh
echo 1
```

<!-- output -->
```text
1
```

## More

- one:
  <!-- not run: needs a GPU -->
  ```python
  print(2)
      # deeper
  ```

```json
{}
```
"""


def test_blocks_have_their_place_output_and_reason() -> None:
    assert blocks_of("x.md", PAGE) == [
        Block("x.md", 2, "sh", "echo 1\n", output="1\n"),
        Block("x.md", 15, "python", "print(2)\n    # deeper\n", "needs a GPU", section="More"),
    ]


@pytest.mark.parametrize("note", ["not run", "not run: ", "notrun: it is slow", "hidden"])
def test_a_note_must_give_its_reason(note: str) -> None:
    with pytest.raises(BadNote):
        blocks_of("x.md", f"<!-- {note} -->\n```sh\ntrue\n```\n")


@pytest.mark.parametrize(
    ("code", "starts"),
    [
        ("shoal serve minnow\n", True),
        ("make serve\n", True),
        ("echo a\nSHOAL_API_KEYS=a shoal serve path/to/model \\\n  --port 1\n", True),
        ("shoal serve --help\n", False),
        ("shoal chat\n", False),
        ("shoal doctor\n", False),
    ],
)
def test_a_block_that_ends_with_a_server_is_noticed(code: str, starts: bool) -> None:
    assert Block("x.md", 1, "sh", code).starts_server == starts


def test_output_may_leave_parts_out() -> None:
    assert matches("a ... d\n", "a b\nc d")
    assert matches("a\nb\n", "a  \nb\n")
    assert not matches("a ... d\n", "a b c e")
    assert not matches("a.\n", "ab\n")
