"""Plugins of the tests' own, installed as pip would: a module and its entry point."""

PLUGINS = '''
import click
from runnerwsgi import Health, hookimpl
from runnerwsgi.errors import OutcomeUnknown
from runnerwsgi.protocol import Finding


class Greeter:
    @hookimpl
    def runner_register_commands(self, group):
        @group.command("hi")
        def hi():
            """Say hi."""
            click.echo("hi from the greeter")


class Dead:
    @hookimpl
    def runner_execute(self, request):
        raise OutcomeUnknown("it was gone before it answered")

    @hookimpl
    def runner_resolve_ui_url(self, asset): ...

    @hookimpl
    def runner_health(self):
        return Health("unavailable", {"engine": "gone"})

    @hookimpl
    def runner_findings(self):
        return [
            Finding("ok", "oil", "full"),
            Finding("fail", "engine", "gone", "buy an engine."),
        ]


def greeter(env):
    return Greeter()


def dead(env):
    return Dead()
'''
# A backend that cannot be made yet, whose commands help to set it up.
UNSET = """
import click
from runnerwsgi import hookimpl
from runnerwsgi.errors import ConfigurationError


@hookimpl
def runner_register_commands(group):
    group.command("setup")(lambda: click.echo("set it up so"))


def unset(env):
    raise ConfigurationError("RUNNER_UNSET_URL is not set.")
"""
ENTRY_POINTS = """[runnerwsgi]
unset = unset_plugin_of_the_tests:unset
greeter = plugins_of_the_tests:greeter
dead = plugins_of_the_tests:dead
broken = no_such_module:plugin
"""
METADATA = "Metadata-Version: 2.1\nName: plugins-of-the-tests\nVersion: 1.2.3\n"


def install(site):
    """Put the plugins into *site*, a folder that will be on the Python path."""
    described = site / "plugins_of_the_tests-1.2.3.dist-info"
    described.mkdir(parents=True)
    (described / "METADATA").write_text(METADATA)
    (described / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "plugins_of_the_tests.py").write_text(PLUGINS)
    (site / "unset_plugin_of_the_tests.py").write_text(UNSET)
    return str(site)
