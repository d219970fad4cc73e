"""What the market is made of as an Ocean Provider.

In: nothing. Out: the frozen record `Provider`, which `wiring.py` fills. This module must never build a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from control_plane.did import Address
from control_plane.provider.asset_index import AssetIndex
from control_plane.provider.fetch import Fetcher
from control_plane.provider.nonces import UserNonces
from control_plane.provider.tokens import AuthTokens


class ProviderKey(Protocol):
    """The operator's wallet, which documents are encrypted to. public_key: 64 bytes x, y."""

    address: Address
    public_key: bytes

    def decrypt(self, sealed: bytes) -> bytes:
        """Raises BadInput for what was encrypted to somebody else."""

    def sign_digest(self, digest: bytes) -> bytes:
        """65 bytes r, s, v with v 27 or 28."""


@dataclass(frozen=True)
class Provider:
    key: ProviderKey
    nonces: UserNonces
    tokens: AuthTokens
    assets: AssetIndex
    files: Fetcher
