"""Credentials: what an object store's own tools would sign with, out of variables and files."""

import configparser
import importlib.util
import os
import socket
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from facepack.errors import JobError, UsageError

_METADATA_S = 1.0
"""Longest wait for a cloud's metadata address, which answers within milliseconds or is not there."""
_SIGNS_IN = (
    "role_arn",
    "sso_session",
    "sso_start_url",
    "credential_process",
    "web_identity_token_file",
    "login_session",
)
"""Keys of a profile that boto3 alone knows how to follow."""
_GCS_VARIABLES = ("GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY")
_AZURE_VARIABLES = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_STORAGE_TOKEN",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USE_AZURE_CLI",
    "AZURE_SKIP_SIGNATURE",
    "IDENTITY_ENDPOINT",
    "AZURE_MSI_ENDPOINT",
)
AZURE_HOSTS = ".core.windows.net"
"""The end of the names of Azure's hosts."""
_S3, _GCS, _AZURE = ("s3", "s3a"), ("gs",), ("az", "adl", "azure", "abfs", "abfss")


@dataclass(frozen=True)
class Access:
    """How to open an object store: obstore's settings of store and HTTP client, and who gives credentials."""

    config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    provider: Callable[[], Any] | None = None
    is_unsigned: bool = False

    def options(self) -> dict[str, Any]:
        """The arguments of obstore's `from_url`, only those that say something."""
        given = {"config": self.config, "client_options": self.client, "credential_provider": self.provider}
        return {name: value for name, value in given.items() if value}


def access(location: str, *, token: str = "") -> Access:
    """The access to a URL; `token` is a shared access signature of Azure, as it follows the ? of an address.

    Raises `UsageError` and `JobError` where variables or files name what is not there.
    """
    scheme = location.partition("://")[0].lower()
    if scheme in _S3:
        return _s3()
    if scheme in _GCS:
        return _gcs()
    if scheme in _AZURE or AZURE_HOSTS in location:
        return _azure(location, token=token)
    # Whoever writes http:// means it.
    return Access(client={"allow_http": True} if scheme == "http" else {})


def static_credential(access: Access) -> dict[str, str] | None:
    """S3's keys as obstore's provider gives them, empty for unsigned requests; None where only obstore knows them."""
    if access.is_unsigned:
        return {}
    if access.provider is not None:
        return dict(access.provider())
    variables = {"access_key_id": "AWS_ACCESS_KEY_ID", "secret_access_key": "AWS_SECRET_ACCESS_KEY"}
    values = {name: access.config.get(name) or os.environ.get(variable, "") for name, variable in variables.items()}
    token = access.config.get("session_token") or (
        "" if "access_key_id" in access.config else _first("AWS_SESSION_TOKEN")
    )
    return {**values, "token": token} if all(values.values()) else None


def s3_address(access: Access, bucket: str) -> tuple[str, str]:
    """The address of a bucket and its region."""
    region = access.config.get("region") or _first("AWS_REGION", "AWS_DEFAULT_REGION") or "us-east-1"
    variables = _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    endpoint = access.config.get("endpoint") or variables or f"https://s3.{region}.amazonaws.com"
    return f"{endpoint.rstrip('/')}/{bucket}", region


def _s3() -> Access:
    profile = _profile()
    config: dict[str, Any] = {}
    if not _first("AWS_REGION", "AWS_DEFAULT_REGION") and profile.get("region"):
        config["region"] = profile["region"]
    endpoint = _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    if not endpoint and profile.get("endpoint_url") and not _is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"):
        endpoint = config["endpoint"] = profile["endpoint_url"]
    # An address that begins with http:// needs no second variable; others keep what their variables say.
    client = {"allow_http": True} if endpoint.startswith("http://") else {}
    if _is_true("AWS_SKIP_SIGNATURE") or _is_true("AWS_NO_SIGN_REQUEST"):
        return Access({**config, "skip_signature": True}, client, is_unsigned=True)
    if _first("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            if not os.environ.get(name):
                raise UsageError(f"{name} is not set, its other half is; set both, or neither to use a profile")
        return Access(config, client)
    if any(profile.get(name) for name in _SIGNS_IN):
        return Access(config, client, provider=_boto3_provider())
    if profile.get("aws_access_key_id") and profile.get("aws_secret_access_key"):
        names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
        keys = {name.removeprefix("aws_"): profile[name] for name in names if profile.get(name)}
        return Access({**config, **keys}, client)
    others = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if _first(*others, "AWS_CONTAINER_CREDENTIALS_FULL_URI") or _is_on_ec2():
        return Access(config, client)  # obstore asks there
    return Access({**config, "skip_signature": True}, client, is_unsigned=True)


def _profile() -> Mapping[str, str]:
    """The chosen profile of AWS's two files, the credentials' keys before the configuration's; empty without files."""
    paths = {
        "config": Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"),
        "credentials": Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials"),
    }
    chosen = _first("AWS_PROFILE", "AWS_DEFAULT_PROFILE")
    merged: dict[str, str] = {}
    known: set[str] = set()
    for kind, path in paths.items():
        for title, values in _sections(path).items():
            name = title.removeprefix("profile ").strip() if kind == "config" else title
            known.add(name)
            if name == (chosen or "default"):
                merged |= values
    if chosen and chosen not in known:
        listed = ", ".join(sorted(known)) or "no profile at all"
        raise UsageError(f"AWS_PROFILE {chosen}: not in {paths['config']} or {paths['credentials']}; there: {listed}")
    return merged


def _sections(path: Path) -> dict[str, dict[str, str]]:
    """The sections of an INI file, empty where it is not there."""
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(path.expanduser().read_text(encoding="utf-8-sig"), source=str(path))
    except (FileNotFoundError, NotADirectoryError, RuntimeError):
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not in the form of `aws configure`"
        raise UsageError(f"{path}: {reason}; mend it or name another file") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; mend it or name another file") from error
    return {title: {key: value.strip() for key, value in parser.items(title)} for title in parser.sections()}


def _boto3_provider() -> Callable[[], Any]:
    """Credentials by way of boto3, which knows single sign-on, roles and programs that give credentials."""
    name = _first("AWS_PROFILE", "AWS_DEFAULT_PROFILE") or "default"
    if importlib.util.find_spec("boto3") is None:
        advice = "pip install 'facepack[s3]', or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise JobError(f"AWS profile {name} signs in by a role, SSO or a program, which takes boto3: {advice}")
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        provider = Boto3CredentialProvider()
        provider()
    except (BotoCoreError, ClientError, ValueError, AssertionError) as error:
        raise JobError(
            f"AWS profile {name}: {_line(error)}; sign in again with: aws sso login --profile {name}"
        ) from error
    return provider


def _gcs() -> Access:
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if named and not Path(named).is_file():
        raise UsageError(f"GOOGLE_APPLICATION_CREDENTIALS {named}: no such file")
    if _is_true("GOOGLE_SKIP_SIGNATURE"):
        return Access({"skip_signature": True}, is_unsigned=True)
    if named or _first(*_GCS_VARIABLES):
        return Access()
    folder = os.environ.get("CLOUDSDK_CONFIG", "")
    file = Path(folder or "~/.config/gcloud").expanduser() / "application_default_credentials.json"
    if file.is_file():
        return Access({"application_credentials": str(file)})
    host = os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"
    if _responds(f"http://{host}/computeMetadata/v1/", ("Metadata-Flavor", "Google")):
        return Access()
    return Access({"skip_signature": True}, is_unsigned=True)


def _azure(location: str, *, token: str) -> Access:
    config: dict[str, Any] = {**_connection_string(), **({"sas_key": token} if token else {})}
    account = _first("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT") or config.get("account_name")
    is_emulator = _is_true("AZURE_STORAGE_USE_EMULATOR")
    if not account and not is_emulator and AZURE_HOSTS not in location:
        raise UsageError(f"{location}: which account? set AZURE_STORAGE_ACCOUNT_NAME")
    if account and AZURE_HOSTS not in location:
        config["account_name"] = account
    endpoint = config.get("endpoint") or _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    client = {"allow_http": True} if is_emulator or endpoint.startswith("http://") else {}
    if config.keys() & {"account_key", "sas_key"} or is_emulator or _first(*_AZURE_VARIABLES):
        return Access(config, client)
    if (Path(os.environ.get("AZURE_CONFIG_DIR") or "~/.azure").expanduser() / "azureProfile.json").is_file():
        return Access({**config, "use_azure_cli": True}, client)
    if _responds("http://169.254.169.254/metadata/instance?api-version=2021-02-01", ("Metadata", "true")):
        return Access(config, client)
    return Access({**config, "skip_signature": True}, client, is_unsigned=True)


def _connection_string() -> dict[str, str]:
    """What AZURE_STORAGE_CONNECTION_STRING says, in obstore's names."""
    parts = (part.partition("=") for part in os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"))
    names = {"AccountName": "account_name", "AccountKey": "account_key", "BlobEndpoint": "endpoint"}
    names["SharedAccessSignature"] = "sas_key"
    return {names[name.strip()]: value.strip() for name, _, value in parts if name.strip() in names}


@lru_cache(maxsize=1)
def _is_on_ec2() -> bool:
    """True where a machine's own role gives credentials."""
    if _is_true("AWS_EC2_METADATA_DISABLED"):
        return False
    host = _first("AWS_METADATA_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT") or "http://169.254.169.254"
    return _responds(
        f"{host.rstrip('/')}/latest/api/token", ("X-aws-ec2-metadata-token-ttl-seconds", "60"), method="PUT"
    )


def _responds(url: str, header: tuple[str, str], *, method: str = "GET") -> bool:
    """True where a metadata address answers, soon, and past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=dict([header]), method=method)  # noqa: S310
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=_METADATA_S).close()
        with opener.open(request, timeout=_METADATA_S) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _first(*names: str) -> str:
    """The first of these variables that is set."""
    return next((value for name in names if (value := os.environ.get(name, ""))), "")


def _is_true(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
