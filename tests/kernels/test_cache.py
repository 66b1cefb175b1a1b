"""The kernel cache: found again, never wrong, never in the way."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from cnncc.kernels import cache as cache_module
from cnncc.kernels.cache import Cache


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kernel"))


def test_what_was_put_is_found(tmp_path: Path) -> None:
    Cache(tmp_path).put("key", b"object")
    assert Cache(tmp_path).get("key") == b"object"
    assert Cache(tmp_path).get("another key") is None
    assert not list(tmp_path.glob(".tmp-*"))


def test_the_whole_key_is_compared(tmp_path: Path) -> None:
    """Two keys whose digests are equal: the entry of one is not the entry of the other."""
    cache = Cache(tmp_path)
    cache.put("one", b"object")
    cache._path("one").rename(cache._path("two"))
    assert cache.get("two") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:10],
        lambda data: b"",
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: b"something else altogether\n" + data,
        lambda data: data.replace(b"cnncc-kernel 1", b"cnncc-kernel 2"),
    ],
)
def test_damaged_entries_are_dropped(tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)
    cache.put("key", b"object")
    (path,) = entries(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "cnncc"):
        assert cache.get("key") is None
    assert "is damaged and will be built again" in caplog.text
    assert not path.exists()
    cache.put("key", b"object")
    assert cache.get("key") == b"object"


def test_versions_are_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.put("key", b"object")
    monkeypatch.setattr(cache_module, "versions", lambda: "another version")
    assert cache.get("key") is None


def test_versions_name_cnncc_its_sources_and_tvm() -> None:
    assert cache_module.versions().startswith("cnncc ")
    assert "apache-tvm 0." in cache_module.versions()


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit=10_000)
    for i in range(8):
        cache.put(f"key{i}", bytes(1000))
        os.utime(cache._path(f"key{i}"), (time.time() - 1000 + i, time.time() - 1000 + i))
    assert cache.get("key0") is not None  # used now
    cache.put("key8", bytes(1000))
    cache.put("key9", bytes(1000))
    kept = {i for i in range(10) if cache.get(f"key{i}") is not None}
    assert {0, 8, 9} <= kept
    assert not {1, 2} & kept
    assert sum(p.stat().st_size for p in entries(tmp_path)) <= 10_000


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / ".tmp-old", tmp_path / ".tmp-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    cache = Cache(tmp_path, limit=100)
    cache.put("key", bytes(200))
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "folder")  # works as root too, whom no permission stops
    with caplog.at_level(logging.WARNING, "cnncc"):
        cache.put("one", b"object")
        cache.put("two", b"object")
    assert cache.get("one") is None
    assert caplog.text.count("cannot be written") == 1


def test_a_full_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with caplog.at_level(logging.WARNING, "cnncc"):
        Cache(tmp_path).put("key", b"object")
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_no_folder_keeps_nothing() -> None:
    cache = Cache(None)
    cache.put("key", b"object")
    assert cache.get("key") is None


@pytest.mark.parametrize(
    ("environment", "folder", "limit"),
    [
        ({"CNNCC_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b", 1 << 30),
        ({"XDG_CACHE_HOME": "/x"}, "/x/cnncc", 1 << 30),
        ({"HOME": "/home/someone"}, "/home/someone/.cache/cnncc", 1 << 30),
        ({"CNNCC_CACHE_DIR": "/a", "CNNCC_CACHE_LIMIT": "5000"}, "/a", 5000),
        ({"CNNCC_CACHE_DIR": "/a", "CNNCC_CACHE_LIMIT": "much"}, "/a", 1 << 30),
    ],
)
def test_place_and_limit(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], folder: str, limit: int) -> None:
    for name in ("CNNCC_CACHE_DIR", "XDG_CACHE_HOME", "CNNCC_CACHE_LIMIT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    cache = Cache.default()
    assert (str(cache.folder), cache.limit) == (folder, limit)
    assert Cache.default() is cache


def test_many_writers_of_one_entry(tmp_path: Path) -> None:
    def work() -> None:
        for _ in range(50):
            cache = Cache(tmp_path)
            cache.put("key", b"object" * 1000)
            assert cache.get("key") == b"object" * 1000

    failures: list[object] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        threading.excepthook = hook
    assert not failures
    assert len(entries(tmp_path)) == 1


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=Cache(tmp_path).put, args=("from another", b"object"))
    writer.start()
    writer.join(30)
    assert Cache(tmp_path).get("from another") == b"object"
