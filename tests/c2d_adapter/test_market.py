"""The weights of what a market sells: here, from object storage, or not at all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from c2d_adapter.market import trainable
from c2d_adapter.storage import WEIGHTS
from control_plane.did import Bytes32, TokenWei
from control_plane.errors import IntegrityBroken, NotFound, Refused
from control_plane.serving.listing import Listing
from control_plane.settings import Settings, read_settings
from converters.weights_folder import WeightsDigest, weights_digest, weights_name
from tests.converters.test_weights_folder import make_weights
from tests.fixtures_objects import S3Server, s3

__all__ = ["s3"]


def a_listing(weights: WeightsDigest | None) -> Listing:
    nothing = Bytes32("0x" + "00" * 32)
    names = ("did", "name", "text-generation", "m-0", nothing, 8996, "nft", "datatoken", None, "publisher", 0, 60)
    listing = Listing(*names, TokenWei(1), "ocean", TokenWei(0), 0, 0.0)  # type: ignore[arg-type]  # only the weights count
    return replace(listing, weights_digest=None if weights is None else Bytes32(weights))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return read_settings({"POSTHUMAN_HOME": str(tmp_path / "home")})


@pytest.fixture
def kept(settings: Settings, tmp_path: Path) -> tuple[WeightsDigest, Path]:
    """Weights as publishing leaves them."""
    made = make_weights(tmp_path / "made", **{"model.safetensors": tmp_path.name.encode()})
    digest = weights_digest(made)
    folder = settings.weights / weights_name(digest)
    settings.weights.mkdir(parents=True)
    return digest, Path(shutil.move(made, folder))


def test_what_was_published_from_a_finished_entry_cannot_be_trained(settings: Settings) -> None:
    with pytest.raises(Refused, match="cannot be trained") as refused:
        trainable(settings, None, a_listing(None))
    assert refused.value.code == "not_trainable"


def test_kept_weights_are_read_through_before_they_are_used(settings: Settings, kept: tuple[WeightsDigest, Path]) -> None:
    digest, folder = kept
    assert trainable(settings, None, a_listing(digest)) == folder
    (folder / "model.safetensors").write_bytes(b"swapped")
    with pytest.raises(IntegrityBroken, match=f"expected the weights {digest}"):
        trainable(settings, None, a_listing(digest))
    shutil.rmtree(folder)
    with pytest.raises(IntegrityBroken, match="found none"):
        trainable(settings, None, a_listing(digest))


@pytest.mark.live
@pytest.mark.parametrize("fault", ["lost", "swapped"])
def test_weights_that_are_lost_or_swapped_come_from_object_storage(
    settings: Settings, kept: tuple[WeightsDigest, Path], s3: S3Server, fault: str
) -> None:
    digest, folder = kept
    s3.store().put(WEIGHTS, folder, digest)
    if fault == "lost":
        shutil.rmtree(folder)
    else:
        (folder / "model.safetensors").write_bytes(b"swapped")
    assert trainable(settings, s3.store(), a_listing(digest)) == folder
    assert weights_digest(folder) == digest


@pytest.mark.live
def test_lost_weights_without_a_copy_are_not_found(settings: Settings, s3: S3Server) -> None:
    with pytest.raises(NotFound, match="no weights with digest"):
        trainable(settings, s3.store(), a_listing(WeightsDigest("0x" + "12" * 32)))
