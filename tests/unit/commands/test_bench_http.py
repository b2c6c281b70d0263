"""The generator's HTTP client: decoding in any cut, and what it says about addresses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shoal.commands.bench.http import (
    Address,
    ChunkedDecoder,
    Connection,
    ExchangeFailed,
    parse_address,
    render_request,
)


@pytest.mark.parametrize("size", range(1, 12))
def test_chunked_bodies_are_decoded_in_any_cut(size: int) -> None:
    coded = b"5\r\nhello\r\n1;ext=1\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n"
    decoder = ChunkedDecoder()
    body = b"".join(decoder.feed(coded[i : i + size]) for i in range(0, len(coded), size))
    assert body == b"hello 0123456789"
    assert decoder.done


def test_a_part_of_a_chunk_is_passed_on_at_once() -> None:
    assert ChunkedDecoder().feed(b"a\r\nabc") == b"abc"


def test_a_chunk_size_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ValueError):
        ChunkedDecoder().feed(b"zz\r\n")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", Address("http", "127.0.0.1", 8000)),
        ("127.0.0.1:9", Address("http", "127.0.0.1", 9)),
        ("http://localhost/v1/", Address("http", "localhost", 80)),
        ("https://h/models/v1", Address("https", "h", 443, "/models")),
        ("http://[::1]:7", Address("http", "::1", 7)),
    ],
)
def test_addresses_are_read_with_or_without_v1(url: str, expected: Address) -> None:
    assert parse_address(url) == expected


@pytest.mark.parametrize("url", ["ftp://h", "http://", "http://h:port", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_address(url)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "10.0.0.1", "example.org", "0.0.0.0"]
)
def test_only_loopback_addresses_count_as_this_machine(host: str) -> None:
    here = host.startswith("127.") or host in ("::1", "localhost")
    assert Address("http", host, 80).is_loopback is here


@asynccontextmanager
async def answering(reply: bytes, then_close: bool = True) -> AsyncIterator[Address]:
    """A server that sends the same bytes to every request."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(reply)
                await writer.drain()
                if then_close:
                    break
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Address("http", "127.0.0.1", server.sockets[0].getsockname()[1])


def get(address: Address) -> bytes:
    return render_request(address, "GET", "/", b"", api_key="", keep_alive=True)


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\n\r\nhello") as address:
        response = await Connection(address).exchange(get(address))
    assert (response.status, response.body) == (200, b"hello")


async def test_one_connection_serves_many_requests() -> None:
    reply = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"
    async with answering(reply, then_close=False) as address:
        connection = Connection(address)
        for _ in range(3):
            response = await connection.exchange(get(address))
            assert (response.status, response.body) == (404, b"no")
        connection.close()


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"", "connection_closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "connection_closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "stream_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "stream_cut"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "protocol_error"),
        (b"SSH-2.0-nothing\r\n\r\n", "protocol_error"),
    ],
)
async def test_each_kind_of_broken_answer_has_its_name(reply: bytes, kind: str) -> None:
    async with answering(reply) as address:
        with pytest.raises(ExchangeFailed) as failed:
            await asyncio.wait_for(Connection(address).exchange(get(address)), 10)
    assert failed.value.kind == kind


async def test_nobody_listening_is_connect_failed() -> None:
    async with answering(b"") as address:
        pass
    with pytest.raises(ExchangeFailed) as failed:
        await Connection(address).exchange(get(address))
    assert failed.value.kind == "connect_failed"


def test_the_key_travels_as_a_bearer_token() -> None:
    address = Address("http", "::1", 8000, "/base")
    request = render_request(address, "POST", "/x", b"{}", api_key="k", keep_alive=False)
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/x HTTP/1.1\r\nHost: [::1]:8000\r\n")
    assert b"\r\nAuthorization: Bearer k" in head
    assert b"\r\nConnection: close\r\n" in head
    assert body == b"{}"
