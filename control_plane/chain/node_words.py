"""What nodes say when a contract's execution failed, apart from what they say when they fail themselves.

In: the error that a node answered `eth_call` or `eth_estimateGas` with. Out: whose failure it is. This module must never take a
node's own trouble for a contract's: what is not listed here counts as the node's.

Nodes give both the same codes (-32000, -32603), so it is the words that tell. Sources: go-ethereum `core/vm/errors.go`, whose words
Erigon and newer Nethermind have too; revm's `InstructionResult`, whose names anvil (1.7.1, asked) and Reth show; Besu's
`ExceptionalHaltReason`; OpenEthereum and older Nethermind: code -32015.
"""

from __future__ import annotations

import re

REVERTED, EXECUTION_FAILED = 3, -32015
"""Codes that stand for nothing else: a revert (geth), a failed execution (OpenEthereum, Nethermind)."""

_WORDS = (
    "out of gas",
    "gas required exceeds allowance",
    "gas uint64 overflow",
    "memory OOG",
    "memory limit OOG",
    "invalid operand OOG",
    "precompile OOG",
    "reentrancy sentry OOG",
    "invalid opcode",
    "invalid FE opcode",
    "opcode not found",
    "bad instruction",
    "EVM error not activated",
    "stack underflow",
    "stack overflow",
    "stack limit reached",
    "invalid jump",
    "bad jump destination",
    "write protection",
    "state change during static call",
    "call not allowed inside static",
    "static call violation",
    "illegal state change",
    "return data out of bounds",
    "out of offset",
    "precompile error",
    "precompile failure",
    "VM execution error",
    "VM exception while processing",
)
"""As people read them; compared without spaces, digits and case, since some nodes write names and others sentences."""


def is_of_the_contract(code: object, message: str) -> bool:
    """code, message: of the JSON-RPC error."""
    if code in (REVERTED, EXECUTION_FAILED):
        return True
    said = _letters(message)
    return "revert" in said or any(words in said for words in _KNOWN)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


_KNOWN = frozenset(_letters(words) for words in _WORDS)
