"""`ringfence doctor`: whether this machine can build the fence, and the one step that mends what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ringfence.commands.options import Json

if TYPE_CHECKING:
    from ringfence.render import Output
    from ringfence.settings import Settings
    from ringfence_sandbox.contract import Proof


def doctor(
    is_proof_asked: Annotated[bool, typer.Option("--prove", help="Also try, from inside, what must not work.")] = False,
    is_cluster: Annotated[
        bool, typer.Option("--cluster", help="Check the Kubernetes cluster instead, by attacking it with our rights.")
    ] = False,
    is_json: Json = False,
) -> None:
    """Check this machine, or the cluster, and print the fix for what is missing."""
    import asyncio

    check = _cluster if is_cluster else _doctor
    code = asyncio.run(check(is_proof_asked=is_proof_asked, is_json=is_json))
    raise typer.Exit(code)


async def _doctor(*, is_proof_asked: bool, is_json: bool) -> int:
    import os
    import shutil

    from ringfence.exits import Exit
    from ringfence.render import make_output
    from ringfence.settings import load_settings, make_home
    from ringfence_sandbox.contract import SandboxId, SandboxSpec
    from ringfence_sandbox.errors import IsolationUnavailable
    from ringfence_sandbox.local.backend import LocalBackend

    output = make_output(is_json=is_json)
    settings = load_settings()
    make_home(settings)
    backend = LocalBackend(settings.sandboxes)
    try:
        layers = await backend.check()
        for layer in layers:
            output.record({"type": "layer", "name": layer.name, "is_held": layer.is_held, "detail": layer.detail})
            output.line(
                ("held     " if layer.is_held else "MISSING  ", "good" if layer.is_held else "bad"),
                layer.name,
                (f"  {layer.detail}" if layer.detail else "", "dim"),
            )
        is_held = all(layer.is_held for layer in layers)
        if is_proof_asked:
            spec = SandboxSpec(SandboxId(f"doctor-{os.getpid()}"))
            try:
                proof = await (await backend.create(spec)).prove()
            finally:
                await backend.destroy(spec.id)
            await _record(settings, backend.kind, proof)
            for probe in proof.probes:
                output.record({"type": "probe", "name": probe.name, "is_held": probe.is_held, "detail": probe.detail})
                mark = "held     " if probe.is_held else "BROKEN   "
                output.line((mark, "good" if probe.is_held else "bad"), probe.name, (f"  {probe.detail}", "dim"))
            is_held = is_held and proof.is_held
    except IsolationUnavailable as error:
        output.record({"type": "layer", "name": "sandbox", "is_held": False, "detail": error.missing, "fix": error.fix})
        output.line(("MISSING  ", "bad"), error.missing)
        output.line("fix:     ", (error.fix, "bold"))
        return int(Exit.ISOLATION)
    finally:
        await backend.close()
    for name in ("git",):
        if shutil.which(name) is None:
            output.line(("MISSING  ", "bad"), name, ("  install it with your package manager", "dim"))
            is_held = False
    is_anchored = await _try_anchors(settings, output)
    said = "This machine can run AI developers." if is_held else "This machine cannot hold the fence."
    output.line((said, "good" if is_held else "bad"))
    output.record({"type": "doctor", "is_held": is_held})
    if is_held and not is_anchored:
        return int(Exit.EVIDENCE)
    return int(Exit.FINISHED if is_held else Exit.ISOLATION)


async def _try_anchors(settings: Settings, output: Output) -> bool:
    """Try to rewrite each anchor of the log: one that lets it happen is none."""
    import asyncio

    from ringfence.anchoring import load_sinks, probes

    is_anchored = True
    for name, probe in await asyncio.to_thread(probes, load_sinks(settings)):
        what = f"anchor {name}: {probe.name}"
        output.record({"type": "probe", "name": what, "is_held": probe.is_refused, "detail": probe.detail})
        mark = "refused  " if probe.is_refused else "BROKEN   "
        output.line((mark, "good" if probe.is_refused else "bad"), what, (f"  {probe.detail}", "dim"))
        is_anchored = is_anchored and probe.is_refused
    return is_anchored


async def _record(settings: Settings, kind: str, proof: Proof) -> None:
    """What was proved, and when, stands in the log: what broke by name, what held by number."""
    from ringfence.local_store import open_store
    from ringfence_audit.events import Event, JsonValue, Kind

    broken: list[JsonValue] = [{"name": one.name, "detail": one.detail} for one in proof.probes if not one.is_held]
    data: dict[str, JsonValue] = {"action": "proved", "kind": kind, "probes": len(proof.probes), "broken": broken}
    with open_store(settings) as store:
        await store.write(lambda tx: tx.record(Event(Kind.SANDBOX, "system:doctor", data)))


async def _cluster(*, is_proof_asked: bool, is_json: bool) -> int:
    from ringfence.cluster_checks import check_cluster
    from ringfence.exits import Exit
    from ringfence.render import make_output
    from ringfence.settings import load_settings, make_home
    from ringfence_sandbox.errors import IsolationUnavailable

    output = make_output(is_json=is_json)
    settings = load_settings()
    make_home(settings)
    is_held = True
    try:
        async for one in check_cluster(settings, is_proof_asked=is_proof_asked):
            output.record({"type": one.kind, "name": one.name, "is_held": one.is_held, "detail": one.detail})
            mark = "held     " if one.is_held else "BROKEN   "
            output.line((mark, "good" if one.is_held else "bad"), one.name, (f"  {one.detail}", "dim"))
            is_held = is_held and one.is_held
    except IsolationUnavailable as error:
        output.record({"type": "layer", "name": "cluster", "is_held": False, "detail": error.missing, "fix": error.fix})
        output.line(("MISSING  ", "bad"), error.missing)
        output.line("fix:     ", (error.fix, "bold"))
        return int(Exit.ISOLATION)
    said = "This cluster can run AI developers." if is_held else "This cluster does not hold the fence."
    output.line((said, "good" if is_held else "bad"))
    output.record({"type": "doctor", "is_held": is_held})
    return int(Exit.FINISHED if is_held else Exit.ISOLATION)
