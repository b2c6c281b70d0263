"""The drawings of the documentation. What writes them: generate.py."""

from picture import Drawing


def architecture() -> str:
    """Two processes, and what a request passes."""
    made = Drawing(860, 300, "A request goes from client to server, text, bridge, engine, runner")
    made.box(10, 110, 90, 60, "client", kind=1)
    made.frame(125, 40, 330, 240, "HTTP process: never loads torch")
    made.box(145, 80, 130, 70, "server", "routes, admission", "errors, streams")
    made.box(305, 80, 130, 70, "text", "tokens, grammar", "detokenizer")
    made.box(305, 190, 130, 60, "bridge", "frames, recovery")
    made.frame(505, 40, 345, 240, "engine process: integers and arrays")
    made.box(525, 190, 120, 60, "engine", "scheduler, KV")
    made.box(675, 190, 155, 60, "runner", "rows, batch")
    made.box(525, 80, 95, 70, "sampling", "processors", "draw", kind=2)
    made.box(630, 80, 95, 70, "kernels", "native C++", kind=2)
    made.box(735, 80, 100, 70, "model", "spec, weights", kind=2)
    made.box(145, 190, 130, 60, "checkpoint", "reads model files", kind=3)
    made.arrow((100, 130), (143, 122), both=True)
    made.arrow((275, 115), (303, 115), both=True)
    made.arrow((370, 150), (370, 188), both=True)
    made.arrow((435, 220), (523, 220), both=True)
    made.words(480, 210, "one frame", middle=True)
    made.words(480, 240, "per step", middle=True)
    made.arrow((645, 220), (673, 220), both=True)
    made.arrow((700, 190), (600, 152))
    made.arrow((715, 190), (680, 152))
    made.arrow((770, 190), (785, 152))
    made.arrow((240, 190), (318, 152))
    return made.svg()


def step() -> str:
    """Six steps of one model: rows join, leave and share a budget."""
    made = Drawing(860, 250, "Six steps of a batch: sequences join and leave between steps")
    rows = (
        ("A, long prompt", ((0, 3, "prompt 0-511", 1), (3, 3, "one token a step", 0))),
        ("B, decoding", ((0, 4, "one token a step", 0),)),
        ("C, prefix known", ((1, 1, "rest", 1), (2, 4, "one token a step", 0))),
        ("D, joins for B", ((4, 1, "prompt", 1), (5, 1, "token", 0))),
    )
    left, wide = 150, 115
    for number in range(6):
        made.words(left + wide * (number + 0.5), 24, f"step {number + 1}", middle=True)
    for place, (name, parts) in enumerate(rows):
        y = 40 + 50 * place
        made.words(8, y + 25, name, bold=True)
        for begin, length, text, kind in parts:
            made.box(left + wide * begin + 3, y, wide * length - 6, 38, text, kind=kind)
    return made.svg()


def blocks() -> str:
    """Two sequences that share the blocks of their common prompt."""
    made = Drawing(860, 190, "Two sequences share the KV blocks of a common prompt")
    made.box(10, 20, 150, 50, "sequence A", "40 tokens")
    made.box(10, 120, 150, 50, "sequence B", "37 tokens")
    for place, (text, below, kind) in enumerate(
        (
            ("block 7", "tokens 0-15", 2),
            ("block 2", "tokens 16-31", 2),
            ("block 9", "A: 32-39", 0),
            ("block 4", "B: 32-36", 1),
            ("block 5", "free", 3),
        )
    ):
        made.box(240 + 124 * place, 70, 110, 50, text, below, kind=kind)
    made.arrow((160, 45), (295, 45), (295, 68))
    made.arrow((295, 45), (419, 45), (419, 68))
    made.arrow((419, 45), (543, 45), (543, 68))
    made.arrow((160, 145), (295, 145), (295, 122))
    made.arrow((295, 145), (419, 145), (419, 122))
    made.arrow((419, 145), (667, 145), (667, 122))
    made.words(357, 16, "shared: counted twice, kept once", middle=True)
    return made.svg()


def identity() -> str:
    """One row's additions in two batches."""
    made = Drawing(860, 230, "A row adds up its products in the same order in every batch")
    for place, (title, rows) in enumerate((("alone", 1), ("in a batch of three", 3))):
        x = 10 + 430 * place
        made.frame(x, 10, 410, 210, title)
        for row in range(rows):
            y = 45 + 56 * row
            kind = 0 if row == 0 else 1
            made.box(x + 14, y, 74, 42, "row " + "ABC"[row], kind=kind)
            made.box(x + 112, y, 190, 42, "((a+b)+c)+d", "one fixed order", kind=kind)
            made.box(x + 326, y, 70, 42, "logits", kind=kind)
            made.arrow((x + 88, y + 21), (x + 110, y + 21))
            made.arrow((x + 302, y + 21), (x + 324, y + 21))
    made.words(24, 205, "The order depends on the model alone.")
    return made.svg()


def house() -> str:
    """The folders of the repository, and who calls whom."""
    made = Drawing(860, 330, "The folders of the package, and who may import whom")
    top = (("server", "HTTP"), ("text", "strings, ids"), ("bridge", "between both"))
    for place, (name, what) in enumerate(top):
        made.box(20 + 170 * place, 60, 130, 56, name, what)
    made.box(530, 60, 130, 56, "engine", "what to compute")
    made.box(710, 60, 130, 56, "runner", "arrays, batches")
    for place in range(4):
        x = 150 + 170 * place
        made.arrow((x, 88), (x + 38 + 2 * (place == 3), 88))
    for place, (name, what) in enumerate(
        (("sampling", "logits to tokens"), ("model", "what a net is"), ("kernels", "native C++"))
    ):
        made.box(450 + 135 * place, 190, 125, 56, name, what, kind=2)
        made.arrow((775, 116), (512 + 135 * place, 188))
    made.box(190, 190, 130, 56, "checkpoint", "model files", kind=3)
    made.arrow((255, 116), (255, 188))
    made.arrow((720, 116), (720, 150), (340, 150), (322, 190))
    made.box(20, 190, 130, 56, "commands", "the terminal", kind=1)
    made.arrow((85, 188), (85, 118))
    made.arrow((150, 218), (188, 218))
    for place, (name, what) in enumerate(
        (("protocol", "used by all"), ("client", "the SDK"), ("train", "checkpoint, model"))
    ):
        made.box(20 + 170 * place, 266, 150, 52, name, what, kind=1)
    made.words(560, 296, "protocol and client stand alone")
    made.words(20, 36, "service/shoal: imports follow the arrows", bold=True)
    return made.svg()


DRAWINGS = {
    "images/drawings/architecture.svg": architecture,
    "images/drawings/step.svg": step,
    "images/drawings/blocks.svg": blocks,
    "images/drawings/identity.svg": identity,
    "images/drawings/house.svg": house,
}
