"""Getting data: pinned by DVC, compared, unpacked without trust, or told in words."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from faulty_files import coco_folder, put

from irgpt_lib.irtd.sources import SOURCES
from irgpt_lib.irtd.sources.getting import (
    IGNORED,
    GettingError,
    Limits,
    get_source,
    import_file,
    import_folder,
    project_of,
    unpack,
)
from irgpt_lib.irtd.sources.reading import read
from irgpt_lib.irtd.sources.source import Getting, Source

PROJECT = Path(__file__).parents[1]
SIZES = Limits(entries=10, expansion=20, floor=1000)


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.email=a@example.org", "-c", "user.name=a")
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def example(*ways: Getting) -> Source:
    known = dict(name="a", index=1, title="A", band="tir", paired=False, task="t", format="coco", folder="a")
    return Source(**known, home="its home", terms="its terms", what_belongs_there="its files", get=ways)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory) -> tuple[str, str]:
    """A repository with a COCO folder `data`, and its commit."""
    folder = tmp_path_factory.mktemp("upstream")
    coco_folder(folder / "data", [])
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "data")
    return str(folder), git(folder, "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A DVC project in git that ignores raw data as this one does."""
    folder = tmp_path_factory.mktemp("project")
    git(folder, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    put(folder / ".dvc" / "config", "[core]\n    analytics = false\n    check_update = false\n")
    put(folder / ".gitignore", "\n".join(IGNORED) + "\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "project")
    return folder


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A server on this machine, and what it offers by name."""
    offered: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(body=False)

        def do_GET(self):
            self.answer(body=True)

        def answer(self, body: bool):
            data = offered.get(self.path.strip("/"))
            self.send_response(200 if data is not None else 404)
            self.send_header("Content-Length", str(len(data or b"")))
            self.send_header("ETag", f'"{hashlib.sha256(data or b"").hexdigest()}"')
            self.end_headers()
            if body and data:
                self.wfile.write(data)

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", offered
    server.shutdown()
    thread.join()
    server.server_close()


def zip_of(*files: tuple[str, bytes], mode: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    """A gzipped archive of (name, type, data or link target)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.REGTYPE:
                member.size = len(data)
            else:
                member.linkname = data.decode()
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


# By DVC


def test_a_folder_comes_at_its_commit_with_a_pin_that_git_sees_and_data_that_it_does_not(upstream, project, tmp_path):
    url, commit = upstream
    raw = project / "data" / "raw"
    way = Getting("git", url=url, rev=commit, path="data", out="a/part")
    (got,) = get_source(example(way), raw)
    (again,) = get_source(example(way), raw)
    assert "already there, left as it is" in again.told
    assert (got.done, f"pinned in {raw / 'a' / 'part.dvc'}" in got.told) == (True, True)
    assert len(list(read("coco", raw / "a" / "part"))) == 1
    assert git(project, "status", "--short", "-uall").split() == ["??", "data/raw/a/part.dvc"]
    git(project, "add", "-A")
    git(project, "commit", "-qm", "pin")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project), str(clone))
    list(get_source(example(way), clone / "data" / "raw"))
    assert len(list(read("coco", clone / "data" / "raw" / "a" / "part"))) == 1
    assert git(clone, "status", "--short", "-uall") == ""


def test_outside_a_project_a_folder_comes_without_a_pin(upstream, tmp_path):
    url, commit = upstream
    assert project_of(tmp_path / "raw" / "a") is None
    told = import_folder(Getting("git", url=url, rev=commit, path="data"), tmp_path / "raw" / "a")
    assert "nothing is pinned" in told
    assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["a"]


def test_an_archive_is_compared_and_its_folder_becomes_the_sources(served, project, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    address, offered = served
    offered["set.zip"] = zip_of(("A/infrared/1.txt", b"one"), ("A/2.txt", b"two"), ("readme", b"x"))
    way = Getting("url", f"{address}/set.zip", sha256=hashlib.sha256(offered["set.zip"]).hexdigest(), path="A")
    target = project / "data" / "raw" / "archived"
    assert "3 files of set.zip, checksum as expected" in import_file(way, target)
    assert sorted(p.name for p in target.rglob("*.txt")) == ["1.txt", "2.txt"]
    assert (target.parent / "set.zip.dvc").is_file()
    with pytest.raises(GettingError, match="archived: already there"):
        import_file(way, target)


def test_what_dvc_says_of_a_failure_is_passed_on_with_the_cure(upstream, tmp_path):
    with pytest.raises(GettingError, match=r"dvc get .*Cure: ") as error:
        import_folder(Getting("git", url=upstream[0], rev="0" * 40, path="data"), tmp_path / "a")
    assert "0000000" in str(error.value)
    assert not (tmp_path / "a").exists()


def test_a_file_with_another_checksum_is_set_aside_and_both_are_named(tmp_path):
    file = put(tmp_path / "a.zip", zip_of(("1.txt", b"1")))
    put(tmp_path / "a.zip.dvc", "pin")
    found, expected = hashlib.sha256(file.read_bytes()).hexdigest(), "0" * 64
    with pytest.raises(GettingError, match=f"SHA-256 is {found}, expected {expected}"):
        import_file(Getting("url", "http://127.0.0.1:1/a.zip", sha256=expected), tmp_path / "a")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip.quarantined"]


# By hand


def test_what_is_got_by_hand_is_told_with_terms_and_place(tmp_path):
    (got,) = get_source(example(), tmp_path)
    assert not got.done
    for part in ("its home", "its terms", "its files", str(tmp_path / "a"), "irgpt sources check a"):
        assert part in got.told


def test_a_package_is_told_as_a_pip_command(tmp_path):
    (got,) = get_source(SOURCES["elpv"], tmp_path)
    assert (got.done, "-m pip install elpv-dataset" in got.told) == (True, True)


# Archives


FIFO, LINK, HARD = tarfile.FIFOTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
FILE = tarfile.REGTYPE
NOISE = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(32))


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.zip", zip_of(("../evil", b"x")), "unsafe path"),
        ("a.zip", zip_of(("/evil", b"x")), "unsafe path"),
        ("a.zip", zip_of(("..\\evil", b"x")), "unsafe path"),
        ("a.zip", zip_of(("link", b"/etc"), mode=0o120777), "a link or a device"),
        ("a.zip", zip_of(("bomb", bytes(10**6))), "unpacks to more than"),
        ("a.zip", zip_of(*((f"{i}", b"") for i in range(11))), "more than 10 entries"),
        ("a.zip", zip_of(("good", b"1"), ("good/under", b"2")), "good"),
        ("a.zip", zip_of(("good", b"x" * 100))[:-30], "not a zip file"),
        ("a.zip", b"", "not a zip file"),
        ("a.zip", zip_of(("good", b"abcdef" * 50)).replace(b"good", b"gond", 1), "differ"),
        ("a.tar.gz", tar_of(("../evil", FILE, b"x")), "unsafe path"),
        ("a.tar.gz", tar_of(("/evil", FILE, b"x")), "unsafe path"),
        ("a.tar.gz", tar_of(("link", LINK, b"/etc")), "a link, a device or there twice"),
        ("a.tar.gz", tar_of(("good", FILE, b"x"), ("link", HARD, b"good")), "a link, a device or there twice"),
        ("a.tar.gz", tar_of(("pipe", FIFO, b"")), "a link, a device or there twice"),
        ("a.tar.gz", tar_of(("good", FILE, b"1"), ("good", FILE, b"2")), "there twice"),
        ("a.tar.gz", tar_of(("bomb", FILE, bytes(10**6))), "unpacks to more than"),
        ("a.tgz", tar_of(*((f"{i}", FILE, b"") for i in range(11))), "more than 10 entries"),
        ("a.tar.gz", tar_of(("good", FILE, NOISE))[:-200], "ended before|Compressed file"),
        ("a.tar", b"no archive at all", "could not be opened"),
    ],
)
def test_an_archive_that_cannot_be_trusted_leaves_nothing(name, data, reason, tmp_path):
    archive = put(tmp_path / "raw" / name, data)
    with pytest.raises(GettingError, match=f"{name}: cannot be unpacked: .*({reason})"):
        unpack(archive, tmp_path / "raw" / "set", "", SIZES)
    assert [p.name for p in (tmp_path / "raw").iterdir()] == [name]
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_two_entries_of_one_name_are_an_error(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = put(tmp_path / "a.zip", zip_of(("good", b"1"), ("good", b"2")))
    with pytest.raises(GettingError, match="exists"):
        unpack(archive, tmp_path / "set", "", SIZES)


def test_a_tar_archive_is_unpacked_as_a_zip_archive_is(tmp_path):
    folder = ("A", tarfile.DIRTYPE, b"")
    archive = put(tmp_path / "a.tar.gz", tar_of((".", *folder[1:]), folder, ("A/1", FILE, b"one"), ("2", FILE, b"two")))
    assert unpack(archive, tmp_path / "set", "A", SIZES) == 2
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "set").iterdir()] == [("1", b"one")]


@pytest.mark.parametrize(("path", "message"), [("B", "no folder 'B' in it; it holds A"), ("../a", "unsafe path")])
def test_a_folder_that_the_archive_lacks_is_named_with_what_it_holds(path, message, tmp_path):
    archive = put(tmp_path / "a.zip", zip_of(("A/1", b"one")))
    with pytest.raises(GettingError, match=message):
        unpack(archive, tmp_path / "set", path, SIZES)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


def test_this_projects_gitignore_shows_the_pins():
    lines = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "/data/raw" in line] == list(IGNORED)
