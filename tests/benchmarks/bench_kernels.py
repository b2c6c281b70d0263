"""Times native model steps against the same network in PyTorch, side by side in one run.

Run from the repository root: python -m tests.benchmarks.bench_kernels --help
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from shoal.kernels.native import NativeModel
from shoal.model.spec import DecoderSpec, LayerSpec, MlpSpec, NormSpec, Role
from tests.kernels.building import Weights, attention, bf16_weights, make_weights

CONTEXT = 192
SHAPES = {  # vocab_size, hidden_size, layers, heads, KV heads, head_dim, intermediate_size
    "14m": (8192, 384, 6, 6, 6, 64, 1024),
    "135m": (49152, 576, 30, 9, 3, 64, 1536),
    "0.5b": (151936, 896, 24, 14, 2, 64, 4864),
}


def make_spec(shape: str) -> DecoderSpec:
    vocab_size, hidden_size, num_layers, heads, kv_heads, head_dim, inside = SHAPES[shape]
    norm = NormSpec("rms", 1e-5)
    layer = LayerSpec(attention(heads, kv_heads, head_dim), MlpSpec(inside), norm, norm)
    return DecoderSpec(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        max_position_embeddings=2048,
        layers=(layer,) * num_layers,
        final_norm=norm,
        tied_head=True,
    )


def best_ms(run: Callable[[], object], seconds: float) -> tuple[float, float]:
    """Fastest and median milliseconds of one run."""
    run()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times), 1e3 * float(np.median(times))


def step_arrays(rows: int, tokens: int, context: int, vocab: int) -> list[np.ndarray]:
    """`rows` rows with `tokens` new tokens each, the last ones of `context`."""
    blocks = -(-context // 16)
    tables = np.arange(rows * blocks, dtype=np.int32).reshape(rows, blocks)
    positions = np.tile(np.arange(context - tokens, context, dtype=np.int32), rows)
    row_of = np.repeat(np.arange(rows), tokens)
    slots = tables[row_of, positions // 16] * 16 + positions % 16
    ids = np.random.default_rng(0).integers(0, vocab, rows * tokens)
    starts = np.arange(rows + 1) * tokens
    last = starts[1:] - 1
    parts = [ids, positions, slots, starts, np.full(rows, context), tables, last]
    return [np.ascontiguousarray(part, np.int32) for part in parts]


def fill_cache(model: NativeModel, rows: int, context: int, vocab: int) -> None:
    """Computes every row's context: memory never written is one page that all blocks share."""
    ids, positions, slots, starts, lens, tables, last = step_arrays(1, context, context, vocab)
    for row in range(rows):
        first = row * tables.shape[1]
        model.forward_greedy(ids, positions, slots + first * 16, starts, lens, tables + first, last)


def torch_step(spec: DecoderSpec, weights: Weights, dtype: str, rows: int) -> Callable[[], object]:
    """One decode step of `rows` rows, eager, cache as dense tensors (its best case)."""
    import torch
    from torch.nn import functional as F

    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    w = {role: torch.from_numpy(v).to(kind) for role, v in weights.items()}
    heads = spec.layers[0].attention
    cos, sin = (torch.randn(rows, 1, 1, heads.head_dim, dtype=kind) for _ in range(2))
    shape = (spec.num_layers, rows, heads.num_kv_heads, CONTEXT, heads.head_dim)
    keys, values = torch.randn(shape, dtype=kind), torch.randn(shape, dtype=kind)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), -1) * sin

    def norm(x: torch.Tensor, name: str, layer: int | None = None) -> torch.Tensor:
        return F.rms_norm(x, (spec.hidden_size,), w[Role(f"{name}.weight", layer)])

    @torch.inference_mode()
    def step() -> object:
        x = w[Role("embedding")][:rows]
        for i in range(spec.num_layers):

            def linear(y: torch.Tensor, name: str, layer: int = i) -> torch.Tensor:
                return F.linear(y, w[Role(f"{name}.weight", layer)])

            y = norm(x, "attention_norm", i)
            q, k, v = (linear(y, n).view(rows, -1, 1, heads.head_dim) for n in "qkv")
            keys[i, :, :, -1:], values[i, :, :, -1:] = rotated(k), v
            y = F.scaled_dot_product_attention(rotated(q), keys[i], values[i], enable_gqa=True)
            x = x + linear(y.reshape(rows, -1), "output")
            y = norm(x, "mlp_norm", i)
            y = F.silu(linear(y, "gate")) * linear(y, "up")
            x = x + linear(y, "down")
        return F.linear(norm(x, "final_norm"), w[Role("embedding")]).argmax(-1)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="14m")
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16", "int8", "int4"])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--no-torch", action="store_true")
    options = parser.parse_args()
    spec = make_spec(options.shape)
    weights = make_weights(spec)
    size = sum(v.size for v in weights.values() if v.ndim == 2)
    for dtype in options.dtype:
        kept = bf16_weights(weights) if dtype == "bfloat16" else weights
        for threads in options.threads:
            model = NativeModel(
                spec, kept, dtype=dtype, num_blocks=2048, max_tokens=2048, num_threads=threads
            )
            for rows in options.rows:
                fill_cache(model, rows, CONTEXT, spec.vocab_size)
                inputs = step_arrays(rows, 1, CONTEXT, spec.vocab_size)
                best, median = best_ms(partial(model.forward_greedy, *inputs), options.seconds)
                line = f"{dtype:9} {threads} threads, decode {rows:3} rows: {best:7.2f} ms best, "
                line += f"{median:7.2f} median, {2e-6 * size * rows / best:6.1f} GF/s"
                if not options.no_torch and dtype in ("float32", "bfloat16"):
                    import torch

                    torch.set_num_threads(threads)
                    slow, _ = best_ms(torch_step(spec, weights, dtype, rows), options.seconds)
                    line += f", torch {slow:7.2f} ms = {slow / best:.1f} x"
                print(line, flush=True)
            inputs = step_arrays(1, options.prefill, options.prefill, spec.vocab_size)
            best, _ = best_ms(partial(model.forward_greedy, *inputs), options.seconds)
            rate = options.prefill / best * 1e3
            line = f"{dtype:9} {threads} threads, prefill {options.prefill}: {best:.1f} ms, "
            print(line + f"{rate:.0f} tokens/s ({model.kernel_set})", flush=True)


if __name__ == "__main__":
    main()
