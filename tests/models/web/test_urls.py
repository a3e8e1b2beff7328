"""Secrets in URLs and private hosts: one list for rows and for hosted APIs."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from support.hosted.pictures import numbered

from moondream_beam.models.hosted.fal.annotator import Fal
from moondream_beam.models.hosted.http.images import public_url
from moondream_beam.models.tasks import Query, Request
from moondream_beam.models.web.urls import (
    DOUBTFUL_NAMES,
    SECRET_NAMES,
    hide_secrets,
    is_public,
    is_public_url,
    parse_ip,
)

IN_USE = (
    *(
        "jwt",
        "hmac",
        "auth",
        "secret",
        "pwd",
        "passwd",
        "sign",
        "apikey",
        "auth_key",
        "AWSAccessKeyId",
        "X-Amz-Signature",
    ),
    *(
        "X-Goog-Credential",
        "sig",
        "access_token",
        "x-api-key",
        "client_secret",
        "refreshToken",
        "auth[token]",
        "token[0]",
    ),
)
SPELLINGS = {
    "plain": "https://example.org/a.jpg?{}=hunter2",
    "in the middle": "https://example.org/a.jpg?w=1&{}=hunter2&h=2",
    "after a semicolon": "https://example.org/a.jpg?w=1;{}=hunter2",
    "in the fragment": "https://example.org/a.jpg#{}=hunter2",
    "in the path": "https://example.org/{}=hunter2/a.jpg",
    "matrix parameter": "https://example.org/a.jpg;{}=hunter2?w=1",
    "in a URL in the URL": "https://example.org/?url=https%3A%2F%2Fh%2Fa.jpg%3F{}%3Dhunter2",
    "encoded twice": "https://example.org/?url=https%253A%252F%252Fh%252Fa.jpg%253F{}%253Dhunter2",
    "signed as Akamai does": "https://example.org/a.jpg?hdnts=exp=1~acl=/*~{}=hunter2",
}
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.hunter2"


def names(listed: tuple[str, ...]) -> list[str]:
    """Each listed name alone, as the end of a longer one, in capitals and percent-encoded."""
    bare = [name.strip("_") for name in listed]
    return [
        form for name in bare for form in (name, f"x-{name}", f"my_{name}".upper(), f"%{ord(name[0]):02x}{name[1:]}")
    ]


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("name", [*names(SECRET_NAMES), *IN_USE])
def test_a_secret_is_hidden_and_its_url_is_not_public(name: str, spelling: str) -> None:
    url = spelling.format(name)
    assert public_url(url) is None
    hidden = hide_secrets(url, lambda value: f"<{len(value)}>")
    assert "hunter2" not in hidden and hidden.startswith("https://example.org/")


@pytest.mark.parametrize("name", names(DOUBTFUL_NAMES))
def test_a_doubtful_parameter_is_shown_but_its_url_is_not_public(name: str) -> None:
    url = f"https://example.org/a.jpg?{name}=1"
    assert hide_secrets(url, str.upper) == url and public_url(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a.jpg?Policy=e&Key-Pair-Id=K",
        "https://storage.googleapis.com/b/a.jpg?GoogleAccessId=me&Expires=1",
        "https://example.org/a.jpg?X-Amz-Date=1",
        "https://account.blob.core.windows.net/c/a.jpg?se=1&sp=r&sv=2&sig=x",
        f"https://example.org/{TOKEN}/a.jpg",
        f"https://example.org/a.jpg?{TOKEN}",
        "https://example.org/?url=https%3A%2F%2Fme%3Ahunter2%40h%2Fa.jpg",
        "https://example.org/?" + "%" + "25" * 9 + "41",
    ],
)
def test_a_signed_url_is_not_public(url: str) -> None:
    assert public_url(url) is None


def test_a_token_or_a_password_without_a_name_is_hidden() -> None:
    assert hide_secrets(f"https://h/{TOKEN}/a.jpg?w=1", lambda value: str(len(value))) == "https://h/44/a.jpg?w=1"
    assert hide_secrets("https://me:hunter2@h/a.jpg", str.upper) == "https://h/a.jpg"


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("https://h/a?pwd=hunter;2,3~4/5&w=1", "https://h/a?pwd=*&w=1"),
        ("https://h/pwd=hunter;2,3~4/5?w=1", "https://h/pwd=*/5?w=1"),
        ("https://h/a?b=1;pwd=hunter2", "https://h/a?b=*"),
    ],
)
def test_a_secret_value_with_a_separator_in_it_is_hidden_as_a_whole(url: str, hidden: str) -> None:
    assert hide_secrets(url, lambda value: "*") == hidden


def test_only_the_value_of_the_secret_parameter_is_replaced() -> None:
    url = "https://h/w=3,q=4/a.jpg?w=1&sig=ab/c+d=&design=2&author=me&keyword=x&email=a@b#x"
    assert hide_secrets(url, str.upper) == url.replace("ab/c+d=", "AB/C+D=")


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/w=3,q=4/a.jpg?design=2&author=me&keyword=x&v=2",
        "https://example.org/a.jpg?url=https%3A%2F%2Fexample.com%2Fb.jpg%3Fw%3D1",
        "http://xn--bcher-kva.example.org:8080/a_b.jpg#top",
    ],
)
def test_a_url_without_secrets_is_public(url: str) -> None:
    assert is_public_url(url) and hide_secrets(url, str.upper) == url


@pytest.mark.parametrize(
    "host",
    [
        *("10.0.0.1", "168.63.129.16", "192.0.0.192", "224.0.0.1", "0x7f.0x1", "10.0.0.0x1", "1.2.3.4.5"),
        *("[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[2002:a00:1::]", "[fec0::1]", "[fe80::1%25eth0]"),
        *("localhost", "localhost.", "db.internal", "nas.home.arpa", "x.localdomain", "mail.corp", "router.home"),
        *("%6cocalhost.example.org", "8.8.8.8%2einternal", "10.0.0.1\\.example.org", "exa\tmple.org", "a..b"),
    ],
)
def test_a_url_of_a_private_host_is_not_public(host: str) -> None:
    assert not is_public_url(f"https://{host}/a.jpg")


def test_a_host_in_numbers_is_an_address() -> None:
    assert parse_ip("0x7f.1") == ip_address("127.0.0.1") and parse_ip("example.org") is None
    assert is_public(ip_address("8.8.8.8")) and not is_public(ip_address("10.0.0.1"))


def test_a_picture_behind_a_secret_is_sent_as_bytes(api, clock) -> None:
    urls = [f"https://example.org/a.jpg?{name}=hunter2" for name in IN_USE]
    asked = [Request(f"r{number}", numbered(number), Query(), uri=url) for number, url in enumerate(urls)]
    assert len(list(Fal(send_urls=True, batch_size=32, clock=clock).answer(asked))) == len(asked)
    (job,) = api.fal.jobs.values()
    assert all(given["image_url"].startswith("data:image/jpeg;") for given in job.arguments["inputs"])
