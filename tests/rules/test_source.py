"""What no file of the package or of a recipe may hold: too many lines, a way to run code from data,
or, outside of `checkpoint`, the name of a model's file."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.rules.imports import recipe_files, source_files

MAX_LINES = 400

FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "torch.load",
    "yaml.load",
    "numpy.load",
    "np.load",
    "os.system",
}


MODEL_FILE = re.compile(
    r"\b(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|lock|quality"
    r"|adapter_config|model)\.(json|safetensors)\b|\.gguf\b"
)
KNOW_MODEL_FILES = ("checkpoint/", "train/")  # train writes them


def model_file_names(file: str, text: str) -> Iterator[str]:
    """Lines that name a file of a model, where only `checkpoint` may: everybody else asks it."""
    if not file.startswith(KNOW_MODEL_FILES):
        for number, line in enumerate(text.splitlines(), 1):
            if found := MODEL_FILE.search(line):
                yield f"{file}:{number} names {found[0]}"


def dangers(file: str, text: str) -> Iterator[str]:
    """Statements that can turn data into running code."""
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            if found := names & FORBIDDEN_MODULES:
                yield f"{file}:{node.lineno} imports {found.pop()}"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in FORBIDDEN_CALLS and not resumes_training(file, called, keywords):
                yield f"{file}:{node.lineno} calls {called}"
            if keywords.get("shell") == "True" or keywords.get("trust_remote_code") == "True":
                yield f"{file}:{node.lineno} calls {called} with an open door"


def resumes_training(file: str, called: str, keywords: dict[str | None, str]) -> bool:
    """The one exception: a training run reads the checkpoint that it wrote itself, as tensors."""
    return (file, called, keywords.get("weights_only")) == ("train/loop.py", "torch.load", "True")


def test_no_file_is_longer_than_one_can_read() -> None:
    long = {
        file: lines
        for file, text in (source_files() | recipe_files()).items()
        if (lines := text.count("\n")) > MAX_LINES
    }
    assert not long


def test_nothing_turns_data_into_code() -> None:
    files = source_files() | recipe_files()
    found = [danger for file, text in files.items() for danger in dangers(file, text)]
    assert not found, "\n".join(found)


def test_only_checkpoint_knows_the_files_of_a_model() -> None:
    found = [name for file, text in source_files().items() for name in model_file_names(file, text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("line", ["path / 'config.json'", 'f"{x}/lock.json"', "a = 'm.gguf'"])
def test_the_name_of_a_model_file_is_noticed(line: str) -> None:
    assert list(model_file_names("runner/load.py", line))
    assert not list(model_file_names("checkpoint/hf.py", line))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "torch.load(path)",
        "yaml.load(text)",
        "subprocess.run(line, shell=True)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
    ],
)
def test_each_way_to_run_data_is_noticed(code: str) -> None:
    assert list(dangers("example.py", code))


# What an assertion may say of a value that is no input: never of a file's or a request's.
KNOWN_ASSERTIONS = {
    "engine/scheduler.py": "submit.seq_id not in self._sequences",
    "sampling/processors/grammar.py": "token_id == expected",
}


def guards(file: str, text: str) -> Iterator[str]:
    """Assertions that do more than tell a type: `python -O` leaves them out."""
    for node in ast.walk(ast.parse(text, file)):
        if isinstance(node, ast.Assert):
            test = ast.unparse(node.test)
            is_type = re.fullmatch(r"isinstance\([\w., ]+\)|[\w.]+ is not None", test)
            if not is_type and KNOWN_ASSERTIONS.get(file) != test:
                yield f"{file}:{node.lineno} asserts {test}"


def test_no_assertion_guards_input_or_files() -> None:
    found = [
        guard
        for file, text in source_files().items()
        if not file.startswith("client/testing/")
        for guard in guards(file, text)
    ]
    assert not found, "\n".join(found)
    assert list(guards("server/x.py", "assert len(body) < 5"))
    assert not list(guards("server/x.py", "assert x.y is not None, 'why'"))
