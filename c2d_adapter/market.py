"""Where this machine makes assets: its converter, its object storage, its operator.

In: services. Out: the `Market` that publishing and deriving work on. This module must never open a model's file: conversion is
a child process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from c2d_adapter.storage import ENTRY, WEIGHTS, ObjectStore
from control_plane.errors import BadInput
from control_plane.flows.convert import convert_in_child
from control_plane.flows.entries import Made
from control_plane.flows.market import Conversion, Market
from control_plane.flows.services import Services
from control_plane.settings import Settings
from control_plane.wiring import operator_wallet

_CONVERSION_WITHIN_S = 3600.0


def open_store(settings: Settings) -> ObjectStore | None:
    """The market's object storage; None when none is set."""
    if not settings.s3_url:
        return None
    keys = (settings.s3_key_id, settings.s3_secret)
    return ObjectStore(settings.s3_url, settings.s3_bucket, *keys, encryption=settings.s3_encryption)


def open_market(services: Services, store: ObjectStore | None, report: Callable[[str, float], None]) -> Market:
    """Where this machine's assets go. report: told each stage of a conversion, and its seconds.

    Raises BadInput before `posthuman up` made the log.
    """
    settings = services.settings
    if settings.log_nft is None:
        raise BadInput("POSTHUMAN_LOG_NFT", "the operator's log NFT; `posthuman up` makes it", None)

    operator = operator_wallet(settings)

    def convert(asked: Conversion, out: Path) -> Made:
        return convert_in_child(
            asked.model,
            out,
            task=asked.task,
            revision=asked.revision,
            name=entry_name(asked.name),
            precision=asked.precision,
            parents=asked.parents,
            environ=os.environ,
            scratch=settings.home / "cache" / "conversion",
            timeout_s=_CONVERSION_WITHIN_S,
            report=report,
        )

    def keep(folder: Path, digest: str) -> str:
        assert store is not None  # noqa: S101  # handed over only then
        store.put(ENTRY, folder, digest)
        return f"s3://{settings.s3_bucket}/entries/{digest[2:]}"

    def keep_weights(folder: Path, digest: str) -> str:
        assert store is not None  # noqa: S101  # handed over only then
        store.put(WEIGHTS, folder, digest)
        return f"s3://{settings.s3_bucket}/weights/{digest[2:]}"

    return Market(
        ledger=services.ledger,
        inference=services.server,
        catalogue=services.catalogue,
        convert=convert,
        store=None if store is None else keep,
        store_weights=None if store is None else keep_weights,
        log_nft=settings.log_nft,
        operator=operator.address,
        operator_key=operator.public_key,
        decryptor=operator,
        public_url=settings.public_url,
        base_token=services.network.ocean,
        publish_fee=settings.publish_fee,
        swap_fee=settings.swap_fee,
        models=settings.models,
        weights=settings.weights,
        scratch=settings.home / "cache" / "entries",
        publications=settings.home / "publications",
        algorithms=services.algorithms,
        clock=services.clock,
    )


def entry_name(name: str) -> str:
    """An asset's name as an entry may be called: letters, digits, `.`, `_` and `-`, at most 96."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:96] or "model"
