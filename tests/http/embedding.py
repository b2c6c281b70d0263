"""Builders for tests of embeddings: the app on encoders, and the vectors that they make."""

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.fakes.fake_runner import solo_embedding
from tests.fakes.http_app import EMBEDDING_SIZE, Served, serve
from tests.fakes.text_folder import CLOSE_ID, END_ID


@asynccontextmanager
async def serve_vectors(folder: Path, **options: Any) -> AsyncIterator[Served]:
    """The app on one encoder, by default nothing else."""
    async with serve(folder, **{"names": (), "encoders": ("vectors",), **options}) as served:
        yield served


async def embed(served: Served, given: Any, **fields: Any) -> httpx.Response:
    return await served.client.post("/v1/embeddings", json={"input": given, **fields})


def ids_of(text: str) -> list[int]:
    return [END_ID, *text.encode(), CLOSE_ID]


def raw_vector(given: str | list[int]) -> bytes:
    return solo_embedding(ids_of(given) if isinstance(given, str) else given, EMBEDDING_SIZE)


def vector(given: str | list[int]) -> list[float]:
    return list(struct.unpack(f"<{EMBEDDING_SIZE}f", raw_vector(given)))


def same(found: Any, wanted: Sequence[float]) -> bool:
    """Are they the same float32 numbers, however they are written?"""
    form = f"<{len(wanted)}f"
    return struct.pack(form, *found) == struct.pack(form, *wanted)
