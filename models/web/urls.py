"""What an http(s) URL must not reveal: the one list of secret parameters, and which hosts are private."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import unquote, urlsplit

IpAddress = IPv4Address | IPv6Address

# Ends of the names of parameters that grant access. Names are compared in lower case and with letters only.
# "_" stands for the beginning of a word: "_sign" is the end of "x-sign", but not of "design".
SECRET_NAMES = (
    "_auth", "_jwt", "_pwd", "_sig", "_sign", "apikey", "authkey", "authorization", "awsaccesskeyid", "credential",
    "credentials", "hmac", "passwd", "password", "secret", "sessionid", "signature", "token",
)  # fmt: skip
# Ends of names that stand beside a signature, or that hold a secret on some sites and the name of a picture on others.
# Rows display their values.
DOUBTFUL_NAMES = (
    "_code", "_expires", "_pass", "_policy", "_session", "_sid", "_verify", "accessid", "auth", "key", "keypairid",
    "nonce", "ticket",
)  # fmt: skip
# S3 and GCS sign URLs with many parameters of these prefixes.
SIGNED_PREFIXES = ("_x_amz_", "_x_goog_")
# A URL inside a URL is encoded twice.
MAX_DECODINGS = 5
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
# Header and payload of a JSON Web Token are JSON objects in base64: both begin with '{"'.
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{4,}\.eyJ[\w-]{4,}\.[\w-]+")
_MAY_HOLD_SECRET = re.compile("[=@]|eyJ")
# A name begins after any separator. A value ends only at the one that is certain, so that none is hidden in part.
_PATH_PARAMETER = re.compile(r"(?<=[/;,~])([^/;,~=]+)=([^/]*)")
_QUERY_PARAMETER = re.compile(r"(?<=[?&;#])([^&;#=]+)=([^&#]*)")
_NAME = re.compile(r"(?:^|(?<=[/?&;,~#]))([^/?&;,~#=]+)=")

# Python takes these networks for public, or did in some versions: metadata of Oracle's cloud, relays, the door of a
# host to Azure, documentation.
NOT_PUBLIC_NETWORKS = tuple(map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")))
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
# 2130706433, 0x7f.1 and 0177.0.0.1: C libraries, browsers and Python read them as 127.0.0.1.
_NUMERIC_HOST = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+)){0,3}\.?")
_HOST_NAME = re.compile(r"[\w-]+(\.[\w-]+)+\.?", re.ASCII)
# Top-level domains that no public name server knows, or that companies and routers use inside their networks.
PRIVATE_DOMAINS = (
    "arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain", "localhost", "onion",
    "private", "test",
)  # fmt: skip
_INVALID_IN_URL = re.compile(r"[^!-~]|\\")


def hide_secrets(url: str, digest: Callable[[str], str]) -> str:
    """Return ``url`` without user name and password, and with ``digest(value)`` in place of each secret value.

    A value in path, query or fragment is secret if the name of its parameter ends with one of ``SECRET_NAMES``. So is a
    value that contains such a parameter, as a URL inside a URL does. A JSON Web Token is secret anywhere.
    """
    # Most URLs hold none of these. Rows need this several times for each picture.
    if not _MAY_HOLD_SECRET.search(url):
        return url

    def hide(parameter: re.Match[str]) -> str:
        secret = _holds(parameter[0], SECRET_NAMES)
        return f"{parameter[1]}={digest(parameter[2])}" if secret else parameter[0]

    path, *query = re.split("(?=[?#])", _USERINFO.sub("", url), maxsplit=1)
    hidden = _PATH_PARAMETER.sub(hide, path) + _QUERY_PARAMETER.sub(hide, "".join(query))
    return _JWT.sub(lambda token: digest(token[0]), hidden)


def is_public_url(url: str) -> bool:
    """Return whether anybody may know and fetch ``url``.

    True for http(s) URLs in ASCII with a public host. False if the URL holds a user name, a JSON Web Token, or a
    parameter with an end in ``SECRET_NAMES`` or ``DOUBTFUL_NAMES`` or a prefix in ``SIGNED_PREFIXES``, in path, query
    or fragment, percent-encoded or not. A secret without a name, such as a part of the path, is not recognized.
    """
    if _INVALID_IN_URL.search(url) or _holds(url, SECRET_NAMES + DOUBTFUL_NAMES):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and "@" not in parts.netloc and _is_public_host(host)


def parse_ip(host: str) -> IpAddress | None:
    """Return the address that ``host`` is, in any spelling such as ``0x7f.1``; None if it is a name."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ip_address(bare)
    except ValueError:
        pass
    if _NUMERIC_HOST.fullmatch(host):
        try:
            return IPv4Address(socket.inet_aton(host.rstrip(".")))
        except OSError:
            return None
    return None


def is_public(address: IpAddress) -> bool:
    """Return whether ``address`` can be reached from the internet: global, not multicast and not reserved.

    False for ``NOT_PUBLIC_NETWORKS``. An IPv4 address inside an IPv6 address decides for both.
    """
    if isinstance(address, IPv6Address):
        # IPv6 addresses that contain an IPv4 address.
        inner = address.ipv4_mapped or address.sixtofour
        if address in NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address not in GLOBAL_UNICAST:
            return False
    elsewhere = address.is_multicast or address.is_reserved
    return address.is_global and not elsewhere and not any(address in network for network in NOT_PUBLIC_NETWORKS)


def _is_public_host(host: str) -> bool:
    """Return whether ``host`` is a public IP address, or a name with a dot outside ``PRIVATE_DOMAINS``."""
    if "%" not in host and (address := parse_ip(host)) is not None:
        return is_public(address)
    domain = host.rstrip(".").rpartition(".")[2]
    # No top-level domain is a number: such a host is an address in a spelling that parse_ip does not know.
    return bool(_HOST_NAME.fullmatch(host)) and domain not in PRIVATE_DOMAINS and not domain[0].isdigit()


def _holds(text: str, names: tuple[str, ...]) -> bool:
    """Return whether a URL or a part of it holds a user name, a token, or a parameter whose name is in ``names``.

    Also True if the text is still percent-encoded after ``MAX_DECODINGS`` rounds.
    """
    for _ in range(MAX_DECODINGS):
        if (decoded := unquote(text)) == text:
            break
        text = decoded
    else:
        return True
    found = _NAME.findall(text)
    return bool(_USERINFO.search(text) or _JWT.search(text)) or any(_is_named(name, names) for name in found)


def _is_named(parameter: str, names: tuple[str, ...]) -> bool:
    """Return whether a parameter's name has an end in ``names`` or a prefix in ``SIGNED_PREFIXES``."""
    words = "_" + "_".join(re.findall("[a-z]+", parameter.lower()))
    return words.startswith(SIGNED_PREFIXES) or words.endswith(names) or words.replace("_", "").endswith(names)
