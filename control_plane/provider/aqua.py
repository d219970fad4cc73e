"""An indexed asset as Aquarius shows it: the document, and what Aquarius adds.

In: an `IndexedAsset`. Out: JSON. This module must never show the document of an asset that its owner has withdrawn.

Source: Aquarius 5.1, whose fields `ocean.py` 3.1.2 reads (`nft`, `datatokens`, `event`, `stats`, `purgatory`).
"""

from __future__ import annotations

from typing import Any

from control_plane.provider.asset_index import IndexedAsset

WITHDRAWN = (1, 2, 3)
"""End of life, deprecated, revoked: only what they are is shown then. `ocean.py` takes such an asset for disabled."""
_ONE = 10**18


def shown(asset: IndexedAsset) -> dict[str, Any]:
    facts = asset.facts
    nft = {
        "address": asset.nft,
        "name": facts["name"],
        "symbol": facts["symbol"],
        "state": facts["state"],
        "tokenURI": facts["token_uri"],
        "owner": facts["owner"],
        "created": facts["created"],
    }
    if asset.state in WITHDRAWN:
        kept = {name: asset.document[name] for name in ("@context", "id", "version", "chainId", "nftAddress")}
        return {**kept, "nft": nft, "event": dict(asset.event)}
    return {
        **asset.document,
        "nft": nft,
        "datatokens": _datatokens(asset),
        "event": dict(asset.event),
        "stats": {"allocated": 0, "orders": asset.orders, "price": _price(asset)},
        "purgatory": {"state": False},
    }


def _datatokens(asset: IndexedAsset) -> list[dict[str, Any]]:
    """One a service; names are empty where the datatoken is none of the NFT's."""
    known = {each["address"]: each for each in asset.facts["datatokens"]}
    return [
        {
            "address": service["datatokenAddress"],
            "name": known.get(service["datatokenAddress"], {}).get("name", ""),
            "symbol": known.get(service["datatokenAddress"], {}).get("symbol", ""),
            "serviceId": service["id"],
        }
        for service in asset.document["services"]
    ]


def _price(asset: IndexedAsset) -> dict[str, Any]:
    """Of the first datatoken that is sold; nothing where none is."""
    for datatoken in asset.facts["datatokens"]:
        if datatoken["price"] is not None:
            sold_for = {"tokenAddress": datatoken["base_token"], "tokenSymbol": datatoken["base_symbol"]}
            return {"value": int(datatoken["price"]) / _ONE, **(sold_for if datatoken["base_token"] else {})}
    return {}
