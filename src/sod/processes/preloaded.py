"""Importing this module imports what a server shares with the commands that it forks."""

from importlib import import_module

from sod.processes.imports import uncollected

with uncollected(freeze=True):
    for module in ("sod.cli", "sod.training.on_policy", "sod.training.sft", "sod.evaluation.evaluate"):
        import_module(module)
