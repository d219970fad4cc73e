"""The texts of a data set asset on Ocean, fetched from where its publisher keeps them.

In: a DID, the market's index of assets. Out: files of text. This module must never fetch a model's files, nor keep or tell where a
file lies: its address is the publisher's secret.

Whether the job's owner has ordered the data set was decided when the job was (`jobs/access.py`), and is not asked again: what was
good for the job stays good for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from control_plane.did import Did, TransactionHash
from control_plane.errors import BadInput, Forbidden, NotFound, Unavailable
from control_plane.flows.compute import dataset_service
from control_plane.flows.consume import Service, check_no_model
from control_plane.flows.services import Services
from control_plane.provider.fetch import FILE_BROKE_OFF, RemoteFile
from control_plane.provider.files import read_files


class OceanTexts:
    """A `TextsOf`, see `texts.py`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def __call__(self, did: Did, order: TransactionHash | None, into: Path, is_over: Callable[[], bool]) -> None:
        services, chain_id = self._services, self._services.network.chain_id
        if order is None:
            raise Forbidden(f"{did}: expected an order of the data set, found none", code="dataset_not_ordered")
        found = dataset_service(services.provider.assets, did)
        asset = services.provider.assets.find(did)
        if asset is None:
            raise NotFound(f"{did}: its document was taken off the chain", code="dataset_unknown")
        record = asset.document["services"][found.index]
        check_no_model(services, Service(asset, record, found.index, chain_id), services.ledger.asset(asset.nft))
        left = services.provider.files.most_bytes
        for number, file in enumerate(read_files(record, asset.nft, services.provider.key)):
            left -= self._fetch(file, into / f"{number:06}.txt", is_over)
            if left < 0:
                raise BadInput(
                    "files", f"{services.provider.files.most_bytes} bytes in all at most", "more", code="files_too_large"
                )

    def _fetch(self, file: RemoteFile, path: Path, is_over: Callable[[], bool]) -> int:
        if is_over():
            raise _too_long()
        fetched, size = self._services.provider.files.open(file), 0
        try:
            with path.open("wb") as stream:
                for chunk in fetched.chunks:
                    if is_over():
                        raise _too_long()
                    size += stream.write(chunk)
        finally:
            fetched.close()
        return size


def _too_long() -> Unavailable:
    return Unavailable("the files took too long, or are not needed any more", code=FILE_BROKE_OFF)
