"""Authentication, and the headers that requests must have."""

import socket
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import pytest
from raw_http import certificate

from streamer.api.memory import MemoryAnswers
from streamer.api.security import is_loopback, required_token, tls
from streamer.api.thread import serving
from streamer.core.errors import BadSettings
from streamer.core.settings import SecuritySettings, ServerSettings

RECOMMEND = "/streamer.v1.RecommendationService/Recommend"
PUBLISH = "/streamer.v1.EventService/Publish"
TOKEN = "correct-horse"


@pytest.fixture
def answers() -> MemoryAnswers:
    return MemoryAnswers()


@pytest.fixture
def client(answers: MemoryAnswers) -> Iterator[httpx.Client]:
    with (
        serving(answers, ServerSettings(port=0), SecuritySettings()) as url,
        httpx.Client(base_url=url, timeout=20) as made,
    ):
        yield made


@pytest.fixture
def guarded(answers: MemoryAnswers, tmp_path: Path) -> Iterator[httpx.Client]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    security = SecuritySettings(token_file=str(tmp_path / "token"))
    with serving(answers, ServerSettings(port=0), security) as url, httpx.Client(base_url=url, timeout=20) as made:
        yield made


def test_beyond_loopback_a_token_or_insecure_is_required(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.7", "example.org"):
        with pytest.raises(BadSettings, match=r"--token-file.*--insecure") as caught:
            required_token(ServerSettings(host=host), SecuritySettings())
        assert caught.value.exit_code == 78
        assert required_token(ServerSettings(host=host), SecuritySettings(insecure=True)) == ""
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert required_token(ServerSettings(host=host), SecuritySettings()) == ""
    (tmp_path / "token").write_text(TOKEN)
    security = SecuritySettings(token_file=str(tmp_path / "token"))
    assert required_token(ServerSettings(host="0.0.0.0"), security) == TOKEN


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "schlüssel"])
def test_an_unusable_token_file_is_reported_without_its_content(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(BadSettings) as caught:
        required_token(ServerSettings(), SecuritySettings(token_file=str(tmp_path / "token")))
    assert str(tmp_path / "token") in str(caught.value)
    assert "schl" not in str(caught.value)
    with pytest.raises(BadSettings, match="missing"):
        required_token(ServerSettings(), SecuritySettings(token_file=str(tmp_path / "missing")))


def test_serving_beyond_loopback_without_a_token_does_not_start(answers: MemoryAnswers) -> None:
    with pytest.raises(BadSettings), serving(answers, ServerSettings(host="0.0.0.0", port=0), SecuritySettings()):
        pass


def test_over_tls_all_protocols_are_answered_and_plain_requests_are_not(answers: MemoryAnswers, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    security = SecuritySettings(tls_cert_file=cert, tls_key_file=key)
    with serving(answers, ServerSettings(port=0), security) as url:
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=cert)
        assert httpx.get(f"{url}/healthz", verify=trusting).json()["endpoint"] == "serving"
        with pytest.raises(httpx.HTTPError):
            httpx.get(url.replace("https", "http") + "/healthz")
        credentials = grpc.ssl_channel_credentials(Path(cert).read_bytes())
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.secure_channel(f"localhost:{httpx.URL(url).port}", credentials, options=options) as channel:
            assert channel.unary_unary("/streamer.v1.AdminService/GetStatus")(b"", timeout=20)


def test_at_the_end_a_tls_connection_whose_client_does_not_answer_is_closed(
    answers: MemoryAnswers, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path)
    security = SecuritySettings(tls_cert_file=cert, tls_key_file=key)
    with serving(answers, ServerSettings(port=0), security) as url:
        plain = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0), timeout=20)
        connection = ssl.create_default_context(cafile=cert).wrap_socket(plain, server_hostname="localhost")
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        silent = socket.socket(fileno=connection.detach())  # from now on nobody speaks TLS here
    with silent:
        silent.settimeout(20)
        while silent.recv(1 << 16):
            pass


def test_an_unusable_certificate_is_reported(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    for wrong in (SecuritySettings(tls_cert_file=cert), SecuritySettings(tls_key_file=key)):
        with pytest.raises(BadSettings, match="give both --tls-cert-file and --tls-key-file"):
            tls(wrong)
    for wrong in (
        SecuritySettings(tls_cert_file=key, tls_key_file=cert), SecuritySettings(tls_cert_file="none", tls_key_file=key)
    ):  # fmt: skip
        with pytest.raises(BadSettings, match="cannot use the certificate"):
            tls(wrong)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "127.1.2.3:8080", "[::1]:8080", "[::1]"])
def test_a_loopback_name_as_host_is_answered(client: httpx.Client, host: str) -> None:
    assert client.get("/metrics", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "[::2]:80",
        "[::1",
        "[::1]x",
        "[::1]:80x",
        "::1",
        "127.0.0.1:80x",
        "10.0.0.1",
        "",
    ],
)
def test_another_name_as_host_is_refused_on_loopback(client: httpx.Client, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("GET", "/healthz"), ("POST", RECOMMEND)):
        answer = client.request(method, path, headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied"), path


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "nonsense"])
def test_an_unknown_encoding_of_the_body_is_the_clients_error(client: httpx.Client, encoding: str) -> None:
    answer = client.post(
        RECOMMEND, content=b"{}", headers={"content-type": "application/json", "content-encoding": encoding}
    )
    assert answer.status_code == 415
    assert answer.json()["message"].startswith(f"Content-Encoding {encoding!r} is not read here")
    assert answer.headers["accept-encoding"] == "gzip, identity"


def test_another_name_as_authority_is_refused_over_grpc(client: httpx.Client) -> None:
    options = [("grpc.default_authority", "evil.example"), ("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{client.base_url.port}", options=options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(RECOMMEND)(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "evil.example" in caught.value.details()


def test_any_host_is_answered_beyond_loopback(answers: MemoryAnswers) -> None:
    server = ServerSettings(host="0.0.0.0", port=0)
    with serving(answers, server, SecuritySettings(insecure=True)) as url:
        port = httpx.URL(url).port
        assert httpx.get(f"http://127.0.0.1:{port}/metrics", headers={"host": "streamer"}).status_code == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/xml"],
)
def test_content_types_that_browsers_send_across_origins_are_refused(
    answers: MemoryAnswers, client: httpx.Client, kind: str
) -> None:
    body = b'{"events":[{"click":{"userId":"u","itemId":"i"}}]}'
    answer = client.post(PUBLISH, content=body, headers={"content-type": kind} if kind else {})
    assert (answer.status_code, answer.json()["code"]) == (415, "invalid_argument")
    assert answers.messages == []


def test_a_charset_does_not_matter(client: httpx.Client) -> None:
    headers = {"content-type": "application/JSON; charset=utf-8"}
    assert client.post(PUBLISH, content=b"{}", headers=headers).status_code == 200


def test_headers_beyond_ascii_are_harmless(client: httpx.Client) -> None:
    answer = client.post(RECOMMEND, json={"userId": "u"}, headers={"x-name": "Jos\xe9".encode("latin-1")})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers", [{"connect-timeout-ms": "soon"}, {"content-encoding": "zip"}, {"content-type": "application/grpc+x"}]
)
def test_invalid_headers_get_a_sentence(client: httpx.Client, headers: dict[str, str]) -> None:
    answer = client.post(RECOMMEND, content=b"{}", headers={"content-type": "application/json"} | headers)
    assert answer.status_code in (200, 400, 415, 501)
    assert "Traceback" not in answer.text


def test_no_answer_allows_other_origins(client: httpx.Client) -> None:
    preflight = client.options(PUBLISH, headers={"origin": "http://evil.example"})
    assert preflight.status_code == 405
    for answer in (preflight, client.get("/metrics", headers={"origin": "http://evil.example"})):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "authorization",
    ["", TOKEN, "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", f"Digest {TOKEN}", "Basic !!", "Bearer \xff",
     "Basic " + b64encode(b":wrong").decode(), "Basic " + b64encode(TOKEN.encode()).decode()],
)  # fmt: skip
def test_without_the_token_only_health_is_answered(guarded: httpx.Client, authorization: str) -> None:
    headers = {"authorization": authorization.encode("latin-1")} if authorization else None
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", RECOMMEND), ("POST", PUBLISH), ("GET", "/x")):
        answer = guarded.request(method, path, json={}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert TOKEN not in answer.text
    assert guarded.get("/healthz").status_code == 200
    assert guarded.post("/grpc.health.v1.Health/Check", json={}).json() == {"status": "SERVING"}


def test_with_the_token_everything_is_answered(guarded: httpx.Client) -> None:
    basic = "Basic " + b64encode(f"anybody:{TOKEN}".encode()).decode()
    for authorization in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic):
        headers = {"authorization": authorization}
        assert guarded.get("/", headers=headers).status_code == 200
        assert guarded.post(RECOMMEND, json={"userId": "u"}, headers=headers).status_code == 200


def test_grpc_sends_the_token_as_metadata(guarded: httpx.Client) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{guarded.base_url.port}", options=[("grpc.enable_http_proxy", 0)]
    ) as channel:
        call = channel.unary_unary("/streamer.v1.AdminService/GetStatus")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "token" in caught.value.details()
        assert call(b"", timeout=20, metadata=[("authorization", f"Bearer {TOKEN}")])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("localhost", True), ("127.255.0.1", True), ("::1", True), ("0.0.0.0", False),
     ("::", False), ("127.1", False), ("localhost.example", False), ("", False)],
)  # fmt: skip
def test_loopback_names_are_recognised(name: str, expected: bool) -> None:
    assert is_loopback(name) is expected
