"""Object stores are opened as their own tools open them, and what they answer is said in one line."""

import base64
import os
import pickle
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from web import started

from facepack.credentials import access
from facepack.errors import JobError, UsageError
from facepack.storage import Store

KEYS = "aws_access_key_id=k\naws_secret_access_key=s\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any credentials, on a computer that is nobody's cloud machine."""
    for name in os.environ:
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    (tmp_path / ".aws").mkdir()
    return tmp_path


def test_profile_gives_keys_region_and_endpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".aws/credentials").write_text(
        f"[default]\n{KEYS}\n[lab]\naws_access_key_id = L\naws_secret_access_key=M\n"
    )
    (home / ".aws/config").write_text("[profile lab]\nregion = eu-west-1\nendpoint_url = http://127.0.0.1:9\n")
    assert access("s3://b/p").config == {"access_key_id": "k", "secret_access_key": "s"}
    monkeypatch.setenv("AWS_PROFILE", "lab")
    lab = access("s3://b/p")
    assert lab.config == {
        "access_key_id": "L",
        "secret_access_key": "M",
        "region": "eu-west-1",
        "endpoint": "http://127.0.0.1:9",
    }
    assert lab.client == {"allow_http": True}
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "e")
    with pytest.raises(UsageError, match="AWS_SECRET_ACCESS_KEY is not set, its other half is"):
        access("s3://b/p")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "f")
    assert "access_key_id" not in access("s3://b/p").config  # obstore reads the variables
    monkeypatch.setenv("AWS_PROFILE", "lob")
    with pytest.raises(UsageError, match=r"AWS_PROFILE lob: not in .*; there: default, lab"):
        access("s3://b/p")


def test_profile_of_a_program_is_followed_by_boto3(home: Path) -> None:
    answer = '{"Version": 1, "AccessKeyId": "P", "SecretAccessKey": "Q"}'
    (home / "give").write_text(f"#!/bin/sh\necho '{answer}'\n")
    (home / "give").chmod(0o755)
    (home / ".aws/config").write_text(f"[default]\ncredential_process = {home}/give\n")
    provider = access("s3://b/p").provider
    assert provider is not None
    assert provider()["access_key_id"] == "P"
    (home / "give").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(JobError, match=r"AWS profile default: .*; sign in again with: aws sso login"):
        access("s3://b/p")


def test_without_credentials_requests_are_unsigned_at_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    for location in ("s3://b/p", "gs://b/p"):
        assert access(location).config == {"skip_signature": True}
        assert access(location).is_unsigned
    assert time.monotonic() - begun < 5
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(home / "absent.json"))
    with pytest.raises(UsageError, match=r"GOOGLE_APPLICATION_CREDENTIALS .*absent\.json: no such file"):
        access("gs://b/p")


def test_azure_needs_an_account_and_reads_a_connection_string(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"az://c/p: which account\? set AZURE_STORAGE_ACCOUNT_NAME"):
        access("az://c/p")
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "AccountName=a;AccountKey=a2V5==;EndpointSuffix=x")
    assert access("az://c/p").config == {"account_name": "a", "account_key": "a2V5=="}


def test_damaged_credentials_file_is_one_line(home: Path) -> None:
    (home / ".aws/credentials").write_text("aws_access_key_id=k\n")
    with pytest.raises(UsageError, match=r"credentials: not in the form of `aws configure`; mend it") as caught:
        access("s3://b/p")
    assert "\n" not in str(caught.value)


def test_credentials_file_and_http_endpoint_read_a_real_bucket(
    home: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    (home / ".aws/credentials").write_text(f"[default]\n{KEYS}")
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket="credentials")
    store = Store("s3://credentials/p")
    store.write("x", b"x")
    assert pickle.loads(pickle.dumps(store)).read("x") == b"x"
    nowhere = Store("s3://credentials-nowhere/p")
    for ask in (nowhere.list, lambda: nowhere.read("x"), lambda: nowhere.write("x", b"")):
        with pytest.raises(JobError, match=r"^s3://credentials-nowhere/p: no such bucket[^<\n]*$"):
            ask()
    with pytest.raises(FileNotFoundError, match=r"^s3://credentials/p/absent: not found$"):
        store.read("absent")


def test_keys_that_are_no_paths_are_counted_and_the_others_listed(
    home: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    (home / ".aws/credentials").write_text(f"[default]\n{KEYS}")
    client = boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1")
    client.create_bucket(Bucket="odd-keys")
    usual = ["a/1.jpg", "a/x y+z%20.jpg", "b/é#.jpg"]
    for key in [*usual, "/x.jpg", "a//2.jpg", "a/../3.jpg", "folder/"]:
        client.put_object(Bucket="odd-keys", Key=f"p/{key}", Body=b"x")
    assert Store("s3://odd-keys/p").list() == usual
    assert "s3://odd-keys/p: 3 keys left out" in caplog.text


ANSWERS = {
    "denied": (403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"),
    "region": (400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"),
    "moved": (301, "<Error><Code>PermanentRedirect</Code></Error>"),
    "secret": (403, "<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"),
    "odd": (400, "<?xml version='1.0'?>\n<Error><Code>Odd</Code><Message>An odd thing.</Message></Error>"),
}


asked: list[str] = []
"""The paths that the server was asked for."""


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server that answers by the bucket's name, and keeps what it was sent as authorization."""
    sent: list[str] = []
    asked.clear()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            sent.append(self.headers.get("Authorization", ""))
            asked.append(self.path)
            code, text = ANSWERS.get(self.path.split("/")[1].split("?")[0], (200, "content"))
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.send_header("ETag", "x")
            self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    running = started(ThreadingHTTPServer(("127.0.0.1", 0), Answers))
    yield f"127.0.0.1:{running.server_address[1]}", sent
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize(
    ("bucket", "line"),
    [
        ("denied", "access denied; check that these credentials may read and write here"),
        ("region", "the bucket is in another region; set AWS_REGION=eu-west-1"),
        ("moved", "the bucket is in another region; set AWS_REGION to its own"),
        ("secret", "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or your profile"),
        ("odd", "Server returned non-2xx status code: 400 Bad Request (An odd thing.)"),
    ],
)
def test_answers_are_one_line_that_says_what_to_do(
    home: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, bucket: str, line: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server[0]}")
    (home / ".aws/credentials").write_text(f"[default]\n{KEYS}")
    store = Store(f"s3://{bucket}/p")
    with pytest.raises(JobError) as caught:
        store.list()
    assert str(caught.value) == f"s3://{bucket}/p: {line}"
    with pytest.raises(JobError) as caught:
        store.read("x")
    assert str(caught.value) == f"s3://{bucket}/p/x: {line}"


def test_denied_without_credentials_says_that_none_were_found(
    home: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{server[0]}")
    with pytest.raises(JobError, match="s3://denied/p/x: access denied without credentials, and none were found"):
        Store("s3://denied/p").read("x")
    assert server[1] == [""]


def test_user_and_password_of_an_address_are_sent_and_never_shown(server: tuple[str, list[str]]) -> None:
    store = Store(f"http://me:pa%20ss@{server[0]}/build/")
    assert store.location == f"http://{server[0]}/build"
    assert store.read("x") == b"content"
    assert pickle.loads(pickle.dumps(store)).read("x") == b"content"
    assert Store(store.location).read("x") == b"content"  # as build.json and the like name it
    assert server[1] == [f"Basic {base64.b64encode(b'me:pa ss').decode()}"] * 3
    with pytest.raises(JobError) as caught:
        Store(f"http://me:secret@{server[0]}/denied").read("x")
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(caught.value.__cause__)


def test_token_of_azure_in_an_address_is_sent_and_never_shown(
    home: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://{server[0]}")
    for address in ("https://acct.blob.core.windows.net/faces/b", "abfs://faces@acct.dfs.core.windows.net/b"):
        store = Store(f"{address}/?sv=2024-01-01&sig=c2VjcmV0")
        assert store.location == address
        assert pickle.loads(pickle.dumps(store)).read("x") == b"content"
        assert Store(store.location).read("x") == b"content"  # as a run's record names it, in the same process
    assert len(asked) == 4
    assert all(path.startswith("/faces/b/x?") and "sig=c2VjcmV0" in path for path in asked)
