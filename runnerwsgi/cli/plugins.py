"""A plugin's own commands: `runnerwsgi NAME …` loads the plugin NAME and no other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pluggy

from runnerwsgi import discovery, hookspecs
from runnerwsgi.errors import ConfigurationError

from .command import Group

if TYPE_CHECKING:
    import click


def commands_of(name: str) -> click.Group | None:
    """The commands of the plugin *name*; None when no installed plugin has this name.

    Raises:
        ConfigurationError: the plugin cannot be loaded, or has no commands.
    """
    if name not in discovery.installed():
        return None
    group = Group(name, help=f"Commands of the plugin `{name}`.", no_args_is_help=True)
    # Commands of the module itself come first: whoever types them may have no settings yet.
    plugin = discovery.module(name, variable="plugin")
    if "runner_register_commands" not in hook_names(plugin, name):
        plugin = discovery.load(name, os.environ, variable="plugin")
    hooks(plugin, name).runner_register_commands(group=group)
    if not group.commands:
        raise ConfigurationError(
            f"The plugin {name} has no commands of its own. Name it in RUNNER_BACKEND or "
            "RUNNER_PLUGINS to use it; `runnerwsgi --help` lists the commands there are."
        )
    return group


def hooks(plugin: object, name: str) -> Any:
    """The hook caller of one plugin alone."""
    manager = pluggy.PluginManager(hookspecs.NAME)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name)
    return manager.hook


def hook_names(plugin: object, name: str) -> tuple[str, ...]:
    """The hooks that a plugin implements, sorted."""
    caller = hooks(plugin, name)
    specified = (hook for hook in vars(hookspecs) if hook.startswith("runner_"))
    return tuple(sorted(hook for hook in specified if getattr(caller, hook).get_hookimpls()))
