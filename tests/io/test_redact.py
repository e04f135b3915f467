"""Secrets in addresses are replaced, everything else stays."""

from __future__ import annotations

import pytest

from terraprompt.io.redact import redact_source

CASES = {
    "plain path": ("/data/scene.tif", "/data/scene.tif"),
    "plain address": ("https://host/a/b.tif?format=cog&key2=1", "https://host/a/b.tif?format=cog&key2=1"),
    "user and password": ("https://anna:S3CRET@host/a.tif", "https://***@host/a.tif"),
    "at sign in a password": ("https://anna:S3@CRET@host/a@b.tif", "https://***@host/a@b.tif"),
    "azure": (
        "https://x.blob.core.windows.net/c/a.tif?sv=2024-01-01&se=SECRET&sr=b&sp=r&sig=SECRET%3D#page=2",
        "https://x.blob.core.windows.net/c/a.tif?sv=***&se=***&sr=***&sp=***&sig=***#page=2",
    ),
    "s3": (
        "https://b.s3.amazonaws.com/a.tif?X-Amz-Credential=SECRET%2Fx&X-Amz-Signature=SECRET&versionId=7",
        "https://b.s3.amazonaws.com/a.tif?X-Amz-Credential=***&X-Amz-Signature=***&versionId=7",
    ),
    "old s3": ("http://b/a?AWSAccessKeyId=SECRET&Signature=SECRET", "http://b/a?AWSAccessKeyId=***&Signature=***"),
    "endpoint": ("https://h/v1?api-version=2&key=SECRET", "https://h/v1?api-version=2&key=***"),
    "names": ("http://h/?access_token=SECRET&apiKey=SECRET&TOKEN=SECRET", "http://h/?access_token=***&apiKey=***&TOKEN=***"),
    "vsicurl": ("/vsicurl/https://u:SECRET@h/a.tif?sig=SECRET", "/vsicurl/https://***@h/a.tif?sig=***"),
    "vsicurl with options": (
        "/vsicurl?max_retry=3&header.Authorization=Bearer%20SECRET&url=https%3A%2F%2Fu%3ASECRET%40h%2Fa.tif%3Fx%3D1%26sig%3DSECRET",
        "/vsicurl?max_retry=3&header.Authorization=***&url=https%3A%2F%2F***@h%2Fa.tif%3Fx%3D1%26sig%3D***",
    ),
    "header with a space": (
        "/vsicurl?header.Authorization=Bearer SECRET&url=h",
        "/vsicurl?header.Authorization=***&url=h",
    ),
    "s3 with a key": ("s3://KEY:SECRET@bucket/a.tif", "s3://***@bucket/a.tif"),
    "postgis": ("PG:host=h user=u password='SEC RET' table=t", "PG:host=h user=u password=*** table=t"),
    "inline xml": ("<GDAL_WMS><UserPwd>u:SECRET</UserPwd></GDAL_WMS>", "<GDAL_WMS><UserPwd>***</UserPwd></GDAL_WMS>"),
    "amid a message": ('Cannot open "https://h/a?sig=SECRET": 403', 'Cannot open "https://h/a?sig=***": 403'),
    "two": ("http://a:SECRET@h http://h?token=SECRET&b=1", "http://***@h http://h?token=***&b=1"),
}  # fmt: skip


@pytest.mark.parametrize(("source", "expected"), CASES.values(), ids=CASES)
def test_secrets_are_replaced(source: str, expected: str) -> None:
    assert redact_source(source) == expected
    assert redact_source(expected) == expected
