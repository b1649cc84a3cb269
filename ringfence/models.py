"""Which model a run uses: what the person asked for, then the profile, then the environment.

A model is named by one word that is kept with the run: a name at an OpenAI-compatible endpoint, or `replay:PATH` for
a recorded one.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from ringfence.errors import Mistake, Unavailable
from ringfence.settings import Settings
from ringfence_agents.model import Model, Prices
from ringfence_sandbox.egress import EgressLimits, EgressSettings
from ringfence_sandbox.egress.dialer import Dialer
from ringfence_sandbox.egress.errors import Code, EgressRefusal
from ringfence_sandbox.egress.hosts import Authority, canonical_host
from ringfence_sandbox.egress.resolver import SystemResolver
from ringfence_tools.profile import Profile

REPLAY = "replay:"
DEFAULT_ENDPOINT = "https://api.openai.com/v1"
_CONNECT_S = 5.0


def choose(profile: Profile, asked: str | None, settings: Settings) -> str:
    """The word for the run's model. Raises `Mistake` where there is none, or no transcript at its path."""
    named = profile.model
    if asked:
        chosen = asked
    elif named is not None and named.replay is not None:
        chosen = REPLAY + named.replay
    elif named is not None:
        chosen = named.name
    elif settings.openai_model:
        chosen = settings.openai_model
    else:
        raise Mistake(
            "no model is named",
            fix="Use --model NAME with OPENAI_BASE_URL and OPENAI_API_KEY set, or name one in the profile",
        )
    if not chosen.startswith(REPLAY):
        return chosen
    path = Path(chosen.removeprefix(REPLAY)).resolve()
    if not path.is_file():
        raise Mistake(f"there is no transcript at {path}", fix="Name an existing file after replay:")
    from ringfence_agents.errors import TranscriptInvalid
    from ringfence_agents.transcript import read_transcript

    try:
        read_transcript(path)
    except TranscriptInvalid as error:
        raise Mistake(str(error), fix="Name a transcript after replay:") from error
    return REPLAY + str(path)


def build(word: str, profile: Profile, settings: Settings, egress: EgressSettings) -> Model:
    """The model behind the word. It is opened on the loop that uses it, and closed with it."""
    if word.startswith(REPLAY):
        from ringfence_agents.replay import ReplayModel

        return ReplayModel.load(Path(word.removeprefix(REPLAY)))
    from ringfence_agents.openai_model import Endpoint, OpenAIModel

    named = profile.model
    prices = named.prices if named is not None else None
    key = settings.openai_api_key
    return OpenAIModel(
        Endpoint(
            name=word,
            base_url=endpoint_of(profile, settings),
            api_key=key.get_secret_value() if key is not None else "",
            window_tokens=named.window_tokens if named is not None else 128_000,
            max_output_tokens=named.max_output_tokens if named is not None else 8_000,
            prices=Prices() if prices is None else Prices(prices.input, prices.output, prices.cached),
            proxy=_proxy_to(endpoint_of(profile, settings), egress),
        ),
        tls=egress.client_context(),
    )


def _proxy_to(endpoint: str | None, egress: EgressSettings) -> str:
    """The company's proxy where it stands between this machine and the endpoint, else ""."""
    upstream = egress.proxy()
    host = urlsplit(endpoint or DEFAULT_ENDPOINT).hostname or ""
    return egress.upstream.get_secret_value() if upstream is not None and upstream.covers(host) else ""


def endpoint_of(profile: Profile, settings: Settings) -> str | None:
    """The profile's endpoint, else the environment's. None: the client's own default."""
    return (profile.model.endpoint if profile.model is not None else None) or settings.openai_base_url


async def check_reach(word: str, profile: Profile, settings: Settings, egress: EgressSettings) -> None:
    """Connect once, by the way that the model's client takes, so that a wrong endpoint, or TLS that a company's proxy
    opens, is found before anything is made. Raises `Unavailable` or `Mistake`."""
    endpoint = endpoint_of(profile, settings)
    if word.startswith(REPLAY) or endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Mistake(f"the endpoint {endpoint!r} is not a URL", fix="Set OPENAI_BASE_URL") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Mistake(f"the endpoint {endpoint!r} is not an http or https URL", fix="Set OPENAI_BASE_URL")
    dialer = Dialer(
        SystemResolver(), EgressLimits(connect_s=_CONNECT_S), upstream=egress.proxy(), tls=egress.client_context()
    )
    try:
        where = Authority(canonical_host(parts.hostname), port)
        connect = dialer.tls if parts.scheme == "https" else dialer.plain_http
        stream = await connect(where, is_private_allowed=True)
    except EgressRefusal as error:
        fix = error.instead or "Start it, or mend OPENAI_BASE_URL or the profile's endpoint; nothing was started"
        said = f": {error}" if error.code is not Code.CONNECT_FAILED else ""
        raise Unavailable(f"the model's endpoint {parts.hostname}:{port} does not answer{said}", fix=fix) from error
    stream.close()
