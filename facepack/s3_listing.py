"""S3 listing: keys by plain signed requests, those included that obstore refuses to name."""

import hashlib
import hmac
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote_plus, urlencode, urlsplit

_NAMESPACE = "{*}"
_TIMEOUT_S = 30


def keys(base: str, prefix: str, *, credential: Mapping[str, str], region: str) -> Iterator[str]:
    """All keys below a prefix of the bucket at `base`, an address; unsigned where `credential` is empty.

    `credential` has obstore's names. Raises `OSError` where the server refuses. Signature version 4:
    https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
    """
    token = ""
    while True:
        query = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if token:
            query["continuation-token"] = token
        line = urlencode(sorted(query.items()), quote_via=quote, safe="")
        headers = _signed(base, line, credential=credential, region=region) if credential else {}
        request = urllib.request.Request(f"{base}?{line}", headers=headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            page = ET.fromstring(answer.read())  # noqa: S314
        for key in page.iterfind(f"{_NAMESPACE}Contents/{_NAMESPACE}Key"):
            yield unquote_plus(key.text or "")
        token = page.findtext(f"{_NAMESPACE}NextContinuationToken") or ""
        if not token:
            return


def _signed(base: str, query: str, *, credential: Mapping[str, str], region: str) -> dict[str, str]:
    """The headers of a signed GET."""
    address, now = urlsplit(base), datetime.now(UTC)
    moment, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"host": address.netloc, "x-amz-content-sha256": hashlib.sha256(b"").hexdigest(), "x-amz-date": moment}
    if credential.get("token"):
        headers["x-amz-security-token"] = credential["token"]
    names = ";".join(sorted(headers))
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    request = f"GET\n{address.path or '/'}\n{query}\n{lines}\n{names}\n{headers['x-amz-content-sha256']}"
    scope = f"{day}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credential['secret_access_key']}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    who = f"Credential={credential['access_key_id']}/{scope}"
    return {**headers, "Authorization": f"AWS4-HMAC-SHA256 {who}, SignedHeaders={names}, Signature={signature}"}
