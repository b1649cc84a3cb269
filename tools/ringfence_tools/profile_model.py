"""The form of a profile: what a platform engineer may write, field by field.

Outside data enters here, so every model forbids keys it does not know and every quantity carries its unit. What is
parsed is frozen. The meaning of `rules` and `network` is in `policy_compile.py`; loading and `extends` in
`profile.py`.
"""

from __future__ import annotations

import base64
import re
from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ringfence_tools.calls import Family, GrantWidth
from ringfence_tools.hosts import HostInvalid, read_host
from ringfence_tools.profile_units import Bytes, MicroUsd, Percent, Seconds

API_VERSION = "ringfence.dev/v1"
RULE_FAMILIES = frozenset(Family) - {Family.PEOPLE}
_WORD = re.compile(r"^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")
_ENVIRONMENT = re.compile(r"^env:[A-Z_][A-Z0-9_]{0,99}$")
_HEADER = re.compile(r"^[A-Za-z0-9-]{1,64}$")
_USER = re.compile(r"^[A-Za-z0-9._@+-]{1,100}$")
_METHOD = re.compile(r"^[A-Z]{1,20}$")


def _check_word(value: str) -> str:
    if not _WORD.match(value):
        raise ValueError("use lower-case letters, digits and hyphens, at most 64")
    return value


def _check_line(value: str) -> str:
    if not value or len(value) > 500 or not value.isprintable():
        raise ValueError("one line of 1 to 500 printable characters")
    return value


def _check_host_pattern(value: str) -> str:
    """`host`, `*.domain`, `*`, each with an optional `:port`. Returned in ASCII form, lower case."""
    name, port = value, ""
    if re.search(r"\]:[0-9]+$|^[^\[\]:]+:[0-9]+$", value):
        name, _, port = value.rpartition(":")
        if len(port) > 5 or not 0 < int(port) < 65536:
            raise ValueError("a port lies between 1 and 65535")
    wildcard, rest = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    if rest != "*":
        if "*" in rest:
            raise ValueError("a wildcard stands for whole leading labels: *.example.org, or * for every host")
        try:
            rest = read_host(rest).ascii
        except HostInvalid as error:
            raise ValueError(f"{error}; write example.org, *.example.org or example.org:443") from error
        rest = f"[{rest}]" if ":" in rest else rest
    elif wildcard:
        raise ValueError("write * for every host")
    return f"{wildcard}{rest}:{port}" if port else f"{wildcard}{rest}"


def _check_template(value: str) -> str:
    if value.count("{}") != 1 or not value.isascii():
        raise ValueError("write {} once, where the secret goes: Bearer {}")
    return value


def _check_pattern(value: str) -> str:
    if not value or len(value) > 500 or not value.isprintable():
        raise ValueError("a pattern is 1 to 500 printable characters")
    return value


def _check_path_pattern(value: str) -> str:
    _check_pattern(value)
    segments = value.removeprefix("/").split("/")
    if "" in segments or "." in segments or ".." in segments:
        raise ValueError("a path pattern has no empty, . or .. part; use dir/** for all below dir")
    if any("**" in segment and segment != "**" for segment in segments):
        raise ValueError("** stands alone between slashes")
    return value


def _check_match(pattern: re.Pattern[str], say: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.match(value):
            raise ValueError(say)
        return value

    return AfterValidator(check)


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


Word: TypeAlias = Annotated[str, AfterValidator(_check_word)]
Line: TypeAlias = Annotated[str, AfterValidator(_check_line)]
HostPattern: TypeAlias = Annotated[str, AfterValidator(_check_host_pattern)]
PathPattern: TypeAlias = Annotated[str, AfterValidator(_check_path_pattern)]
TextPattern: TypeAlias = Annotated[str, AfterValidator(_check_pattern)]
Method: TypeAlias = Annotated[str, _check_match(_METHOD, "an HTTP method in capitals, such as PUT")]
RuleFamily: TypeAlias = Annotated[Family, BeforeValidator(lambda value: _family(value))]
Lines: TypeAlias = Annotated[tuple[Line, ...], BeforeValidator(_as_tuple)]
Words: TypeAlias = Annotated[tuple[Word, ...], BeforeValidator(_as_tuple)]
HostPatterns: TypeAlias = Annotated[tuple[HostPattern, ...], BeforeValidator(_as_tuple)]
PathPatterns: TypeAlias = Annotated[tuple[PathPattern, ...], BeforeValidator(_as_tuple)]
TextPatterns: TypeAlias = Annotated[tuple[TextPattern, ...], BeforeValidator(_as_tuple)]
Methods: TypeAlias = Annotated[tuple[Method, ...], BeforeValidator(_as_tuple)]
Families: TypeAlias = Annotated[tuple[RuleFamily, ...], BeforeValidator(_as_tuple)]


ClusterVerb: TypeAlias = Literal["get", "list", "watch", "create", "patch", "delete"]
ClusterResource: TypeAlias = Literal[
    "pods", "pods/log", "pods/portforward", "configmaps", "services", "events",
    "deployments", "replicasets", "statefulsets", "jobs", "cronjobs",
]  # fmt: skip


def _family(value: object) -> Family:
    for family in RULE_FAMILIES:
        if value == family.value:
            return family
    raise ValueError("one of " + ", ".join(sorted(RULE_FAMILIES)))


class Form(BaseModel):
    """Base of every part: strict types, unknown keys refused, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Metadata(Form):
    name: Word
    owner: Word
    """The group that answers for this profile; it is asked where nothing else says who is."""
    version: int = Field(ge=1, le=1_000_000)


class Prices(Form):
    """US dollars per million tokens, kept as micro-dollars per million tokens."""

    input: MicroUsd
    output: MicroUsd
    cached: MicroUsd | None = None


class Model(Form):
    name: Line
    endpoint: Line | None = None
    """Absent: the endpoint that the environment names."""
    prices: Prices | None = None
    window_tokens: int = Field(default=128_000, ge=1_000, le=100_000_000)
    max_output_tokens: int = Field(default=8_000, ge=16, le=10_000_000)
    replay: Line | None = None
    """A transcript to read instead of calling a model."""


class RunBudget(Form):
    usd: MicroUsd | None = None
    tool_calls: int = Field(default=200, ge=1, le=100_000)
    tokens: int | None = Field(default=None, ge=1)
    wall: Seconds = 2 * 3600


class TeamBudget(Form):
    usd: MicroUsd
    warn: Percent = 80
    at_limit: Literal["park", "refuse"] = "park"


class Budget(Form):
    run: RunBudget = RunBudget()
    team_month: TeamBudget | None = None


class SandboxLimits(Form):
    """Absent means the backend's default of `Limits`."""

    cpu: int | None = Field(default=None, ge=1, le=1024)
    memory: Bytes | None = None
    disk: Bytes | None = None
    tmp: Bytes | None = None
    processes: int | None = Field(default=None, ge=8, le=1_000_000)
    output: Bytes | None = None


class HostMount(Form):
    source: Line
    target: Line


class SandboxForm(Form):
    kind: Literal["local", "gvisor", "kubernetes"] = "local"
    image: Line | None = None
    runtime_class: Word | None = None
    limits: SandboxLimits = SandboxLimits()
    setup: Lines = ()
    venv: Line | None = None
    """A virtual environment of the host that is usable inside, read-only. Local only."""
    mounts: Annotated[tuple[HostMount, ...], BeforeValidator(_as_tuple)] = ()
    environment: dict[str, str] = Field(default_factory=dict)
    reduced: bool = False
    """Allows a sandbox that lacks a layer of its fence, and says so in the log. Never the default."""

    @model_validator(mode="after")
    def _check_kind(self) -> SandboxForm:
        if self.kind == "kubernetes" and (self.venv or self.mounts):
            raise ValueError("venv and mounts show trees of the host; a kubernetes sandbox takes an image")
        if self.kind == "kubernetes" and not self.image:
            raise ValueError("a kubernetes sandbox needs an image")
        return self


class Credential(Form):
    """A header that the proxy adds for one host, outside the sandbox. The value is named, never written here."""

    host: HostPattern
    header: Annotated[str, _check_match(_HEADER, "a header's name: letters, digits and hyphens")] = "Authorization"
    template: Annotated[Line, AfterValidator(_check_template)] = "{}"
    """The header's value, with `{}` where the secret goes: `Bearer {}`."""
    basic: Annotated[str, _check_match(_USER, "a user name without colon")] | None = None
    """Send user and secret as HTTP Basic instead, as git over https wants: `x-access-token`."""
    source: Annotated[
        str, _check_match(_ENVIRONMENT, "name the variable that holds it, such as env:INDEX_TOKEN; never the value")
    ] = Field(alias="from")

    @model_validator(mode="after")
    def _check_one_host(self) -> Credential:
        if "*" in self.host:
            raise ValueError("a credential goes to one named host, never to a wildcard")
        if self.basic is not None and self.template != "{}":
            raise ValueError("template and basic both say how the secret is sent; keep one")
        return self

    def value(self, secret: str) -> str:
        """What stands in the header."""
        if self.basic is not None:
            return "Basic " + base64.b64encode(f"{self.basic}:{secret}".encode()).decode()
        return self.template.replace("{}", secret)


class Network(Form):
    allow: HostPatterns = ()
    private: HostPatterns = ()
    """Hosts inside the company: a private address behind the name is fine."""
    plain: HostPatterns = ()
    """Hosts that may be spoken to by HTTP without TLS, where a rule or a grant opens them at all."""
    opened: HostPatterns = ()
    """Hosts whose TLS the proxy ends, so that rules can name methods and paths. One with a credential is opened too;
    any other that is reached may be sent anything, for anyone there."""
    credentials: Annotated[tuple[Credential, ...], BeforeValidator(_as_tuple)] = ()


class ClusterRights(Form):
    """What a run's own account may do in its own namespace, in RBAC's words. Needs nobody's approval."""

    resources: Annotated[tuple[ClusterResource, ...], BeforeValidator(_as_tuple)] = Field(min_length=1)
    verbs: Annotated[tuple[ClusterVerb, ...], BeforeValidator(_as_tuple)] = Field(min_length=1)


class ToolsForm(Form):
    kubernetes: Annotated[tuple[ClusterRights, ...], BeforeValidator(_as_tuple)] | None = None
    """Present, if only as an empty list: agents get the `kubernetes` tools; what is not listed is put to people."""


class Who(Form):
    any: Words = ()
    all: Words = ()

    @model_validator(mode="after")
    def _check_somebody(self) -> Who:
        if not self.any and not self.all:
            raise ValueError("name at least one group under any or all")
        return self


class Rule(Form):
    """One rule. Exactly one of allow, ask and forbid names families; every condition given must hold."""

    id: Word
    allow: Families = ()
    ask: Families = ()
    forbid: Families = ()
    hosts: HostPatterns = ()
    methods: Methods = ()
    sends: bool | None = None
    paths: PathPatterns = ()
    write: bool | None = None
    commands: TextPatterns = ()
    tools: TextPatterns = ()
    resources: TextPatterns = ()
    who: Who | None = None
    expires: Seconds | None = None
    widest_grant: GrantWidth | None = None
    four_eyes: bool | None = None
    say: Line | None = None

    @property
    def families(self) -> tuple[Family, ...]:
        return self.allow or self.ask or self.forbid

    @property
    def effect(self) -> Literal["allow", "ask", "forbid"]:
        return "allow" if self.allow else "ask" if self.ask else "forbid"

    @property
    def is_bare(self) -> bool:
        """No condition: the rule speaks of the whole family."""
        return not (self.hosts or self.methods or self.paths or self.commands or self.tools or self.resources) and (
            self.sends is None and self.write is None
        )

    @model_validator(mode="after")
    def _check_shape(self) -> Rule:
        if sum(map(bool, (self.allow, self.ask, self.forbid))) != 1:
            raise ValueError("exactly one of allow, ask and forbid names what the rule is about")
        if self.ask and self.who is None:
            raise ValueError("a rule that asks needs who")
        if not self.ask and (self.who or self.expires or self.widest_grant or self.four_eyes is not None):
            raise ValueError("who, expires, widest_grant and four_eyes belong to a rule that asks")
        for name, fitting in _FITTING.items():
            value = getattr(self, name)
            if value not in ((), None) and not set(self.families) <= fitting:
                raise ValueError(f"{name} fits only " + ", ".join(sorted(fitting)))
        return self


_FITTING: dict[str, frozenset[Family]] = {
    "hosts": frozenset({Family.NETWORK}),
    "methods": frozenset({Family.NETWORK}),
    "sends": frozenset({Family.NETWORK}),
    "paths": frozenset({Family.FILES, Family.DELIVER, Family.NETWORK}),
    "write": frozenset({Family.FILES}),
    "commands": frozenset({Family.SHELL}),
    "resources": frozenset({Family.CLUSTER}),
}


class AfterDeny(Form):
    same_resource: Literal["refuse", "ask"] = "refuse"
    end_run_at: int = Field(default=3, ge=1, le=100)
    """The run ends as blocked when it repeats what was denied this often."""


class AuditForm(Form):
    keep: Seconds = 400 * 86400
    stream: Words = ()


class ProfileTest(Form):
    call: Line
    expect: Literal["allow", "ask", "forbid"]


class Profile(Form):
    """A golden path, whole: what it extends is already merged in."""

    api_version: Literal["ringfence.dev/v1"] = Field(alias="apiVersion")
    kind: Literal["Profile"]
    metadata: Metadata
    description: Line = "No description."
    extends: Line | None = None
    teams: Words = ()
    repositories: TextPatterns = ()
    model: Model | None = None
    budget: Budget = Budget()
    sandbox: SandboxForm = SandboxForm()
    network: Network = Network()
    tools: ToolsForm = ToolsForm()
    unmatched: Literal["ask", "forbid"] = "ask"
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_as_tuple)] = ()
    cedar: str = Field(default="", max_length=64 << 10)
    """Raw Cedar policies beside the rules, each with a unique @id."""
    after_deny: AfterDeny = AfterDeny()
    audit: AuditForm = AuditForm()
    four_eyes: bool = False
    """Who asked for the task may not approve what its run asks for."""
    tests: Annotated[tuple[ProfileTest, ...], BeforeValidator(_as_tuple)] = ()

    @property
    def title(self) -> str:
        return f"{self.metadata.name} v{self.metadata.version}"

    @model_validator(mode="after")
    def _check_tools(self) -> Profile:
        if self.tools.kubernetes is not None and self.sandbox.kind != "kubernetes":
            raise ValueError("tools.kubernetes needs sandbox: {kind: kubernetes}")
        return self

    @model_validator(mode="after")
    def _check_ids(self) -> Profile:
        seen: set[str] = set()
        for rule in self.rules:
            if rule.id in seen:
                raise ValueError(f"two rules are called {rule.id}; give one another id")
            seen.add(rule.id)
        return self
