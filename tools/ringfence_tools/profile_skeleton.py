"""A profile to start from; it passes its own tests."""

from __future__ import annotations


def skeleton(name: str) -> str:
    """As YAML. `name` is a profile's name."""
    return _SKELETON.format(name=name)


_SKELETON = """\
# A golden path. `ringfence profile explain` says what it allows; `ringfence profile test` runs its tests.
apiVersion: ringfence.dev/v1
kind: Profile
metadata: {{name: {name}, owner: owner, version: 1}}
description: Say in one line what this profile is for.
extends: default@1
budget:
  run: {{usd: 3, tool_calls: 200, wall: 1h}}
network:
  allow: []                                     # hosts that are open to every run, such as pypi.example.org
rules:                                          # forbid > ask > allow
  - id: no-production
    forbid: [network]
    hosts: ["*.prod.example.org"]
    say: Use the staging fixture instead.
tests:
  - {{call: "shell pytest -q", expect: allow}}
  - {{call: "network GET https://example.org/", expect: ask}}
  - {{call: "network GET https://db.prod.example.org/", expect: forbid}}
"""
