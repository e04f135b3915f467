"""Redaction of secrets in addresses: user names, passwords and signed query values."""

from __future__ import annotations

import re

__all__ = ["redact_source"]

_MASK = "***"
#: Query keys whose value is a secret, or belongs to a signature (Azure SAS, S3, GCS, CloudFront, Akamai).
_NAMES = (
    r"(?:x-(?:amz|goog|ms|oss)-[\w.-]+|(?:header\.)?(?:proxy-)?authorization|[\w.-]*(?:secret|password|passwd|token|"
    r"signature|credential|accesskey|access[-_.]key|account[-_.]?key|api[-_.]?key|subscription[-_.]?key)[\w.-]*|"
    r"key|sig|pwd|pass|userpwd|proxyuserpwd|auth|code|sas|user|awsaccesskeyid|googleaccessid|key-pair-id|policy|"
    r"expires|se|sp|sv|sr|st|si|ss|srt|spr|sip|sdd|ske|sks|skt|skv|skoid|sktid|saoid|suoid|scid|hdnea|hdnts)"
)
_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_ENCODED_USERINFO = re.compile(r"(?<=%3A%2F%2F)(?:(?!%2F|%3F|%23)[^\s&/?#])*(?:%40|@)", re.IGNORECASE)
#: "Bearer SECRET" is one value.
_SCHEME = r"(?:(?:bearer|basic|digest|token|apikey)(?:\s|\+|%20)+)?"
_QUERY = re.compile(rf"([?&;]|%3F|%26|%3B)({_NAMES})(=|%3D){_SCHEME}(?:(?!%26|%23)[^&;#\s\"'<>])*", re.IGNORECASE)
#: Connection strings (``PG:dbname=x password=SECRET``) and GDAL's inline XML (``<UserPwd>user:SECRET</UserPwd>``).
_SETTING = re.compile(r"((?:^|[\s:,])(?:password|passwd|pwd)=)(?:'[^']*'|[^\s,;&'\"]+)", re.IGNORECASE)
_ELEMENT = re.compile(r"(<(UserPwd|Password|AccessToken|XOAuth2Bearer)>)[^<]*", re.IGNORECASE)


def redact_source(text: str) -> str:
    """Replace every secret in an address, or in a message that holds addresses, by ``***``.

    Covers user information (``https://user:password@host``) and the values of signed or secret query keys, also within
    ``/vsicurl?…&url=`` where the address is percent-encoded. Scheme, host, path and all other query values stay, so
    that a person still sees which source is meant. Applying it twice changes nothing.
    """
    text = _ENCODED_USERINFO.sub(f"{_MASK}@", _USERINFO.sub(f"{_MASK}@", text))
    text = _ELEMENT.sub(rf"\1{_MASK}", _SETTING.sub(rf"\1{_MASK}", text))
    return _QUERY.sub(rf"\1\2\3{_MASK}", text)
