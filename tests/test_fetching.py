"""Published files by name: found, fetched, gone on with, checked."""

import dataclasses
import errno
import hashlib
import http.server
import re
import shutil
import threading
import urllib.error
import urllib.request

import pytest
from helpers import ROOT

from DDA import fetching, files, published, weights
from DDA.image_adapt.scripts import image_sample
from DDA.model_adapt import predict

CONTENT = bytes(range(256)) * 1000


class Server(http.server.ThreadingHTTPServer):
    """A server of CONTENT on this machine, which remembers what was asked for.

    most: the bytes after which it hangs up. ranges: whether it knows parts of files.
    """

    content, most, ranges, status = CONTENT, None, True, 200


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, begin = self.server, 0
        server.asked.append(self.headers.get("Range"))
        if server.status != 200:
            self.send_error(server.status)
            return
        if server.ranges and self.headers.get("Range"):
            begin = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - begin))
        self.end_headers()
        end = None if server.most is None else begin + server.most
        self.wfile.write(server.content[begin:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as made:
        made.asked = []
        thread = threading.Thread(target=made.serve_forever, args=(0.01,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def entry(server, tmp_path, monkeypatch):
    """Return a published file that the server has, alone in the table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = published.Entry(
        "somebody/prior",
        "prior.pt",
        f"http://127.0.0.1:{server.server_port}/prior.pt",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )
    monkeypatch.setattr(published, "ENTRIES", (made,))
    return made


def get(entry):
    fetching.ensure(files.find(entry.name), urllib.request.urlopen)
    return entry.place.read_bytes()


def only(entry):
    """Return the names in the folder of the cache."""
    return sorted(path.name for path in entry.place.parent.iterdir())


def test_a_file_is_fetched_once_and_then_read_from_the_cache(entry, server, capsys):
    assert get(entry) == CONTENT and only(entry) == ["prior.pt"]
    assert "fetching somebody/prior (256,000 bytes)" in capsys.readouterr().err
    assert get(entry) == CONTENT and server.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_lost_connection_is_gone_on_with(entry, server, ranges):
    server.most, server.ranges = 100_000, ranges
    with pytest.raises(FileNotFoundError, match=r"100,000 bytes are kept, and the same command"):
        get(entry)
    assert only(entry) == ["prior.pt.part"]
    server.most = None
    assert get(entry) == CONTENT and server.asked == [None, "bytes=100000-"]


def test_a_part_that_is_too_long_is_begun_anew(entry):
    entry.place.parent.mkdir(parents=True)
    entry.place.with_name("prior.pt.part").write_bytes(CONTENT + b"more")
    assert get(entry) == CONTENT


def test_other_bytes_of_the_same_size_are_refused_and_not_kept(entry, server):
    server.content = b"x" + CONTENT[1:]
    with pytest.raises(files.BadFile, match="its SHA-256 is another one; nothing was kept"):
        get(entry)
    assert only(entry) == []


def test_a_file_of_another_size_is_refused_before_it_is_fetched(entry, server):
    server.content = CONTENT * 2
    with pytest.raises(files.BadFile, match="a file of another size than 256,000 bytes"):
        get(entry)
    assert only(entry) == []


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_without_the_file_is_told_in_words_with_what_to_put_where(entry, server, status):
    server.status = status
    words = (
        rf"the server answers {status}; get {entry.origin} and put it at {entry.place} \(256,000"
    )
    with pytest.raises(FileNotFoundError, match=words):
        get(entry)


def test_without_a_connection_the_error_says_what_to_put_where(entry, server, monkeypatch):
    gone = dataclasses.replace(entry, origin="https://127.0.0.1:9/prior.pt")
    monkeypatch.setattr(published, "ENTRIES", (gone,))
    with pytest.raises(FileNotFoundError) as error:
        weights.read(files.find(entry.name), "checkpoint")
    text = f"{error.value}"
    assert "there is no connection to the server; get https://127.0.0.1:9/prior.pt" in text
    assert f"put it at {entry.place} (256,000 bytes, SHA-256 {entry.sha256})" in text
    assert "Errno" not in text and only(entry) == []


def test_only_https_is_opened(entry):
    with pytest.raises(FileNotFoundError, match="is no address of https"):
        fetching.ensure(entry.place)


def test_a_redirection_to_plain_http_is_refused():
    request = urllib.request.Request("https://example.org/x")
    with pytest.raises(urllib.error.URLError, match="no address of https"):
        fetching._OnlyHttps().redirect_request(request, None, 302, "", {}, "http://example.org/x")


def test_a_full_disk_is_told_before_anything_is_fetched(entry, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 5))
    with pytest.raises(files.BadFile, match="where 5 are free; make room, or set XDG_CACHE_HOME"):
        get(entry)
    assert server.asked == []


def test_two_processes_fetch_a_file_once(entry, server):
    threads = [threading.Thread(target=get, args=(entry,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert entry.place.read_bytes() == CONTENT and server.asked == [None]
    assert only(entry) == ["prior.pt"]


def test_another_file_in_the_place_of_a_published_one_is_refused(entry):
    entry.place.parent.mkdir(parents=True)
    for data, words in ((b"short", "has 5 bytes"), (b"x" + CONTENT[1:], "SHA-256 is another")):
        entry.place.write_bytes(data)
        with pytest.raises(files.BadFile, match=words):
            weights.read(entry.place, "checkpoint")


def test_a_file_whose_digest_nobody_knows_is_not_fetched(entry, server, monkeypatch, prior):
    unknown = dataclasses.replace(entry, sha256=None)
    monkeypatch.setattr(published, "ENTRIES", (unknown,))
    with pytest.raises(
        FileNotFoundError, match=r"nothing would tell .*256,000 bytes, no known SHA"
    ):
        get(unknown)
    assert server.asked == []
    monkeypatch.setattr(published, "ENTRIES", (dataclasses.replace(unknown, bytes=None),))
    entry.place.parent.mkdir(parents=True)
    shutil.copy(prior, entry.place)  # somebody got it
    assert "time_embed.0.weight" in weights.read(files.find(entry.name), "checkpoint")


def test_a_path_that_exists_comes_before_a_published_name(entry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.find(entry.name) == entry.place
    (tmp_path / "somebody").mkdir()
    (tmp_path / "somebody/prior").write_bytes(b"mine")
    assert f"{files.find(entry.name)}" == entry.name


def test_commands_take_names_of_published_files(tree, tmp_path, monkeypatch, capsys):
    def unplugged(*_):
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setattr(urllib.request, "build_opener", unplugged)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["--model_path", "openai/256x256_diffusion_uncond", "--base_samples", str(tree)]
    assert image_sample.main([*words, "--save_dir", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "there is no connection to the server" in shown and "openaipublic" in shown
    assert f"{tmp_path}/cache/diffaud/openai/256x256" in shown
    words = ["akamaster/resnet20", "--data_prefix1", str(tree), "--out", str(tmp_path / "a.csv")]
    assert predict.main([*words, "--ensemble", "first"]) == 2
    shown = capsys.readouterr().err
    assert "get https://github.com/" in shown and "diffaud/akamaster/resnet20-12fca82f.th" in shown


def test_the_readme_shows_the_table_of_published_files():
    lines = (ROOT / "DDA/ckpt/README.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "`" in line]
    shown = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert list(shown) == [f"`{entry.name}`" for entry in published.ENTRIES]
    for entry in published.ENTRIES:
        size = "unknown" if entry.bytes is None else f"{entry.bytes:,}"
        digest = "unknown" if entry.sha256 is None else f"`{entry.sha256}`"
        assert shown[f"`{entry.name}`"] == [f"`{entry.file}`", size, digest, entry.origin]


def test_known_files_beside_the_project_are_those_of_the_table():
    folder = ROOT.parent / "shared/ckpt"
    known = [entry for entry in published.ENTRIES if (folder / entry.file).is_file()]
    if not known:
        pytest.skip("../shared is absent")
    for entry in known:
        fetching.check(entry, folder / entry.file)
