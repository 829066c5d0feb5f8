"""A disk in memory that crashes, loses power, runs full and fails, by chance or when told to.

It knows what the page cache shows and what would be left without power, and keeps them apart:

    bytes     an append or a truncation changes the page cache at once and is *pending* until the
              file is synced; what is pending reaches the disk in order, the last of it torn
    names     a new, renamed or removed name shows at once and is pending until its directory is
              synced; pending names reach the disk in order (a journal), each as a whole
    kill      nothing is lost, and what was pending still is
    power cut what was pending is kept up to a point drawn by chance, sometimes with sectors that
              were never written; a file without a name on the disk is gone, synced or not
    bad sync  what was pending counts as clean and is never written: a later sync says yes and
              leaves zeros, a kill may drop the page, a power cut always does

Every call that changes or syncs something is an operation and is counted; ``crash_at`` is the
number of the one to crash in. A crashed disk is dead: every call raises ``Crash`` and changes
nothing until ``kill`` or ``power_cut`` starts the next life. Whatever ran in the last life must
have ended by then, its ``finally`` clauses too.

It knows nothing of batchd but ``Disk``, whose every method is replaced here.
"""

import asyncio
import errno
import io
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Never, ParamSpec, TypeVar

from batchd.disk import Disk

P = ParamSpec("P")
T = TypeVar("T")

SECTOR = 512
_PLENTY = 1 << 40
_LATENCY = 0.002
# How often a power cut finds sectors of the unsynced range unwritten.
_SCATTERED = 0.3


class Crash(SystemExit):
    """The process ends here. No ``except Exception`` catches it, and asyncio lets it through."""


class _File:
    """An inode: what the page cache shows, and what led to it since the disk last had all of it.

    A pending operation is the bytes of an append or, as a number, the size of a truncation.
    """

    __slots__ = ("changed", "data", "descriptors", "durable", "names", "pending", "spoiled")

    def __init__(self, changed: float) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.pending: list[bytes | int] = []
        self.spoiled = False  # a sync has failed: the page cache shows what the disk never gets
        self.names = 0
        self.descriptors = 0
        self.changed = changed

    def append(self, data: bytes) -> None:
        self.data += data
        self.pending.append(data)

    def truncate(self, size: int) -> None:
        if size > len(self.data):
            self.append(bytes(size - len(self.data)))
        else:
            del self.data[size:]
            self.pending.append(size)

    def write_all(self) -> None:
        for operation in self.pending:
            _write(self.durable, operation)
        self.pending.clear()

    def write_part(self, chance: random.Random) -> int:
        """Write what is pending up to a point; the size up to which all was durable before."""
        synced = len(self.durable)
        count = chance.randint(0, len(self.pending))
        for operation in self.pending[:count]:
            _write(self.durable, operation)
            if isinstance(operation, int):
                synced = min(synced, operation)
        del self.pending[:count]
        if self.pending and isinstance(torn := self.pending[0], bytes):
            at = chance.randint(0, len(torn))
            self.durable += torn[:at]
            self.pending[0] = torn[at:]
        return synced

    def spoil(self) -> None:
        """A sync failed: what was pending is clean now, and is not on the disk."""
        self.pending = [
            bytes(len(operation)) if isinstance(operation, bytes) else operation
            for operation in self.pending
        ]
        self.spoiled = True

    def drop_pages(self) -> None:
        """Forget clean pages: they are read from the disk again."""
        self.data = bytearray(self.durable)
        for operation in self.pending:
            _write(self.data, operation)
        self.spoiled = False

    def lose_power(self, chance: random.Random) -> None:
        if self.pending:
            synced = self.write_part(chance)
            if chance.random() < _SCATTERED:
                _leave_sectors_unwritten(self.durable, synced, chance)
            self.pending.clear()
        elif not self.spoiled:
            return
        self.drop_pages()


def _write(data: bytearray, operation: bytes | int) -> None:
    if isinstance(operation, int):
        del data[operation:]
    else:
        data += operation


def _leave_sectors_unwritten(data: bytearray, start: int, chance: random.Random) -> None:
    """The size has grown, but some sectors never came: they read as zeros."""
    share = chance.random()
    while start < len(data):
        end = min(start - start % SECTOR + SECTOR, len(data))
        if chance.random() < share:
            data[start:end] = bytes(end - start)
        start = end


class _Folder:
    __slots__ = ("changed",)

    def __init__(self, changed: float) -> None:
        self.changed = changed


_Node = _File | _Folder
# One change of names, which reaches the disk as a whole: each name with what it stands for then,
# and the directories that the names are in.
_Change = tuple[tuple[tuple[str, _Node | None], ...], set[str]]


class _Bytes(Mapping[Path, bytes]):
    """The files' bytes by path, read only."""

    def __init__(self, nodes: dict[str, _Node], *, durable: bool) -> None:
        self._nodes = nodes
        self._durable = durable

    def __getitem__(self, path: Path) -> bytes:
        node = self._nodes.get(str(path))
        if not isinstance(node, _File):
            raise KeyError(path)
        return bytes(node.durable if self._durable else node.data)

    def __iter__(self) -> Iterator[Path]:
        return (Path(name) for name, node in self._nodes.items() if isinstance(node, _File))

    def __len__(self) -> int:
        return sum(isinstance(node, _File) for node in self._nodes.values())


class SimDisk(Disk):
    """See the module. ``now`` may be replaced: it dates what changes."""

    def __init__(self, chance: random.Random, now: Callable[[], float] = lambda: 0.0) -> None:
        self.now = now
        self.operations = 0
        self.crash_at: int | None = None
        self.dead = False
        self.room: int | None = None
        # By "append", "sync", "open" or "sync_directory": raised once, by the next such call.
        self.fail_next: dict[str, OSError] = {}
        self._chance = chance
        self._names: dict[str, _Node] = {"/": _Folder(now())}
        self._durable = dict(self._names)
        self._journal: list[_Change] = []
        self._descriptors: dict[int, _File] = {}
        self._next_descriptor = 3

    # -- what a test sees and does

    @property
    def files(self) -> Mapping[Path, bytes]:
        """What the page cache shows."""
        return _Bytes(self._names, durable=False)

    @property
    def durable(self) -> Mapping[Path, bytes]:
        """What is left even if a power cut keeps nothing that is pending."""
        return _Bytes(self._durable, durable=True)

    @property
    def open_descriptors(self) -> int:
        return len(self._descriptors)

    def plant(self, path: Path, data: bytes) -> None:
        """Put a file on the disk, with the directories above it, durable at once."""
        name = above = str(path)
        while above != "/":
            above = _parent(above)
            self._durable[above] = self._names.setdefault(above, _Folder(self.now()))
        file = _File(self.now())
        file.data += data
        file.durable += data
        self._set(name, file)
        self._durable[name] = file

    def kill(self) -> None:
        """End the process and start the next: the page cache stays, and pending stays pending."""
        self._next_life()
        for file in self._files():
            if file.spoiled and self._chance.random() < 0.5:
                file.drop_pages()

    def power_cut(self) -> None:
        """Lose what is not on the disk, except what chance had written by then, and start again."""
        self._next_life()
        used = self._used()
        for change in self._journal[: self._chance.randint(0, len(self._journal))]:
            self._write_names(change)
        self._journal.clear()
        # The shortest first: what was in a directory goes after it.
        for name in sorted(self._durable, key=len):
            if _parent(name) not in self._durable:
                del self._durable[name]
        self._names = dict(self._durable)
        for file in self._files():
            file.names = 0
            file.lose_power(self._chance)
        for node in self._names.values():
            if isinstance(node, _File):
                node.names += 1
        self._give_room(used - self._used())

    def _next_life(self) -> None:
        for descriptor in list(self._descriptors):
            self._release(descriptor)
        self.dead = False
        self.crash_at = None

    # -- Disk

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(self._chance.random() * _LATENCY)
        self._check_alive()
        result = work(*args, **kwargs)
        await asyncio.sleep(self._chance.random() * _LATENCY)
        self._check_alive()
        return result

    def open_append(self, path: Path) -> int:
        self._check_alive()
        self._fail("open")
        name = str(path)
        node = self._names.get(name)
        if isinstance(node, _Folder):
            raise _error(errno.EISDIR, path)
        if node is not None:
            return self._open(node)
        self._check_parent(path)
        if self.room == 0:
            raise _error(errno.ENOSPC, path)
        node = _File(self.now())
        self._change_names((name, node))
        descriptor = self._open(node)
        try:
            self.sync_directory(path.parent)
        except OSError:
            self.close(descriptor)
            self._change_names((name, None))
            raise
        return descriptor

    def open_read(self, path: Path) -> BinaryIO:
        self._check_alive()
        return io.BytesIO(self._file(path).data)

    def append(self, descriptor: int, data: bytes) -> None:
        file = self._opened(descriptor)
        crashing = self._step()
        error = self.fail_next.pop("append", None)
        fits = bytes(data)
        if crashing or error is not None:
            fits = fits[: self._chance.randint(0, len(fits))]
        if self.room is not None and len(fits) > self.room:
            fits = fits[: self.room]
            error = _error(errno.ENOSPC)
        if fits:
            file.append(fits)
            file.changed = self.now()
            self._give_room(-len(fits))
        if crashing:
            self._die()
        if error is not None:
            raise error

    def sync(self, descriptor: int) -> None:
        file = self._opened(descriptor)
        if self._step():
            file.write_part(self._chance)
            self._die()
        if "sync" in self.fail_next:
            file.spoil()
            self._fail("sync")
        file.write_all()

    def allocate(self, path: Path, size: int) -> None:
        self._check_alive()
        self._check_parent(path)
        if str(path) in self._names:
            raise _error(errno.EEXIST, path)
        file = _File(self.now())
        self._change_names((str(path), file))
        if self.room is not None and size > self.room:
            raise _error(errno.ENOSPC, path)
        descriptor = self._open(file)
        try:
            self.append(descriptor, bytes(size))
            self.sync(descriptor)
        finally:
            if not self.dead:
                self.close(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        file = self._opened(descriptor)
        crashing = self._step()
        if crashing and self._chance.random() < 0.5:
            self._die()
        self._give_room(len(file.data) - size)
        file.truncate(size)
        file.changed = self.now()
        if crashing:
            self._die()

    def close(self, descriptor: int) -> None:
        self._opened(descriptor)
        self._release(descriptor)

    def size(self, path: Path) -> int | None:
        self._check_alive()
        node = self._names.get(str(path))
        return None if node is None else len(node.data) if isinstance(node, _File) else 0

    def names(self, folder: Path, before: float) -> list[str]:
        self._check_alive()
        above = str(folder)
        self._check_folder(above)
        return [
            name.rpartition("/")[2]
            for name, node in self._names.items()
            if name != "/" and _parent(name) == above and node.changed < before
        ]

    def sync_directory(self, path: Path) -> None:
        self._check_alive()
        name = str(path)
        self._check_folder(name)
        crashing = self._step()
        if crashing and self._chance.random() < 0.5:
            self._die()
        self._fail("sync_directory")
        self._commit_names(name)
        if crashing:
            self._die()

    def make_directory(self, path: Path) -> None:
        self._check_alive()
        node = self._names.get(str(path))
        if isinstance(node, _File):
            raise _error(errno.EEXIST, path)
        if node is None:
            self._check_parent(path)
            if self.room == 0:
                raise _error(errno.ENOSPC, path)
            self._change_names((str(path), _Folder(self.now())))
        self.sync_directory(path.parent)

    def rename(self, old: Path, new: Path) -> None:
        self._check_alive()
        file = self._file(old)
        self._check_parent(new)
        self._change_names((str(new), file), (str(old), None))
        self.sync_directory(new.parent)
        if old.parent != new.parent:
            self.sync_directory(old.parent)

    def link_or_copy(self, source: Path, target: Path) -> None:
        self.remove(target)
        self._check_parent(target)
        self._change_names((str(target), self._file(source)))
        self.sync_directory(target.parent)

    def remove(self, path: Path) -> None:
        self._check_alive()
        if str(path) in self._names:
            self._file(path)
            self._change_names((str(path), None))

    def remove_directory(self, path: Path) -> None:
        self._check_alive()
        below = str(path) + "/"
        # The deepest first.
        for name in sorted((name for name in self._names if name.startswith(below)), reverse=True):
            self._change_names((name, None))
        if str(path) in self._names:
            self._change_names((str(path), None))

    def free(self, path: Path) -> int:  # noqa: ARG002 - there is one filesystem
        self._check_alive()
        return _PLENTY if self.room is None else self.room

    # -- crashes and faults

    def _check_alive(self) -> None:
        if self.dead:
            raise Crash

    def _step(self) -> bool:
        """Count an operation; whether to crash in it."""
        self._check_alive()
        self.operations += 1
        return self.operations == self.crash_at

    def _die(self) -> Never:
        self.dead = True
        raise Crash

    def _fail(self, operation: str) -> None:
        error = self.fail_next.pop(operation, None)
        if error is not None:
            raise error

    # -- names

    def _change_names(self, *change: tuple[str, _Node | None]) -> None:
        """One operation, which reaches the disk as a whole or not at all."""
        crashing = self._step()
        if crashing and self._chance.random() < 0.5:
            self._die()
        folders: set[str] = set()
        for name, node in change:
            self._set(name, node)
            folder = _parent(name)
            folders.add(folder)
            above = self._names.get(folder)
            if above is not None:
                above.changed = self.now()
        self._journal.append((change, folders))
        if crashing:
            self._die()

    def _commit_names(self, folder: str) -> None:
        """Write the changes in a directory, and those that they share a directory with before."""
        folders = {folder}
        left: list[_Change] = []
        written: list[_Change] = []
        for change in reversed(self._journal):
            if folders.isdisjoint(change[1]):
                left.append(change)
            else:
                folders |= change[1]
                written.append(change)
        for change in reversed(written):
            self._write_names(change)
        left.reverse()
        self._journal = left

    def _write_names(self, change: _Change) -> None:
        for name, node in change[0]:
            _put(self._durable, name, node)

    def _set(self, name: str, node: _Node | None) -> None:
        before = self._names.get(name)
        if isinstance(before, _File):
            before.names -= 1
            self._free_if_unused(before)
        if isinstance(node, _File):
            node.names += 1
        _put(self._names, name, node)

    def _file(self, path: Path) -> _File:
        node = self._names.get(str(path))
        if node is None:
            raise _error(errno.ENOENT, path)
        if isinstance(node, _Folder):
            raise _error(errno.EISDIR, path)
        return node

    def _check_folder(self, name: str) -> None:
        node = self._names.get(name)
        if node is None:
            raise _error(errno.ENOENT, name)
        if isinstance(node, _File):
            raise _error(errno.ENOTDIR, name)

    def _check_parent(self, path: Path) -> None:
        self._check_folder(_parent(str(path)))

    # -- descriptors and room

    def _open(self, file: _File) -> int:
        # Never given out twice: one of an earlier life is not mistaken for a new one.
        descriptor = self._next_descriptor
        self._next_descriptor += 1
        self._descriptors[descriptor] = file
        file.descriptors += 1
        return descriptor

    def _opened(self, descriptor: int) -> _File:
        self._check_alive()
        try:
            return self._descriptors[descriptor]
        except KeyError:
            raise _error(errno.EBADF) from None

    def _release(self, descriptor: int) -> None:
        file = self._descriptors.pop(descriptor)
        file.descriptors -= 1
        self._free_if_unused(file)

    def _free_if_unused(self, file: _File) -> None:
        if not file.names and not file.descriptors:
            self._give_room(len(file.data))

    def _give_room(self, size: int) -> None:
        if self.room is not None:
            self.room += size

    def _files(self) -> list[_File]:
        """Each once, in an order that is the same in every run."""
        found = (node for node in self._names.values() if isinstance(node, _File))
        return list(dict.fromkeys(found))

    def _used(self) -> int:
        return sum(len(file.data) for file in self._files())


def _put(nodes: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        nodes.pop(name, None)
    else:
        nodes[name] = node


def _parent(name: str) -> str:
    return name.rpartition("/")[0] or "/"


def _error(number: int, path: Path | str | None = None) -> OSError:
    if path is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), str(path))
