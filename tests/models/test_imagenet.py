"""`-m imagenet`, from a server on this machine."""

import hashlib
import http.server
import socket
import threading

import keras
import pytest

from ssd.errors import ModelError, RunError
from ssd.models import imagenet
from ssd.models.formats.torch_networks import SOURCES
from ssd.models.imagenet import BY_HAND, FILES, PublicFile, fetch
from ssd.spec.network import ARCHITECTURES

CONTENT = b"weights of a network" * 1000


@pytest.fixture
def server():
    """Serves CONTENT at /weights and counts the requests."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            if self.path != "/weights":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        found.requests = requests
        found.url = f"http://127.0.0.1:{found.server_port}"
        yield found
        found.shutdown()


@pytest.fixture
def public(monkeypatch):
    """`public(url, checksum)`: the file of resnet18."""
    return lambda url, checksum="0" * 64: monkeypatch.setitem(
        FILES, ("resnet", 18), PublicFile(url, "net.safetensors", checksum)
    )


def test_a_file_is_downloaded_once(server, public, network, tmp_path, capsys):
    public(f"{server.url}/weights", hashlib.sha256(CONTENT).hexdigest())
    for _ in range(2):
        assert fetch(network(nlayers=18), str(tmp_path)).read_bytes() == CONTENT
    assert server.requests == ["/weights"]
    assert keras.config.is_interactive_logging_enabled() and socket.getdefaulttimeout() is None
    said = capsys.readouterr().out.splitlines()  # nothing, or our lines where the command line set up its output
    assert all(line.startswith("ImageNet weights: ") for line in said)  # no progress bar of Keras'


def test_md5_does_as_well(server, public, network, tmp_path):
    public(f"{server.url}/weights", hashlib.md5(CONTENT).hexdigest())
    assert fetch(network(nlayers=18), str(tmp_path)).read_bytes() == CONTENT


def failure(network, tmp_path):
    with pytest.raises(RunError) as caught:
        fetch(network(nlayers=18), str(tmp_path))
    assert "\n" not in caught.value.message
    assert "pass it with -m" in caught.value.hint
    return caught.value.message


def test_another_content_is_refused(server, public, network, tmp_path):
    public(f"{server.url}/weights")
    assert "checksum is another" in failure(network, tmp_path)
    # Nor is what the cache now holds taken the next time.
    assert "checksum is another" in failure(network, tmp_path)


def test_an_absent_file(server, public, network, tmp_path):
    public(f"{server.url}/moved")
    assert "404" in failure(network, tmp_path)


def test_no_network(public, network, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    public(f"http://127.0.0.1:{port}/weights")
    assert f"http://127.0.0.1:{port}/weights cannot be downloaded" in failure(network, tmp_path)


def test_a_server_that_says_nothing(public, network, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "SILENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        public(f"http://127.0.0.1:{mute.getsockname()[1]}/weights")
        assert "timed out" in failure(network, tmp_path)


@pytest.mark.parametrize("key", list(BY_HAND), ids=str)
def test_networks_without_a_public_file_say_what_to_do(key, network, tmp_path):
    with pytest.raises(ModelError, match="no public ImageNet weights") as caught:
        fetch(network(arch=key[0], nlayers=key[1]), str(tmp_path))
    assert caught.value.hint


def test_every_network_is_in_one_of_the_tables():
    networks = {(arch, depth) for arch, (depths, _) in ARCHITECTURES.items() for depth in depths or (None,)}
    assert networks == FILES.keys() | BY_HAND.keys()
    assert not FILES.keys() & BY_HAND.keys()
    readable = {(source.arch, source.nlayers) for source in SOURCES}
    assert {key for key, file in FILES.items() if file.name.endswith(".safetensors")} <= readable
