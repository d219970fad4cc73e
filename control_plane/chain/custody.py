"""Assets that a platform makes for somebody else, without that one's key, and has no right over afterwards.

In: an owner, terms, what to record. Out: actions, one a transaction, and who has which right now. This module must never sign or
send.

The owner has the NFT from its first block. The platform is let in for as long as it writes: as deployer of datatokens and as
updater of metadata (arguments of `deployERC721Contract`), and as the datatoken's first minter. It takes itself out of all three
lists.
Source: ocean-contracts 2.0.3, ERC721Factory, ERC721RolesAddress, ERC20Template.
"""

from __future__ import annotations

from control_plane.chain.assets import MAX_UINT256, NFT_ID, TEMPLATE, read
from control_plane.chain.contracts import call_data, events, topic
from control_plane.chain.ledger import Network, Rights, Terms
from control_plane.chain.rpc import Mined, Rpc
from control_plane.chain.transaction import Action
from control_plane.did import ZERO_ADDRESS, Address, Bytes32, TokenWei
from control_plane.errors import Refused

_NFT, _DATATOKEN = "ERC721Template", "ERC20Template"
MOST_SENDERS = 256
"""Transactions that are asked who sent them: who may mint makes any number. A platform's is among the first."""


def nft_action(network: Network, platform: Address, owner: Address, name: str, symbol: str) -> Action:
    arguments = [name, symbol, TEMPLATE, platform, platform, "", True, owner]
    return Action(network.factory, call_data("ERC721Factory", "deployERC721Contract", arguments))


def is_refused_by(rpc: Rpc, network: Network, platform: Address, owner: Address, name: str, symbol: str) -> bool:
    """Whether an NFT can be made, but not for `owner`: an account with code is asked whether it takes one (ERC-721)."""
    for to in (platform, owner):
        action = nft_action(network, platform, to, name, symbol)
        try:
            rpc.call(network.factory, action.data, platform)
        except Refused:
            return to != platform
    return False


def datatoken_action(nft: Address, platform: Address, owner: Address, name: str, symbol: str, terms: Terms) -> Action:
    """The platform mints, and the owner collects what orders pay; the marketplace owner gets the publish-market fee."""
    addresses = [platform, owner, terms.marketplace_owner, terms.base_token]
    arguments = [TEMPLATE, [f"{name} access"[:128], symbol], addresses, [MAX_UINT256, terms.publish_fee], []]
    return Action(nft, call_data(_NFT, "createERC20", arguments))


def created_datatoken(network: Network, mined: Mined) -> Address:
    found = events("ERC721Factory", "TokenCreated", mined.logs, network.factory)
    if len(found) != 1:
        raise Refused(f"{mined.transaction}: expected one datatoken, found {len(found)}")
    return Address(found[0][1]["newTokenAddress"])


def price_action(rpc: Rpc, network: Network, datatoken: Address, owner: Address, terms: Terms) -> Action:
    """A fixed rate that the owner may change and is paid by; it may mint datatokens as they are bought."""
    (decimals,) = read(rpc, _DATATOKEN, terms.base_token, "decimals")
    addresses = [terms.base_token, owner, terms.marketplace_owner, ZERO_ADDRESS]
    amounts = [decimals, 18, terms.rate, terms.swap_fee, 1]
    return Action(datatoken, call_data(_DATATOKEN, "createFixedRate", [network.fixed_rate, addresses, amounts]))


def created_price(network: Network, mined: Mined, datatoken: Address) -> Bytes32:
    found = events("FixedRateExchange", "ExchangeCreated", mined.logs, network.fixed_rate)
    if len(found) != 1 or found[0][1]["datatoken"] != datatoken:
        raise Refused(f"{mined.transaction}: expected one fixed rate for {datatoken}, found {len(found)}")
    return Bytes32("0x" + found[0][1]["exchangeId"].hex())


def mint_action(datatoken: Address, to: Address, amount: TokenWei) -> Action:
    return Action(datatoken, call_data(_DATATOKEN, "mint", [to, amount]))


def add_minter_action(datatoken: Address, minter: Address) -> Action:
    return Action(datatoken, call_data(_DATATOKEN, "addMinter", [minter]))


def record_action(datatoken: Address, value: bytes) -> Action:
    """The datatoken's one value on its NFT, see lineage.py."""
    return Action(datatoken, call_data(_DATATOKEN, "setData", [value]))


def leave_actions(nft: Address, datatoken: Address, platform: Address) -> tuple[tuple[str, Action], ...]:
    """What takes each right away, named as in `Rights`. Who may deploy decides about minters, so that right goes last."""
    return (
        ("may_mint", Action(datatoken, call_data(_DATATOKEN, "removeMinter", [platform]))),
        ("may_describe", Action(nft, call_data(_NFT, "removeFromMetadataList", [platform]))),
        ("may_deploy", Action(nft, call_data(_NFT, "removeFromCreateERC20List", [platform]))),
    )


def check_minted(mined: Mined, datatoken: Address, to: Address, amount: TokenWei) -> None:
    """The transaction of `mint_action` minted just that, says its own event. What the owner mints himself is none of ours."""
    made = [(values["from"], values["to"], values["value"]) for _, values in events(_DATATOKEN, "Transfer", mined.logs, datatoken)]
    if made != [(ZERO_ADDRESS, to, amount)]:
        raise Refused(f"{mined.transaction}: expected {amount} of {datatoken} minted to {to}, found {made}")


def taken_by_owner(
    rpc: Rpc, network: Network, step: str, nft: Address, datatoken: Address | None, platform: Address, amount: TokenWei
) -> str | None:
    """What the NFT's owner did that keeps the platform from this step, as a sentence's end; None where he is not the reason.

    Only the owner, and whom he lets, can do any of it: the platform made both contracts and leaves after the last step.
    """
    ((_, may_deploy, _, _),) = read(rpc, _NFT, nft, "getPermissions", platform)
    if step != "mint" and not may_deploy:
        return f"took the right to deploy from {platform}"
    if datatoken is None:
        return None
    if step == "price":
        ((is_rate_minter, _),) = read(rpc, _DATATOKEN, datatoken, "getPermissions", network.fixed_rate)
        if is_rate_minter or read(rpc, _DATATOKEN, datatoken, "getFixedRates")[0]:
            return "gave its datatoken a fixed rate of his own"
    if step == "mint":
        ((may_mint, _),) = read(rpc, _DATATOKEN, datatoken, "getPermissions", platform)
        if not may_mint:
            return f"took the right to mint from {platform}"
        if read(rpc, _DATATOKEN, datatoken, "totalSupply")[0] + amount > MAX_UINT256:
            return "minted so much that nothing can be minted any more"
    return None


def rights(rpc: Rpc, nft: Address, datatoken: Address, account: Address) -> Rights:
    (owner,) = read(rpc, _NFT, nft, "ownerOf", NFT_ID)
    ((is_manager, may_deploy, may_describe, may_store),) = read(rpc, _NFT, nft, "getPermissions", account)
    ((may_mint, is_collecting),) = read(rpc, _DATATOKEN, datatoken, "getPermissions", account)
    return Rights(
        is_owner=owner == account,
        is_manager=bool(is_manager),
        may_deploy=bool(may_deploy),
        may_describe=bool(may_describe),
        may_store=bool(may_store),
        may_mint=bool(may_mint),
        may_collect=bool(is_collecting),
    )


def minted(rpc: Rpc, network: Network, datatoken: Address, to: Address, by: Address | None) -> tuple[TokenWei, ...]:
    """Amounts that came from nobody: `Transfer` events from the zero address, oldest first."""
    from_nobody, receiver = (f"0x{address[2:].lower():0>64}" for address in (ZERO_ADDRESS, to))
    topics = [topic(_DATATOKEN, "Transfer"), from_nobody, receiver]
    logs = rpc.logs(datatoken, topics, network.start_block, rpc.head().number)
    found = events(_DATATOKEN, "Transfer", logs, datatoken)
    if by is not None:
        first = list(dict.fromkeys(log.transaction for log, _ in found))[:MOST_SENDERS]
        theirs = {each for each in first if (mined := rpc.receipt(each)) is not None and mined.sender == by}
        found = [(log, values) for log, values in found if log.transaction in theirs]
    return tuple(TokenWei(values["value"]) for _, values in found)
