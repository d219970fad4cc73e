"""Ports of the local servers: free ones, remembered ones."""

from __future__ import annotations

import socket

from deploy.local.ports import HOST, choose_ports, free_port, is_free, is_open


def test_a_wanted_port_that_is_free_is_taken() -> None:
    port = free_port()
    assert choose_ports({"web": port}, {}) == {"web": port}


def test_a_remembered_port_goes_before_the_wanted_one() -> None:
    wanted, remembered = free_port(), free_port()
    assert choose_ports({"web": wanted}, {"web": remembered}) == {"web": remembered}


def test_a_port_that_somebody_holds_is_replaced() -> None:
    with socket.socket() as holder:
        holder.bind((HOST, 0))
        holder.listen()
        held = holder.getsockname()[1]
        assert is_open(held)
        assert not is_free(held)
        chosen = choose_ports({"web": held}, {"web": held})["web"]
        assert chosen != held
    assert not is_open(held)


def test_two_names_never_share_a_port() -> None:
    port = free_port()
    chosen = choose_ports({"web": port, "chain": port}, {})
    assert len(set(chosen.values())) == 2
