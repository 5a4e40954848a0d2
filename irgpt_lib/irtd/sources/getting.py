"""Bringing a source to this machine: DVC imports what has a pinned commit or a checksum and leaves a small `.dvc` file
beside the data that says where they came from; the rest is told in words.

Nothing that arrives is trusted: a file whose checksum differs is set aside, and an archive is unpacked entry by entry
into a folder of its own that takes its place only when all went well.
"""

import hashlib
import lzma
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from irgpt_lib.irtd.record import RecordError
from irgpt_lib.irtd.sources.files import inside
from irgpt_lib.irtd.sources.source import Getting, Source

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
CHUNK_BYTES = 2**20
TOLD_BYTES = 2000
BY_HAND = Getting(method="manual")
# git must see the pins and nothing else of the raw data; a linked `data/raw` is no folder to git and stays ignored
IGNORED = (
    *("/data/raw", "!/data/raw/"),
    *("/data/raw/*", "!/data/raw/*.dvc", "!/data/raw/*/"),
    *("/data/raw/*/*", "!/data/raw/*/*.dvc"),
)
CURES = {
    "is git-ignored": f"let git see the pins: .gitignore needs the lines {' '.join(IGNORED)}",
    "cannot be cloned": "check the address, your network and that git may read the repository",
    "unable to find": "the commit or folder is not in the repository; compare with `irgpt sources show`",
    "ETag": "the server sends no ETag or Content-MD5, without which DVC imports nothing; download the file by hand",
    "No space left": "free disk space: DVC keeps a copy in its cache",
}
OTHER_CURE = "check the address, the network and the disk, and run the command again"


class GettingError(RuntimeError):
    """Data could not be got, or are not what they should be; the message says what is wrong and the cure."""


@dataclass(frozen=True)
class Limits:
    """What an archive may unpack to: entries, and times its own size (at least `floor` bytes)."""

    entries: int = 4_000_000
    expansion: int = 50
    floor: int = 64 * 2**20


@dataclass(frozen=True)
class Got:
    """One part of a source: `told` says where it now lies or what a person has to do, `done` whether nothing is left to
    a person's download."""

    told: str
    done: bool


def get_source(source: Source, raw: Path) -> Iterator[Got]:
    """Bring every part of a source below `raw`, one after the other; a part that is there already is left as it is.

    Raises:
        GettingError: at the first part that fails; what came before it stays.
    """
    for getting in source.get or (BY_HAND,):
        target = raw / (getting.out or source.folder)
        if getting.method == "package":
            yield Got(f"{source.name}: run `{sys.executable} -m pip install {getting.package}`. {getting.note}", True)
        elif getting.method == "manual":
            yield Got(instructions(source, getting, target), False)
        elif target.is_dir() and any(target.iterdir()):
            yield Got(f"{target}: already there, left as it is; see `irgpt sources check {source.name}`", True)
        elif getting.method == "git":
            yield Got(with_note(import_folder(getting, target), getting), True)
        else:
            yield Got(with_note(import_file(getting, target), getting), True)


def instructions(source: Source, getting: Getting, target: Path) -> str:
    """What to download by hand, under which terms, and where to put it."""
    access = {
        "form": "behind a form",
        "agreement": "after a signed agreement",
        "open": "openly",
        "unknown": "in a way that is not known",
    }[source.access]
    note = f"\n  Note: {getting.note}." if getting.note else ""
    return (
        f"{source.name}: get it by hand from {source.home}, offered {access}.\n"
        f"  Terms: {source.terms}.\n"
        f"  Put it into {target}: {source.what_belongs_there}.{note}\n"
        f"  Then: irgpt sources check {source.name}"
    )


def with_note(line: str, getting: Getting) -> str:
    """The line, and what the registry adds to it."""
    return f"{line} ({getting.note})" if getting.note else line


def import_folder(getting: Getting, target: Path) -> str:
    """A folder of a git repository at its pinned commit, by `dvc import`; outside a DVC project by `dvc get`.

    Raises:
        GettingError: something lies there already, or DVC failed.
    """
    refuse_existing(target)
    project = project_of(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    verb = "import" if project else "get"
    run_dvc([verb, getting.url, getting.path, "-o", place(target, project), "--rev", getting.rev], project)
    return f"{target}: {getting.path} of {getting.url} at {getting.rev[:7]}{pin_told(target, project)}"


def import_file(getting: Getting, target: Path, limits: Limits | None = None) -> str:
    """A file from an address, by `dvc import-url` (outside a DVC project by `dvc get-url`), its SHA-256 compared and,
    where it is an archive, unpacked to `target`; any other file is put into `target` under its own name.

    Raises:
        GettingError: something lies there already, DVC failed, the checksum differs (the file is set aside as
            `<file>.quarantined`), or the archive cannot be unpacked safely.
    """
    name = Path(unquote(urlsplit(getting.url).path)).name
    packed = name.lower().endswith(ARCHIVES)
    file = target.parent / name if packed else target / name
    refuse_existing(target)
    if not file.exists():
        project = project_of(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        run_dvc(["import-url" if project else "get-url", getting.url, place(file, project)], project)
    verify(file, getting.sha256)
    if not packed:
        return f"{file}: {getting.url}, checksum as expected"
    count = unpack(file, target, getting.path, limits or Limits())
    return f"{target}: {count} files of {file.name}, checksum as expected"


def refuse_existing(target: Path) -> None:
    """Never write over data.

    Raises:
        GettingError: `target` exists and is no empty folder.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists() or target.is_symlink():
        raise GettingError(f"{target}: already there; move it away first, or check it with `irgpt sources check`")


def project_of(target: Path) -> Path | None:
    """The DVC project that the path really lies in, links followed; `None` where it lies in none."""
    return next((folder for folder in target.absolute().resolve().parents if (folder / ".dvc").is_dir()), None)


def place(target: Path, project: Path | None) -> str:
    """The path as DVC is to be told it: within its project, or absolute."""
    real = target.absolute().resolve()
    return str(real.relative_to(project) if project else real)


def pin_told(target: Path, project: Path | None) -> str:
    """Which file keeps the origin of an import, if any does."""
    return f", pinned in {target}.dvc" if project else ", in no DVC project, so nothing is pinned"


def run_dvc(arguments: list[str], project: Path | None) -> None:
    """One DVC command, its progress shown where a person watches the terminal.

    Raises:
        GettingError: it failed; its own words and the cure.
    """
    watched = sys.stderr.isatty()
    # DVC draws its progress only on a terminal, and its stderr is a pipe here so that its words can be passed on
    environment = os.environ | ({"DVC_IGNORE_ISATTY": "1"} if watched else {})
    command = [sys.executable, "-m", "dvc", *arguments]
    tail = b""
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        while chunk := os.read(process.stderr.fileno(), CHUNK_BYTES):
            tail = (tail + chunk)[-TOLD_BYTES:]
            if watched:
                sys.stderr.buffer.write(chunk)
                sys.stderr.flush()
    if process.returncode:
        said = " ".join(tail.decode("utf-8", "replace").split()) or f"exit code {process.returncode}"
        cure = next((cure for words, cure in CURES.items() if words in said), OTHER_CURE)
        raise GettingError(f"dvc {' '.join(arguments)}: {said}. Cure: {cure}")


def verify(file: Path, sha256: str) -> None:
    """Compare a file with its checksum; set it aside, and forget where it came from, where they differ.

    Raises:
        GettingError: names both checksums and where the file is now.
    """
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == sha256:
        return
    aside = file.with_name(f"{file.name}.quarantined")
    file.replace(aside)
    file.with_name(f"{file.name}.dvc").unlink(missing_ok=True)
    raise GettingError(
        f"{file}: SHA-256 is {found}, expected {sha256}; moved to {aside}. Its owner may have changed it: compare with "
        "the home page before you change the registry"
    )


def unpack(archive: Path, target: Path, path: str, limits: Limits) -> int:
    """Unpack a zip or tar archive; its folder `path`, all of it where empty, becomes `target`. Returns the files.

    Only plain files and folders that stay inside are accepted: no links, no devices, no name twice, no encrypted
    entry, and no more than `limits` allow.

    Raises:
        GettingError: names the archive, the entry and the reason; nothing is left of what was unpacked.
    """
    allowance = max(limits.floor, limits.expansion * archive.stat().st_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        staging = Path(folder, "content")
        staging.mkdir()
        opened = unpack_zip if archive.suffix.lower() == ".zip" else unpack_tar
        with told_faults(archive):
            count = opened(archive, staging, limits.entries, allowance)
            chosen = inside(staging, path) if path else staging
        if not chosen.is_dir():
            found = ", ".join(sorted(entry.name for entry in staging.iterdir()))
            raise GettingError(f"{archive}: no folder {path!r} in it; it holds {found}")
        chosen.replace(target)
    return count


@contextmanager
def told_faults(archive: Path) -> Iterator[None]:
    """What zipfile, tarfile and the file system say of a bad archive becomes one kind of error that names it."""
    broken = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)
    try:
        yield
    # an entry may claim a dictionary of gigabytes
    except (*broken, RecordError, ValueError, OSError, MemoryError) as error:
        told = str(error) or "it needs more memory than there is"
        raise GettingError(f"{archive}: cannot be unpacked: {told}; nothing of it was kept") from error


def unpack_zip(archive: Path, staging: Path, entries: int, allowance: int) -> int:
    """Every entry of a zip archive below `staging`; returns the number of files.

    Raises:
        RecordError, ValueError, OSError, zipfile.BadZipFile: an entry that `unpack` does not accept.
    """
    count = total = 0
    with zipfile.ZipFile(archive) as opened:
        listed = opened.infolist()
        check_number(len(listed), entries)
        for entry in listed:
            file = inside(staging, entry.filename)
            mode = entry.external_attr >> 16
            if entry.flag_bits & 1 or stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"{entry.filename!r} is encrypted, a link or a device")
            if entry.is_dir():
                file.mkdir(parents=True, exist_ok=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            # "x": a second entry of the same name is an error, for the first would vanish without a word
            with opened.open(entry) as packed, file.open("xb") as unpacked:
                while chunk := packed.read(CHUNK_BYTES):
                    total += len(chunk)
                    check_size(total, allowance)
                    unpacked.write(chunk)
            count += 1
    return count


def unpack_tar(archive: Path, staging: Path, entries: int, allowance: int) -> int:
    """Every member of a tar archive below `staging`; returns the number of files.

    Raises:
        RecordError, ValueError, OSError, tarfile.TarError: a member that `unpack` does not accept.
    """
    count = total = 0
    with tarfile.open(archive, "r:*") as opened:
        for number, member in enumerate(opened, start=1):
            check_number(number, entries)
            if member.isdir() and not member.name.strip("./"):
                continue
            file = inside(staging, member.name)
            if not member.isdir() and (not member.isreg() or file.exists()):
                raise ValueError(f"{member.name!r} is a link, a device or there twice")
            total += member.size
            check_size(total, allowance)
            if member.isdir():
                file.mkdir(parents=True, exist_ok=True)
                continue
            file.parent.mkdir(parents=True, exist_ok=True)
            # not `extract`: its safe filter is younger than Python 3.11.0, and nothing but the content is wanted
            with opened.extractfile(member) as packed, file.open("xb") as unpacked:
                shutil.copyfileobj(packed, unpacked, CHUNK_BYTES)
            count += 1
    return count


def check_number(found: int, allowed: int) -> None:
    if found > allowed:
        raise ValueError(f"more than {allowed} entries")


def check_size(found: int, allowed: int) -> None:
    if found > allowed:
        raise ValueError(f"unpacks to more than {allowed} bytes")
