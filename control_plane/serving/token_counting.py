"""Counts tokens, in a process of its own: `python token_counting.py <tokenizer.json>`.

In: on standard input, a byte (1: with special tokens), a length of 4 bytes and as many bytes of UTF-8, again and again. Out: on
standard output the number of tokens, 4 bytes each. This program must never write anything else: a text may be a prompt.

A process, since the library (tokenizers 0.22.2) holds Python's lock while it opens a tokenizer, for up to a second: in the gate's
own process every call would wait. It imports nothing of ours, and ends when its input does.
"""

from __future__ import annotations

import struct
import sys

ASKED = struct.Struct("<?I")
ANSWERED = struct.Struct("<I")


def main(path: str) -> None:
    import tokenizers  # here, for the gate's own process imports this file for its two formats alone

    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    while len(head := asked.read(ASKED.size)) == ASKED.size:
        has_special, length = ASKED.unpack(head)
        text = asked.read(length).decode("utf-8")
        answers.write(ANSWERED.pack(len(tokenizer.encode(text, add_special_tokens=has_special))))
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1])
