"""Hosts that a command names, how it would reach them, and what it would send. Pure.

This is for the card and for asking early. What really connects is decided again by the egress proxy, connection by
connection; a host that only shows at run time is caught there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from urllib.parse import SplitResult, urlsplit

from ringfence_tools.hosts import HostInvalid, read_host
from ringfence_tools.shell_reading_parts import Command, HostUse

PORTS = {"http": 80, "https": 443, "ftp": 21, "ssh": 22, "git": 9418, "ws": 80, "wss": 443, "rsync": 873, "s3": 443}
PORTS |= {"git+https": 443, "git+ssh": 22, "git+http": 80, "sftp": 22, "scp": 22, "ldap": 389, "smtp": 25}
_URL = re.compile(
    r"(?<![A-Za-z0-9+.-])((?:https?|ftp|ssh|git|wss?|rsync|s3|git\+https?|git\+ssh|sftp|scp|ldap|smtp)://"
    r"[^\s'\"<>`|;\\^{}]{1,2000})",
    re.IGNORECASE,
)
_DEV_TCP = re.compile(r"/dev/(?:tcp|udp)/([^/\s]{1,260})/([0-9]{1,5})")
_SCP = re.compile(r"^(?:[A-Za-z0-9._-]+@)?([^\s/:@'\"\[\]]{1,253}):(?!//)(?!\\)\S*$")
_BARE = re.compile(r"^[^\s/@=:]+\.[^\s/@=:.]{2,}(?::[0-9]{1,5})?(?:[/?]\S*)?$|^[^\s/@=:]+:[0-9]{1,5}(?:/\S*)?$")

_MENTIONING = (
    "echo printf grep egrep fgrep rg ag sed awk gawk cat tee head tail sort uniq cut tr wc jq yq ls cp mv touch mkdir "
    "rm diff cmp test [ [[ true false : find export declare local set unset read sleep date basename dirname file stat "
    "less more nl rev fold column xxd od strings patch chmod chown ln cd pwd which type"
)
MENTIONING = frozenset(_MENTIONING.split())
"""Programs that read or write text and open no connection: a URL among their words is a mention."""

_GIT_REMOTE = frozenset({"clone", "fetch", "pull", "push", "ls-remote", "submodule", "archive", "remote"})
_GIT_SENDS = frozenset({"push"})
_CURL_VALUED_TEXT = (
    "--output --request --header --user --user-agent --referer --cookie --cookie-jar --write-out --range --cacert "
    "--cert --key --connect-timeout --max-time --retry --retry-delay --retry-max-time --limit-rate --interface "
    "--dump-header --stderr --trace --trace-ascii --max-redirs --ciphers --capath --proto --noproxy --resolve "
    "--connect-to --max-filesize --output-dir --hostpubsha256 --pinnedpubkey --tls-max --unix-socket --variable"
)
_CURL_VALUED = frozenset(_CURL_VALUED_TEXT.split())
_CURL_SENDING_TEXT = (
    "--data --data-raw --data-binary --data-ascii --data-urlencode --json --form --form-string --upload-file"
)
_CURL_SENDING = frozenset(_CURL_SENDING_TEXT.split())
_CURL_SHORT_VALUED = "oXHuAebcwrEmYyzCDhKtPQ"
_CURL_SHORT_SENDING = "dFT"
_PIPE_FETCHED = frozenset({"curl", "wget", "fetch", "http", "https", "aria2c"})


def urls_in(text: str, *, program: str = "", is_opened: bool = True) -> Iterator[HostUse]:
    """Every URL in a text. A host that cannot be read is left to the caller's `problems`."""
    for found in _URL.finditer(text):
        use = url_use(found[1].rstrip(".,:!?)]"), program=program, is_opened=is_opened)
        if use is not None:
            yield use
    for found in _DEV_TCP.finditer(text):
        use = _host_use(found[1], int(found[2]), program=program, method="", sends=True)
        if use is not None:
            yield replace(use, is_opened=is_opened)


def url_use(url: str, *, program: str = "", is_opened: bool = True) -> HostUse | None:
    try:
        parts: SplitResult = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    found = _host_use(host, port or PORTS.get(parts.scheme.lower(), 443), program=program, method="", sends=False)
    return None if found is None else replace(found, url=url[:2000], is_opened=is_opened)


def _host_use(host: str, port: int, *, program: str, method: str, sends: bool) -> HostUse | None:
    try:
        read = read_host(host)
    except HostInvalid:
        return None
    if not 0 < port < 65536:
        return None
    return HostUse(
        read.ascii,
        port,
        method=method,
        sends=sends,
        shown=host,
        looks_like=read.looks_like,
        is_disguised_address=read.is_disguised_address,
        program=program,
    )


def hosts_of(command: Command) -> list[HostUse]:
    """The hosts of one command, with method and whether it sends."""
    # bash itself opens /dev/tcp/HOST/PORT, whatever the command is.
    targets = [redirect.target.text for redirect in command.redirects if not redirect.operator.startswith("<<")]
    redirected = [use for text in targets for use in urls_in(text, program=command.program)]
    return [*redirected, *_by_program(command)]


def _by_program(command: Command) -> list[HostUse]:
    program, words = command.program, [word.text for word in command.argv[1:]]
    if program == "curl":
        return _curl(words)
    if program == "wget":
        return _wget(words)
    if program == "git":
        return _git(words)
    if program in ("ssh", "scp", "rsync", "sftp", "mosh"):
        return _remote_shell(program, words)
    if program in ("nc", "ncat", "netcat", "telnet", "socat", "openssl"):
        return _raw_socket(program, words)
    is_opened = program not in MENTIONING
    uses = [use for text in words for use in urls_in(text, program=program, is_opened=is_opened)]
    if program in ("http", "https", "xh"):
        uses = [replace(use, method=_httpie_method(words), sends=_httpie_method(words) != "GET") for use in uses]
    return uses


def _curl(words: list[str]) -> list[HostUse]:
    method, sends, targets, others = "", False, [], []
    is_get = is_head = False
    rest = iter(words)
    for word in rest:
        name, value, step = _curl_option(word)
        if name is None:
            targets.append(word)
            continue
        if step:
            value = next(rest, "")
        if name in ("-X", "--request"):
            method = value.upper()
        elif name in ("-G", "--get"):
            is_get = True
        elif name in ("-I", "--head"):
            is_head = True
        elif name in ("-x", "--proxy", "--preproxy", "--socks5", "--socks5-hostname"):
            others.append(value)
        elif name == "--url":
            targets.append(value)
        elif name in ("--resolve", "--connect-to"):
            others.extend(part for part in value.lstrip("+").split(":") if "." in part)
        elif name in _CURL_SENDING or (len(name) == 2 and name[1] in _CURL_SHORT_SENDING):
            sends = True
            if not method:
                method = "PUT" if name in ("-T", "--upload-file") else "POST"
    if is_get and sends:
        method = "GET"
    method = method or ("HEAD" if is_head else "GET")
    sends = sends or method in ("PUT", "POST", "PATCH", "DELETE")
    uses = [_target(word, "curl") for word in [*targets, *others]]
    return [replace(use, method=method, sends=sends) for use in uses if use is not None]


def _curl_option(word: str) -> tuple[str | None, str, bool]:
    """Name, attached value, and whether the next word is its value. None: no option."""
    if not word.startswith("-") or word == "-":
        return None, "", False
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        valued = _CURL_VALUED | _CURL_SENDING | {"--proxy", "--preproxy", "--socks5", "--socks5-hostname", "--url"}
        return name, value, name in (valued | {"--config"}) and not equals
    for place, letter in enumerate(word[1:], start=1):
        if letter in _CURL_SHORT_VALUED + _CURL_SHORT_SENDING + "x":
            attached = word[place + 1 :]
            return f"-{letter}", attached, not attached
        if letter in "GI":
            return f"-{letter}", "", False
    return word, "", False


def _wget(words: list[str]) -> list[HostUse]:
    method, sends, targets = "GET", False, []
    valued = {"-O", "-o", "-a", "-P", "-U", "-t", "-T", "-w", "-Q", "-i", "-e", "-A", "-R", "-D", "-l", "--header"}
    rest = iter(words)
    for word in rest:
        name, _, value = word.partition("=")
        if name in ("--post-data", "--post-file"):
            method, sends = "POST", True
        elif name == "--method":
            method = (value or next(rest, "")).upper()
            sends = sends or method in ("PUT", "POST", "PATCH", "DELETE")
        elif name in ("--body-data", "--body-file"):
            sends = True
        elif word in valued:
            next(rest, "")
        elif not word.startswith("-"):
            targets.append(word)
    uses = [_target(word, "wget") for word in targets]
    return [replace(use, method=method, sends=sends) for use in uses if use is not None]


def _target(word: str, program: str) -> HostUse | None:
    """A URL, or what curl and wget take for one: `host/path` means http."""
    if "://" in word:
        return url_use(word, program=program)
    if not word or word.startswith(("-", "/", ".", "@", "$")):
        return None
    return url_use(f"http://{word}", program=program)


def _git(words: list[str]) -> list[HostUse]:
    verb = next((word for word in words if word in _GIT_REMOTE), "")
    sends, method = verb in _GIT_SENDS, "POST" if verb in _GIT_SENDS else "GET"
    uses: list[HostUse] = []
    for word in words:
        uses.extend(replace(use, is_opened=bool(verb)) for use in urls_in(word, program="git"))
        remote = _SCP.match(word) if verb and "://" not in word else None
        if remote is not None and ("." in remote[1] or "@" in word):
            use = _host_use(remote[1], 22, program="git", method="", sends=False)
            if use is not None:
                uses.append(replace(use, url=word[:2000]))
    return [replace(use, method=method, sends=sends) for use in uses]


def _remote_shell(program: str, words: list[str]) -> list[HostUse]:
    plain = [word for word in words if not word.startswith("-")]
    uses: list[HostUse | None] = []
    if program in ("ssh", "mosh", "sftp"):
        # Any of the plain words may be the host (options take values); the first that reads as one is.
        hosts = (word.rpartition("@")[2] for word in plain if "@" in word or "." in word)
        uses.extend(_host_use(host, 22, program=program, method="", sends=True) for host in [*hosts][:1])
    else:
        for place, word in enumerate(plain):
            remote = _SCP.match(word)
            if remote is not None and "=" not in word:
                is_last = place == len(plain) - 1
                uses.append(_host_use(remote[1], 22, program=program, method="", sends=is_last))
        uses.extend(use for word in plain for use in urls_in(word, program=program))
    return [use for use in uses if use is not None]


def _raw_socket(program: str, words: list[str]) -> list[HostUse]:
    uses: list[HostUse | None] = []
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if following.isascii() and following.isdigit() and len(following) < 6 and not word.startswith("-"):
            uses.append(_host_use(word, int(following), program=program, method="", sends=True))
        uses.extend(
            _host_use(found[1], int(found[2]), program=program, method="", sends=True)
            for found in re.finditer(r"([^\s:,]{1,253}):([0-9]{1,5})(?![0-9])", word[:4000])
        )
    return [use for use in uses if use is not None]


def _httpie_method(words: list[str]) -> str:
    stated = next((word for word in words if word in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")), "")
    has_body = any(re.match(r"^[^-:/=]+(:=|=|@)", word) for word in words)
    return stated or ("POST" if has_body else "GET")


def sent_by(command: Command) -> Iterator[str]:
    """Files that the command sends, and `-` for its standard input."""
    words = [word.text for word in command.argv[1:]]
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        yield from _sent_words(command.program, word, following)
    if command.program in ("scp", "rsync"):
        plain = [word for word in words if not word.startswith("-")]
        if plain and _SCP.match(plain[-1]):
            yield from (word for word in plain[:-1] if not _SCP.match(word))
    if command.program in ("nc", "ncat", "netcat", "socat", "ssh"):
        yield "-"


def _sent_words(program: str, word: str, following: str) -> Iterable[str]:
    if program == "curl":
        name, value, step = _curl_option(word)
        value = following if step else value
        if name in ("-T", "--upload-file"):
            return [value]
        if name in ("-F", "--form") and re.search(r"=[@<]", value):
            return [re.split(r"=[@<]", value, maxsplit=1)[1].partition(";")[0]]
        if name in _CURL_SENDING or name == "-d":
            return [value[1:]] if value.startswith("@") else []
    if program == "wget":
        name, _, value = word.partition("=")
        return [value or following] if name in ("--post-file", "--body-file") else []
    return []


def fetches(program: str) -> bool:
    return program in _PIPE_FETCHED
