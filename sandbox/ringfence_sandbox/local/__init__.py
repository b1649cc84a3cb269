"""Sandboxes on this machine: bubblewrap, seccomp, Landlock and rlimits around the in-sandbox server."""
