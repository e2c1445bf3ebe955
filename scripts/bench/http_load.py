"""A closed loop of HTTP clients: each sends a request, reads the answer, and sends the next one.

    python -m scripts.bench.http_load 127.0.0.1:8080 request.bin --clients 32 --seconds 60

request.bin holds a whole request, its headers included. Prints JSON. One process with plain
sockets, so that as little as can be is spent on this side; run it on a core of its own.
"""

import argparse
import asyncio
import json
import pathlib
import statistics
import time


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="HOST:PORT")
    parser.add_argument("request", type=pathlib.Path)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    a = parser.parse_args()
    host, _, port = a.address.rpartition(":")
    print(
        json.dumps(asyncio.run(load(host, int(port), a.request.read_bytes(), a.clients, a.seconds)))
    )


async def load(host, port, request, clients, seconds):
    """Returns {"requests_per_second", "p50", "p99", milliseconds, "answers": {status: count}}."""
    took = []
    statuses = {}
    begun = time.perf_counter()
    end = begun + seconds
    await asyncio.gather(
        *(_client(host, port, request, end, took, statuses) for _ in range(clients))
    )
    took.sort()
    return {
        "requests_per_second": len(took) / (time.perf_counter() - begun),
        "p50": 1000 * statistics.median(took),
        "p99": 1000 * took[int(0.99 * (len(took) - 1))],
        "answers": statuses,
    }


async def _client(host, port, request, end, took, statuses):
    """One client, which opens another connection where the server closes its own."""
    reader = writer = None
    while (start := time.perf_counter()) < end:
        if writer is None:
            reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        status, last = await _answer(reader)
        took.append(time.perf_counter() - start)
        statuses[status] = statuses.get(status, 0) + 1
        if last:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def _answer(reader):
    """Returns (status, whether the server closes the connection)."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"content-length" in headers:
        await reader.readexactly(int(headers[b"content-length"]))
    else:  # chunks
        while size := int(await reader.readline(), 16):
            await reader.readexactly(size + 2)
        await reader.readline()
    return status, headers.get(b"connection") == b"close"


if __name__ == "__main__":
    main()
