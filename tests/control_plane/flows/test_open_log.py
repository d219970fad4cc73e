"""The operator's log and the keys on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.chain.ledger import KEYS_LABEL, data_key
from control_plane.did import ZERO_ADDRESS
from control_plane.errors import BadInput
from control_plane.flows.open_log import keys_value, open_log
from tests.fixtures_chain import BOTH, Chain, anvil, either_chain

__all__ = ["anvil"]

ONE_KEY, OTHER_KEY = bytes(32), bytes(range(32))


@pytest.fixture(params=BOTH)
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    return either_chain(request.param, request, tmp_path)


def test_a_log_is_opened_once_and_its_keys_stand_on_it(chain: Chain) -> None:
    operator = chain.wallets["operator"]
    nft = open_log(chain.ledger, operator, operator.address, ONE_KEY)
    assert open_log(chain.ledger, operator, operator.address, ONE_KEY) == nft
    (record,) = chain.ledger.data_history(nft, data_key(KEYS_LABEL))
    assert record.value == bytes.fromhex(operator.address[2:]) + ONE_KEY
    assert chain.ledger.asset(nft).owner == operator.address


def test_changed_keys_are_added_also_when_an_old_one_comes_back(chain: Chain) -> None:
    operator, signer = chain.wallets["operator"], chain.wallets["carol"].address
    for key in (ONE_KEY, OTHER_KEY, ONE_KEY, ONE_KEY):
        nft = open_log(chain.ledger, operator, signer, key)
    history = chain.ledger.data_history(nft, data_key(KEYS_LABEL))
    assert [record.value[20:] for record in history] == [ONE_KEY, OTHER_KEY, ONE_KEY]


def test_two_operators_have_two_logs(chain: Chain) -> None:
    opened = {open_log(chain.ledger, chain.wallets[name], chain.wallets[name].address, ONE_KEY) for name in ("operator", "derek")}
    assert len(opened) == 2


def test_an_ed25519_key_has_32_bytes() -> None:
    with pytest.raises(BadInput, match="checkpoint public key"):
        keys_value(ZERO_ADDRESS, b"short")
