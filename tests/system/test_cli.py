"""`shoal` as a real process: pipes and exit codes. The server is a fake one on loopback."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.system.terminal import SHOAL, environment, shoal
from tests.unit.commands.fake_openai import FakeServer, running


def test_a_prompt_comes_from_a_pipe_and_plain_text_goes_into_one() -> None:
    with running(FakeServer(words=("é", "中"))) as server:
        done = shoal("complete", "-", "--max-tokens", "4", "--base-url", server.url, text="Hi")
    assert (done.returncode, done.stdout, done.stderr) == (0, " é 中 é 中", "")
    assert server.asked[0]["prompt"] == "Hi"


def test_a_reader_that_has_seen_enough_ends_the_completion_quietly() -> None:
    with running(FakeServer(token_delay_s=0.02)) as server:
        command = [*SHOAL, "complete", "x", "--max-tokens", "500", "--base-url", server.url]
        with subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(5) == b" blue"
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 0


def test_bench_writes_table_json_and_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    json_file, plot_file = tmp_path / "bench.json", tmp_path / "bench.png"
    with running(FakeServer(first_delay_s=0.03, token_delay_s=0.01)) as server:
        flags = ["--concurrency", "1,4", "--requests", "4", "--max-tokens", "10", "--seed", "5"]
        files = ["--json", str(json_file), "--plot", str(plot_file)]
        done = shoal("bench", "--base-url", server.url, *flags, *files)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    assert "generator at 4" in done.stdout
    assert plot_file.read_bytes().startswith(b"\x89PNG")
    values = json.loads(json_file.read_text())
    assert (values["model"], values["settings"]["seed"]) == ("tiny-a", 5)
    assert values["server_version"] == {"version": "fake-1"}
    one, four = values["levels"]
    assert (one["concurrency"], four["concurrency"]) == (1, 4)
    assert one["num_completed"] == four["num_completed"] == 4
    assert one["ttft_ms"]["p50"] >= 29
    assert one["inter_token_ms"]["p50"] >= 9
    assert four["output_tokens_per_s"] > 1.5 * one["output_tokens_per_s"]


def test_bench_of_a_server_that_only_fails_ends_with_1_and_the_reason(tmp_path: Path) -> None:
    with running(FakeServer(fail_with=(503, "server_is_overloaded"))) as server:
        done = shoal("bench", "--base-url", server.url, "--concurrency", "2", "--requests", "2")
    assert done.returncode == 1
    assert "2 × 503 server_is_overloaded" in done.stdout


def test_bench_without_a_server_is_one_line() -> None:
    with running(FakeServer()) as server:
        pass
    done = shoal("bench", "--base-url", server.url)
    assert done.returncode == 1
    assert done.stderr == f"shoal: no server at {server.url}: start one with `shoal serve`\n"


def test_serve_with_wrong_settings_ends_with_2_and_one_line_each() -> None:
    done = shoal("serve", "--port", "-1", "--dtype", "int3")
    assert done.returncode == 2
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [" --port", " --dtype"]
