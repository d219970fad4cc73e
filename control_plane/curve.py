"""The one number of secp256k1 that everything which signs or checks a signature needs.

In: nothing. Out: the order of the curve. This module must never hold a key.
"""

from __future__ import annotations

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Number of points of secp256k1 (SEC 2, section 2.4.1); a key, and each half of a signature, is between 0 and this, exclusive."""

HIGHEST_S = CURVE_ORDER // 2
"""EIP-2: of the two signatures that are possible for one message, the one with the lower s."""
