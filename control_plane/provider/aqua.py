"""An indexed asset as Aquarius shows it: the document, and what Aquarius adds.

In: an `IndexedAsset`. Out: JSON. This module must never show the document of an asset that its owner has withdrawn.

Source: Aquarius 5.1, whose fields `ocean.py` 3.1.2 reads (`nft`, `datatokens`, `event`, `stats`, `purgatory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control_plane.did import Did
from control_plane.provider.asset_index import IndexedAsset
from control_plane.provider.texts import Texts

WITHDRAWN: Mapping[int, str] = {1: "end-of-life", 2: "deprecated", 3: "revoked"}
"""States in which only what an asset is is shown, and nothing is decrypted. `ocean.py` takes such an asset for disabled."""
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


class Shelf:
    """The texts of all assets that are not withdrawn, in the order that they come in; taken out of an asset again only when it has
    changed."""

    def __init__(self) -> None:
        self._held: tuple[tuple[IndexedAsset, ...], dict[Did, tuple[IndexedAsset, Texts]]] = ((), {})

    def texts_of(self, assets: tuple[IndexedAsset, ...]) -> list[Texts]:
        of, texts = self._held
        if assets is not of:
            known, texts = texts, {}
            for each in assets:
                if each.state not in WITHDRAWN:
                    before = known.get(each.did)
                    is_same = before is not None and _shows_the_same(before[0], each)
                    texts[each.did] = before if before is not None and is_same else (each, Texts(shown(each)))
            self._held = assets, texts
        return [each for _, each in texts.values()]


def _shows_the_same(one: IndexedAsset, other: IndexedAsset) -> bool:
    return (one.document, one.event, one.facts, one.orders) == (other.document, other.event, other.facts, other.orders)


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
