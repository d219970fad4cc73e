"""The smallest server that speaks OpenAI's API: `python upstream.py PORT WIDTH`. Before it, a proxy's own time is nearly all.

In: completions and embeddings. Out: always the same answer. This module must never wait or compute.
"""

import asyncio
import json
import sys

USAGE = {"prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 21}


def answers(width: int) -> dict[bytes, bytes]:
    """A whole HTTP answer by path."""
    completion = {
        "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "bench", "usage": USAGE,
        "choices": [{"index": 0, "text": " the", "logprobs": None, "finish_reason": "length"}],
    }  # fmt: skip
    vector = [0.0123456789 * (1 + place) for place in range(width)]
    embedding = {
        "object": "list", "model": "bench", "data": [{"object": "embedding", "index": 0, "embedding": vector}],
        "usage": {"prompt_tokens": 20, "total_tokens": 20},
    }  # fmt: skip
    made = {}
    for path, answer in ((b"/v1/completions", completion), (b"/v1/embeddings", embedding)):
        body = json.dumps(answer).encode()
        made[path] = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    return made


class Answering(asyncio.Protocol):
    def __init__(self, made: dict[bytes, bytes]) -> None:
        self._made, self._read = made, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while b"\r\n\r\n" in self._read:
            head, rest = self._read.split(b"\r\n\r\n", 1)
            lines = head.split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines[1:])
            length = int(headers.get(b"content-length", b"0"))
            if len(rest) < length:
                return
            self._read = rest[length:]
            path = lines[0].split(b" ")[1]
            self._transport.write(self._made.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))


async def serve(port: int, width: int) -> None:
    made = answers(width)
    server = await asyncio.get_running_loop().create_server(lambda: Answering(made), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
