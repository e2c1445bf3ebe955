"""Runs a closed loop of HTTP clients: each sends a request, reads the answer, sends the next one.

    python -m scripts.bench.http_load 127.0.0.1:8080 request.bin --clients 32 --seconds 60

request.bin holds a complete request, including its headers. Prints JSON. It is one process with
plain sockets, so that this side costs as little as possible; run it on a core of its own.
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
    request = a.request.read_bytes()
    figures = asyncio.run(load(host, int(port), request, a.clients, a.seconds))
    print(json.dumps(figures))


async def load(host, port, request, clients, seconds):
    """Returns {"requests_per_second", "p50", "p99", milliseconds, "answers": {status: count}}."""
    latencies = []
    statuses = {}
    begun = time.perf_counter()
    end = begun + seconds
    await asyncio.gather(
        *(_client(host, port, request, end, latencies, statuses) for _ in range(clients))
    )
    latencies.sort()
    return {
        "requests_per_second": len(latencies) / (time.perf_counter() - begun),
        "p50": 1000 * statistics.median(latencies),
        "p99": 1000 * latencies[int(0.99 * (len(latencies) - 1))],
        "answers": statuses,
    }


async def _client(host, port, request, end, latencies, statuses):
    """Runs one client, which reconnects when the server closes its connection."""
    reader = None
    writer = None
    while (start := time.perf_counter()) < end:
        if writer is None:
            reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        status, is_last = await _answer(reader)
        latencies.append(time.perf_counter() - start)
        statuses[status] = statuses.get(status, 0) + 1
        if is_last:
            writer.close()
            writer = None
    if writer is not None:
        writer.close()


async def _answer(reader):
    """Reads an answer; returns (status, whether the server closes the connection)."""
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
