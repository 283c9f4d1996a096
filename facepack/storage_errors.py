"""Storage errors: an object store's answer as one line that says what to do."""

import re

_CODE = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]*)</Message>")
_REGION = re.compile(r"<Region>([^<]*)</Region>|expecting '([a-z0-9-]+)'")
_TRIES = re.compile(r"Error performing .*? in \S+?s(?:, after [^-]*?)?\s+- ")
_LOGIN = re.compile(r"(https?://)[^/@\s]*@")  # abfs://container@account is no login

_ADVICE = {
    "NoSuchBucket": "no such bucket; make it, or check its name and AWS_ENDPOINT_URL",
    "ContainerNotFound": "no such container; make it, or check its name and account",
    "InvalidAccessKeyId": "access key not known there; check AWS_ACCESS_KEY_ID, AWS_PROFILE and AWS_ENDPOINT_URL",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or your profile",
    "ExpiredToken": "the credentials have expired; sign in again",
    "InvalidToken": "the session token is not valid; set AWS_SESSION_TOKEN anew or unset it",
    "RequestTimeTooSkewed": "this computer's clock is wrong; set it",
    "InvalidBucketName": "not a name that a bucket can have",
    "SlowDown": "too many requests at once; try again later",
}
_DENIED = "access denied; check that these credentials may read and write here"
_UNSIGNED = (
    "access denied without credentials, and none were found; set them as for the store's own tools (docs/storage.md)"
)


def is_missing_bucket(error: BaseException) -> bool:
    """True where an answer says that the bucket or container itself is not there."""
    return _code(str(error)) in ("NoSuchBucket", "ContainerNotFound")


def explained(error: BaseException, *, is_unsigned: bool) -> str:
    """What went wrong and what to do, in one line."""
    text = str(error)
    code = _code(text)
    if code in _ADVICE:
        return _ADVICE[code]
    region = _REGION.search(text)
    if region or code == "PermanentRedirect" or "redirect without LOCATION" in text:
        right = next(filter(None, region.groups()), "") if region else ""
        return f"the bucket is in another region; set AWS_REGION{'=' + right if right else ' to its own'}"
    if code == "AccessDenied" or "403 Forbidden" in text or "401 Unauthorized" in text:
        return _UNSIGNED if is_unsigned else _DENIED
    if "builder error" in text:
        return "an address with http:// is refused; set AWS_ALLOW_HTTP=true, or use https://"
    if "PROPFIND" in text:
        return "a web server does not list its files; give a build, an archive or a bucket"
    if "error sending request" in text:
        return "no answer; check the address, AWS_ENDPOINT_URL and the network"
    return _rest(text)


def without_login(text: str) -> str:
    """Text whose addresses show no user and password."""
    return _LOGIN.sub(r"\1", text)


def _code(text: str) -> str:
    match = _CODE.search(text)
    return match[1] if match else ""


def _rest(text: str) -> str:
    """The cause in what obstore says, without its tries and its markup."""
    first = text.strip().split("\n\nDebug source", 1)[0]
    message = _MESSAGE.search(first)
    head = re.split(r"<[?!A-Za-z]", first, maxsplit=1)[0].strip().rstrip(":")
    line = " ".join(_TRIES.sub("", head).split())
    line = re.sub(r"^Generic \w+ error: (Error performing list request: )?", "", line)
    return without_login(f"{line} ({message[1]})" if message else line)
