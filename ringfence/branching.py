"""`runs retry` and `runs fork`: from a person's words to a new run that begins at a step of another.

Here is what the command line adds to `ringfence_agents.branching`: a folder of the new run's own, with the bundle and
the step's files in it, so that nothing of the new run hangs on the old one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

from ringfence.errors import Refused
from ringfence.opening import fresh_id
from ringfence_agents.branching import Branch, branch, files_at
from ringfence_agents.kept import RunFiles
from ringfence_agents.runs import load
from ringfence_agents.steps import Step
from ringfence_audit.port import Store
from ringfence_tools.builtin.toolset import builtin_toolbox
from ringfence_tools.calls import RunId
from ringfence_tools.profile import parse_profile


async def open_branch(
    store: Store,
    artifacts: Path,
    source: RunId,
    step: int | None,
    *,
    by: str,
    reason: str,
    is_retry: bool,
    word: str = "",
    run: RunId | None = None,
) -> RunId:
    """Store the new run, queued, and return its id. `step` None is the latest; `run` is a fresh id that the caller has
    chosen. Raises what `branch` raises, and `Refused` where the source's repository is not kept here."""
    record = await store.read(lambda connection: load(connection, source))
    chosen = record.collected_turn if step is None else step
    profile = parse_profile(record.profile_document.encode(), record.profile)
    run = RunId(fresh_id("r")) if run is None else run
    bundle = artifacts / run / Path(record.workspace["bundle"]).name
    workspace = {"bundle": str(bundle), "branch": record.workspace["branch"]}
    wanted = Branch(source, chosen, run, by, reason, workspace, profile.sandbox.setup, is_retry=is_retry, word=word)
    kept = await store.write(lambda tx: files_at(tx, record, chosen))
    try:
        await asyncio.to_thread(_make_folder, artifacts, Path(record.workspace["bundle"]), wanted, kept)
    except FileNotFoundError as error:
        shutil.rmtree(artifacts / run, ignore_errors=True)
        raise Refused(
            f"the files of run {source} are not kept here", fix="Assign its task anew, or ask where it ran"
        ) from error
    toolbox = builtin_toolbox()
    try:
        return await store.write(lambda tx: branch(tx, wanted, is_read_only=toolbox.is_read_only))
    except BaseException:
        shutil.rmtree(artifacts / run, ignore_errors=True)
        raise


def _make_folder(artifacts: Path, bundle: Path, wanted: Branch, kept: Step | None) -> None:
    files = RunFiles(artifacts)
    folder = artifacts / wanted.run
    folder.mkdir(mode=0o700)
    os.link(bundle, folder / bundle.name)
    if kept is not None:
        target = files.step(wanted.run, kept.files.sha256)
        target.parent.mkdir()
        os.link(files.step(wanted.source, kept.files.sha256), target)
