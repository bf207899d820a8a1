"""Lets one user pass through a folder that is closed to others, by an entry in the folder's access list.

Linux keeps such lists (POSIX ACLs) in an extended attribute; the usual tool for them is `setfacl`, which few machines
have. See acl(5), and linux/posix_acl_xattr.h for the format.
"""

import errno
import os
import struct
from pathlib import Path
from typing import NamedTuple

ATTRIBUTE = "system.posix_acl_access"
VERSION = struct.pack("<I", 2)
ENTRY = struct.Struct("<HHI")
OWNER, USER, GROUP, NAMED_GROUP, MASK, OTHERS = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF
"""The id of an entry without a user or group."""
PASS = 0b001
NOT_KEPT = (errno.ENODATA, errno.EOPNOTSUPP)


class Entry(NamedTuple):
    tag: int
    permissions: int
    """The rights as the three bits of a mode: read, write, pass."""
    id: int = NOBODY


def read(folder: Path) -> list[Entry]:
    """The folder's list; without one, its mode in the form of a list. Raises `OSError`."""
    try:
        kept = os.getxattr(folder, ATTRIBUTE)
    except OSError as error:
        if error.errno not in NOT_KEPT:
            raise
        mode = folder.stat().st_mode
        return [Entry(OWNER, mode >> 6 & 7), Entry(GROUP, mode >> 3 & 7), Entry(OTHERS, mode & 7)]
    return [Entry(*fields) for fields in ENTRY.iter_unpack(kept[len(VERSION) :])]


def with_passage(entries: list[Entry], uid: int) -> list[Entry]:
    """The list with the right to pass for that user. The rights of others do not change."""
    [own, *_] = [*(entry for entry in entries if entry[::2] == (USER, uid)), Entry(USER, 0, uid)]
    others = [entry for entry in entries if entry.tag != MASK and entry[::2] != (USER, uid)]
    own = own._replace(permissions=own.permissions | PASS)
    [mask, *_] = [
        *(e.permissions for e in entries if e.tag == MASK),
        *(e.permissions for e in others if e.tag == GROUP),
    ]
    return sorted([*others, own, Entry(MASK, mask | PASS)])


def may_pass(entries: list[Entry], uid: int) -> bool:
    """Whether an entry of the user's own lets it pass."""
    [mask, *_] = [*(entry.permissions for entry in entries if entry.tag == MASK), 7]
    own = [entry.permissions for entry in entries if entry[::2] == (USER, uid)]
    return any(permissions & mask & PASS for permissions in own)


def let_pass(folder: Path, uid: int) -> bool:
    """Lets the user pass through the folder; False: the file system has no such lists. Raises `OSError`."""
    wanted = VERSION + b"".join(ENTRY.pack(*entry) for entry in with_passage(read(folder), uid))
    try:
        os.setxattr(folder, ATTRIBUTE, wanted)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return True


def is_open(folder: Path, uid: int) -> bool:
    """Whether the folder's list lets the user pass. Its mode is not considered."""
    return hasattr(os, "getxattr") and may_pass(read(folder), uid)
