"""Events on disk: what is written is found again, by whoever comes next, and by one at a time."""

import os
from pathlib import Path

import pytest

from outbox import spool as module
from outbox.spool import Event, Spool

ROOM = 1 << 20


def event(number: int) -> Event:
    return Event("telemetry.response", b'{"prompt":"a b\\n c"}', f"id-{number}")


def opened(root: Path, name: str = "w-1", max_bytes: int = ROOM) -> Spool:
    spool = Spool.open(root, name, max_bytes)
    assert spool is not None
    return spool


def found(spool: Spool) -> list[Event]:
    events: list[Event] = []
    while (path := spool.oldest()) is not None:
        events += spool.read(path)
        spool.remove(path)
    return events


def test_what_is_written_is_read_again_and_removed(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    assert spool.empty and all(spool.append(event(number)) for number in range(3))
    assert not spool.empty and spool.bytes > 0
    assert found(spool) == [event(0), event(1), event(2)]
    assert spool.empty and spool.bytes == 0
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_who_comes_next_finds_what_was_left(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.append(event(1))
    first.close()
    assert found(opened(tmp_path)) == [event(1)]


def test_what_roles_left_that_are_no_more_is_taken_over(tmp_path: Path) -> None:
    gone = opened(tmp_path, "w-old")
    gone.append(event(1))
    gone.close()
    heir = opened(tmp_path, "w-new")
    heir.append(event(2))
    assert found(heir) == [event(1), event(2)]
    assert [folder.name for folder in tmp_path.iterdir()] == ["w-new"]


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, twin, other = opened(tmp_path), opened(tmp_path), opened(tmp_path, "w-2")
    first.append(event(1))
    assert found(twin) == found(other) == []
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["w-1", "w-1.1", "w-2"]
    assert found(first) == [event(1)]


def test_a_torn_line_is_left_out_and_the_others_are_read(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    for number in range(3):
        spool.append(event(number))
    path = spool.oldest()
    assert path is not None
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1].replace(b"prompt", b"prowpt") + lines[2][:-7])
    assert spool.read(path) == [event(0)]
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert spool.read(path) == [event(number) for number in range(whole[:cut].count(b"\n"))]


def test_a_full_spool_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = opened(tmp_path, max_bytes=150)
    assert [spool.append(event(number)) for number in range(3)] == [True, True, False]
    assert "bytes already" in spool.failed
    assert len(found(spool)) == 2
    assert spool.append(event(3)) and not spool.failed


def test_a_disk_that_refuses_never_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_new_file", full)
    assert not spool.append(event(1))
    assert spool.failed == "No space left on device"
    monkeypatch.undo()
    assert spool.append(event(2)) and found(spool) == [event(2)]


def test_where_nothing_can_be_written_there_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Spool.open(tmp_path / "file" / "spool", "w-1", ROOM) is None


def test_large_spools_are_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 100)
    spool = opened(tmp_path)
    for number in range(10):
        spool.append(event(number))
    assert len(list((tmp_path / "w-1").glob("*.events"))) == 5
    assert found(spool) == [event(number) for number in range(10)]


async def test_what_is_secured_is_a_file_of_its_own(tmp_path: Path) -> None:
    spool = opened(tmp_path)
    spool.append(event(1))
    assert await spool.secure([event(2), event(3)])
    spool.close()
    assert sorted(e.message_id for e in found(opened(tmp_path))) == ["id-1", "id-2", "id-3"]


def test_other_users_cannot_read_the_spool(tmp_path: Path) -> None:
    os.umask(0o022)
    opened(tmp_path / "spool").append(event(1))
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "spool").rglob("*")}
    assert modes == {"w-1": 0o700, "lock": 0o600, "00000001.events": 0o600}
