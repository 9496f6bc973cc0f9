from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
import pytest

from tests.test_full_disk import small_disk
from ugatit_batch.watch.places import Place, network_file_system

if TYPE_CHECKING:
    from collections.abc import Callable

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of mounts")


class Mount(NamedTuple):
    mountpoint: str
    fstype: str
    device: str = ""
    opts: str = "rw"


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that just these are mounted."""

    def pretend(*listed: Mount) -> None:
        monkeypatch.setattr(psutil, "disk_partitions", lambda **_: list(listed))

    return pretend


@linux
def test_a_folder_on_this_machine_is_not_on_a_network(tmp_path: Path) -> None:
    assert network_file_system(tmp_path) is None
    assert network_file_system(Path("/proc")) is None


@linux
@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "virtiofs"]
)
def test_network_file_systems_are_known_below_their_mount_points(
    mounts: Callable[..., None], tmp_path: Path, kind: str
) -> None:
    mounts(Mount(str(tmp_path / "net"), kind), Mount("/", "ext4"))

    assert network_file_system(tmp_path / "net") == kind
    assert network_file_system(tmp_path / "net" / "a" / "b") == kind
    assert network_file_system(tmp_path / "network") is None
    assert network_file_system(tmp_path) is None


@linux
def test_the_innermost_mount_counts_and_of_several_on_one_point_the_last(
    mounts: Callable[..., None], tmp_path: Path
) -> None:
    net, local = tmp_path / "net", tmp_path / "net" / "local"
    mounts(Mount(str(local), "xfs"), Mount(str(net), "autofs"), Mount(str(net), "nfs4"), Mount("/", "ext4"))

    assert network_file_system(net) == "nfs4"
    assert network_file_system(local) is None

    mounts(Mount("/", "nfs4"))
    assert network_file_system(tmp_path) == "nfs4"
    mounts(Mount("/", "nfs4"), Mount("/", "overlay"))
    assert network_file_system(tmp_path) is None


@linux
def test_links_are_followed_to_the_network(mounts: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "net")
    mounts(Mount("/", "ext4"), Mount(str(tmp_path / "net"), "fuse.glusterfs"))

    assert network_file_system(tmp_path / "link" / "sub") == "fuse.glusterfs"


@linux
@pytest.mark.parametrize("name", ["with blanks\tand tabs", "back\\slash", "new\nline", os.fsdecode(b"b\xe9")])
def test_odd_names_of_mount_points(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ugatit_batch.watch.places._ELSEWHERE", frozenset({"tmpfs"}))
    kind = network_file_system(tmp_path)
    with small_disk(tmp_path / name, 64) as disk:
        (disk / "sub").mkdir()
        assert network_file_system(disk / "sub") == "tmpfs"
        assert network_file_system(tmp_path) == kind


def test_where_the_mounts_cannot_be_listed_a_folder_counts_as_local(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(psutil, "disk_partitions", fail)
    assert network_file_system(tmp_path) is None


def test_a_folder_is_here_changed_or_gone(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    place = Place(folder)
    assert place.state() == "here"
    (folder / "file").touch()
    assert place.state() == "here"

    folder.rename(tmp_path / "elsewhere")
    assert place.state() == "gone"
    folder.mkdir()
    assert place.state() == "changed"
    place.renew()
    assert place.state() == "here"

    shutil.rmtree(folder)
    folder.write_text("not a folder")
    assert place.state() == "gone"
    folder.unlink()
    (tmp_path / "elsewhere").rename(folder)
    assert place.state() == "changed"


def test_a_place_may_be_empty_at_first(tmp_path: Path) -> None:
    place = Place(tmp_path / "in")
    assert place.state() == "gone"
    (tmp_path / "in").mkdir()
    assert place.state() == "changed"
    place.renew()
    assert place.state() == "here"


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_a_link_that_leads_elsewhere_is_another_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to("a")
    place = Place(link)
    assert place.state() == "here"
    link.unlink()
    link.symlink_to("b")
    assert place.state() == "changed"
    link.unlink()
    link.symlink_to("link")
    assert place.state() == "gone"


def test_mounting_and_unmounting_changes_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    bare = Place(folder)
    folder.rmdir()
    with small_disk(folder, 64):
        mounted = Place(folder)
        assert (bare.state(), mounted.state()) == ("changed", "here")
        folder_below = tmp_path / "below"
        folder_below.mkdir()
        subprocess.run(["mount", "--bind", str(folder_below), str(folder)], check=True)
        assert mounted.state() == "changed"
        subprocess.run(["umount", str(folder)], check=True)
        assert mounted.state() == "here"
    assert mounted.state() == "changed"
