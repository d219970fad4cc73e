"""Texts of data set assets, from a server that their publisher named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from c2d_adapter.ocean_texts import OceanTexts
from control_plane.chain.ledger import MODEL_LABEL, data_key
from control_plane.did import Did, TransactionHash
from control_plane.errors import BadInput, Forbidden, NotFound, Unavailable
from control_plane.serving.inference import never
from tests.fixtures_market import Market
from tests.fixtures_words import TEXT
from tests.ocean_assets import index, publish

ORDER = TransactionHash("0x" + "77" * 32)


def published(shop: Market, url: str) -> Any:
    made = publish(shop, url)
    index(shop)
    return made


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    return tmp_path / "texts"


def test_a_data_set_s_files_are_fetched_as_they_are(shop: Market, words: str, into: Path) -> None:
    asset = published(shop, f"http://{words}/words.txt")
    OceanTexts(shop.services)(asset.did, ORDER, into, never)
    assert [(path.name, path.read_bytes()) for path in into.iterdir()] == [("000000.txt", TEXT)]


@pytest.mark.parametrize("url", ["http://{words}/gone.txt", "http://127.0.0.1:1/words.txt"])
def test_a_file_that_cannot_be_had_is_refused_without_its_address(url: str, shop: Market, words: str, into: Path) -> None:
    asset = published(shop, url.format(words=words))
    with pytest.raises(BadInput) as refused:
        OceanTexts(shop.services)(asset.did, ORDER, into, never)
    assert "127.0.0.1" not in refused.value.message


def test_files_are_bounded_all_together(shop: Market, words: str, into: Path) -> None:
    asset = published(shop, f"http://{words}/words.txt")
    shop.services.provider.files.most_bytes = len(TEXT) - 1
    with pytest.raises(BadInput):
        OceanTexts(shop.services)(asset.did, ORDER, into, never)


def test_what_was_not_ordered_or_is_not_there_is_not_read(shop: Market, words: str, into: Path) -> None:
    asset = published(shop, f"http://{words}/words.txt")
    with pytest.raises(Forbidden):
        OceanTexts(shop.services)(asset.did, None, into, never)
    with pytest.raises(NotFound):
        OceanTexts(shop.services)(Did("did:op:" + "0" * 64), ORDER, into, never)


def test_a_model_s_files_are_never_read(shop: Market, words: str, into: Path) -> None:
    asset = published(shop, f"http://{words}/words.txt")
    shop.ledger.record_data(shop.wallet("alice"), "digest", asset.nft, data_key(MODEL_LABEL), bytes(32))
    with pytest.raises(Forbidden):
        OceanTexts(shop.services)(asset.did, ORDER, into, never)
    assert list(into.iterdir()) == []


def test_files_that_nobody_needs_any_more_are_not_fetched_to_their_end(shop: Market, words: str, into: Path) -> None:
    asset = published(shop, f"http://{words}/words.txt")
    with pytest.raises(Unavailable):
        OceanTexts(shop.services)(asset.did, ORDER, into, lambda: True)
