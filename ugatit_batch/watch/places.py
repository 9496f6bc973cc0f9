"""What a folder is on, and whether it is still the folder it was. Knows nothing of what is in it."""

from __future__ import annotations

import os
import stat
import sys
from typing import TYPE_CHECKING, Literal

import psutil

if TYPE_CHECKING:
    from pathlib import Path

State = Literal["here", "changed", "gone"]

# As the system names them; those in user space (FUSE) stand here without their `fuse.`.
# fmt: off
_ELSEWHERE = frozenset({
    "9p", "acfs", "afp", "afpfs", "afs", "auristorfs", "beegfs", "blobfuse", "blobfuse2", "ceph",
    "ceph-fuse", "cephfs", "cifs", "coda", "curlftpfs", "davfs", "davfs2", "drvfs", "fakeowner",
    "ftp", "fuse-t", "gcsfuse", "gfs", "gfs2", "glusterfs", "goofys", "google-drive-ocamlfuse",
    "gpfs", "grpcfuse", "gvfsd-fuse", "httpdirfs", "juicefs", "kio-fuse", "lustre", "macfuse",
    "mfs", "mount-s3", "mountpoint-s3", "ncpfs", "nfs", "nfs3", "nfs4", "ocfs2", "onedriver",
    "orangefs", "osxfuse", "panfs", "prl_fs", "prl_fsd", "pvfs2", "rclone", "s3fs", "s3ql",
    "seaweedfs", "smb2", "smb3", "smbfs", "smbnetfs", "sshfs", "vboxsf", "virtiofs", "vmhgfs",
    "vmhgfs-fuse", "webdav", "weed", "wslfs",
})
# fmt: on


def network_file_system(folder: Path) -> str | None:
    """What kind of file system a folder is on, if it is one on which other machines make changes.

    The system does not tell of changes made on another machine, on the host of a virtual one, or in a cloud.

    Returns:
        The kind as the system names it (`nfs4`, `fuse.sshfs`), on Windows `network drive`; None for a local
        one, and where it cannot be told.
    """
    place = os.path.realpath(folder)
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, psutil.Error):
        mounts = []
    if sys.platform == "win32":
        drive = os.path.splitdrive(place)[0]
        local = drive.removeprefix("\\\\?\\")
        if local.startswith("\\\\") or local.upper().startswith("UNC\\"):
            return "network drive"
        remote = {mount.device[:2].upper() for mount in mounts if "remote" in mount.opts.split(",")}
        return "network drive" if local.upper() in remote else None
    kind, longest = "", -1
    for mount in mounts:
        # What is mounted later on the same point covers what was there.
        if _contains(mount.mountpoint, place) and len(mount.mountpoint) >= longest:
            kind, longest = mount.fstype, len(mount.mountpoint)
    return kind if kind.lower().removeprefix("fuse.") in _ELSEWHERE else None


class Place:
    """Tells whether a folder is still the one that it was when this was made.

    Args:
        folder: the folder; it need not be there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._identity = self._look()

    def state(self) -> State:
        """How the folder is now.

        Where a folder is removed and made anew, or unmounted and mounted again, the new one may have got the
        device and number of the old one; then it counts as `here`.

        Returns:
            `here`: the same; `changed`: another folder stands there (made anew, or something was mounted or
            unmounted); `gone`: no folder, or one that cannot be asked, as on a network that is down.
        """
        identity = self._look()
        if identity is None:
            return "gone"
        return "here" if identity == self._identity else "changed"

    def renew(self) -> None:
        """Take what is there now for the folder."""
        self._identity = self._look()

    def _look(self) -> tuple[int, int] | None:
        try:
            status = self._folder.stat()
        except OSError:
            return None
        return (status.st_dev, status.st_ino) if stat.S_ISDIR(status.st_mode) else None


def _contains(mount: str, place: str) -> bool:
    """Whether a path is a mount point, or below it."""
    return place == mount or place.startswith(mount.rstrip(os.sep) + os.sep)
