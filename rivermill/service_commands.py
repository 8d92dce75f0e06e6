"""The command line's verbs for the live service and for lines: up, registry, train, access."""

import getpass
from typing import TYPE_CHECKING, Any

import click

from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument
from rivermill.settings import DEFAULT_MLFLOW_PORT, DEFAULT_PORT, MLFLOW_PORT_VARIABLE, PORT_VARIABLE

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from journal.audit import Attempt
    from rivermill.desk import Desk, JobDesk

why_option = click.option("--why", required=True, help="The reason, kept in the control log and the journal.")
key_option = click.option("--key", default="", help="Idempotency key: the same key again is the same request.")
explain_option = click.option("--explain", is_flag=True, help="Print the plan that this would carry out, and stop.")
expected_option = click.option(
    "--expected", type=int, help="Decide only if this is still the last decision's sequence."
)


def principal() -> str:
    """Whoever may read the home itself: the user of this machine."""
    return f"local:{getpass.getuser()}"


@click.command()
@click.argument("pipelines", nargs=-1)
@click.option(
    "--port",
    type=int,
    envvar=PORT_VARIABLE,
    default=DEFAULT_PORT,
    show_default=True,
    show_envvar=True,
    help="The API's.",
)
@click.option(
    "--mlflow-port",
    type=int,
    envvar=MLFLOW_PORT_VARIABLE,
    default=DEFAULT_MLFLOW_PORT,
    show_default=True,
    show_envvar=True,
    help="MLflow's UI.",
)
@click.option("--no-mlflow", is_flag=True, help="Start no MLflow server; versions are logged all the same.")
@json_option
@click.pass_obj
def up(place: Place, pipelines: tuple[str, ...], port: int, mlflow_port: int, no_mlflow: bool, as_json: bool) -> None:
    """Bring the live service up: journal owners, workers, API, registrar and MLflow; stop with Ctrl-C or SIGTERM.

    Serves PIPELINES, or every pipeline that has run in this home.
    """
    from rivermill.up import Service, folders_of, run_service

    folders = folders_of(place.home, pipelines, place.folder)
    run_service(
        Service(root=place.home, folders=folders, port=port, mlflow_port=None if no_mlflow else mlflow_port),
        as_json=as_json,
    )


@click.group()
def registry() -> None:
    """Lines: what may answer, what does, and who decided."""


@registry.command("list")
@pipeline_argument
@json_option
@click.pass_obj
def registry_list(place: Place, pipeline: str, as_json: bool) -> None:
    """List the lines of PIPELINE with their states."""
    out.show_table(_desk(place, pipeline).versions(_name(place, pipeline)), as_json)


@registry.command("show")
@pipeline_argument
@click.argument("line")
@json_option
@click.pass_obj
def registry_show(place: Place, pipeline: str, line: str, as_json: bool) -> None:
    """Show one LINE: what it was made from, what the gate said, and what it would say now."""
    out.show_line(_desk(place, pipeline).version(_name(place, pipeline), line), as_json)


@registry.command("promote")
@pipeline_argument
@click.argument("line")
@why_option
@expected_option
@key_option
@explain_option
@json_option
@click.pass_obj
def registry_promote(
    place: Place, pipeline: str, line: str, why: str, expected: int | None, key: str, explain: bool, as_json: bool
) -> None:
    """Let LINE answer, if the gate lets it in; exit 13 with every failing check if not."""
    decided = _desk(place, pipeline).promote(
        _name(place, pipeline),
        line,
        why=why,
        principal=principal(),
        key=key,
        expected=expected,
        explain=explain,
    )
    out.show_decision(decided, as_json)


@registry.command("rollback")
@pipeline_argument
@click.option("--to", default="", help="An earlier champion; the one before the present one when not given.")
@why_option
@expected_option
@key_option
@explain_option
@json_option
@click.pass_obj
def registry_rollback(
    place: Place, pipeline: str, to: str, why: str, expected: int | None, key: str, explain: bool, as_json: bool
) -> None:
    """Let an earlier champion answer again."""
    decided = _desk(place, pipeline).roll_back(
        _name(place, pipeline),
        to,
        why=why,
        principal=principal(),
        key=key,
        expected=expected,
        explain=explain,
    )
    out.show_decision(decided, as_json)


@registry.command("history")
@pipeline_argument
@json_option
@click.pass_obj
def registry_history(place: Place, pipeline: str, as_json: bool) -> None:
    """List every decision about PIPELINE's lines, with who decided and why."""
    out.show_table(_desk(place, pipeline).decisions(_name(place, pipeline)), as_json)


@registry.command("verify")
@pipeline_argument
@json_option
@click.pass_obj
def registry_verify(place: Place, pipeline: str, as_json: bool) -> None:
    """Check the chain and the signatures of PIPELINE's control log; exit 7 or 11 at the first that does not hold."""
    from rivermill.wiring import control_of, verifier_of

    home = place.existing(pipeline)
    count = control_of(home).verify(home.pipeline, verifier_of(home))
    out.show_mapping({"decisions": count, "verdict": "chain and signatures hold"}, as_json)


@click.group()
def train() -> None:
    """Training jobs: submitted here or by a schedule, worked on while `rivermill up` runs."""


@train.command("submit")
@pipeline_argument
@click.option("--executor", type=click.Choice(["auto", "ray", "serial"]), default="auto", help="Where the fits run.")
@click.option("--promote", is_flag=True, help="Promote the best line that the gate lets in.")
@key_option
@json_option
@click.pass_obj
def train_submit(place: Place, pipeline: str, executor: str, promote: bool, key: str, as_json: bool) -> None:
    """Submit a retrain of PIPELINE on everything joined so far."""
    from journal.owner import is_owned

    jobs = _jobs(place, pipeline)
    options = {"executor": executor, "promote": promote}
    job = jobs.submit(_name(place, pipeline), key, principal(), options)
    waits = {} if is_owned(place.home / "up") else {"note": "nothing works on jobs now: start `rivermill up`"}
    out.show_mapping({**job, **waits}, as_json)


@train.command("list")
@pipeline_argument
@json_option
@click.pass_obj
def train_list(place: Place, pipeline: str, as_json: bool) -> None:
    """List PIPELINE's jobs."""
    out.show_table(out.brief(_jobs(place, pipeline).list()), as_json)


@train.command("show")
@pipeline_argument
@click.argument("job")
@json_option
@click.pass_obj
def train_show(place: Place, pipeline: str, job: str, as_json: bool) -> None:
    """Show one JOB and what came of it."""
    out.show_mapping(_jobs(place, pipeline).get(job), as_json)


@train.command("logs")
@pipeline_argument
@click.argument("job")
@json_option
@click.pass_obj
def train_logs(place: Place, pipeline: str, job: str, as_json: bool) -> None:
    """Print what JOB has said so far."""
    out.show_text(_jobs(place, pipeline).logs(job), as_json)


@train.command("stop")
@pipeline_argument
@click.argument("job")
@json_option
@click.pass_obj
def train_stop(place: Place, pipeline: str, job: str, as_json: bool) -> None:
    """Stop JOB: at once while it waits, within seconds while it runs."""
    out.show_mapping(_jobs(place, pipeline).stop(job, principal()), as_json)


@click.group()
def access() -> None:
    """API keys and their roles."""


@access.command("add")
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help="May be given several times.")
@click.option("--pipeline", "pipelines", multiple=True, help="Only these pipelines (default: all).")
@json_option
@click.pass_obj
def access_add(place: Place, name: str, roles: tuple[str, ...], pipelines: tuple[str, ...], as_json: bool) -> None:
    """Make an API key for NAME and print it: it is shown this once and stored as a hash."""
    from rivermill.access import KeyRing

    with _audited(place, "add_key", name):
        secret = KeyRing.open(place.home / "access").add(name, roles, pipelines)
    out.show_mapping({"name": name, "roles": list(roles), "key": secret}, as_json)


@access.command("list")
@json_option
@click.pass_obj
def access_list(place: Place, as_json: bool) -> None:
    """List names and roles; keys themselves are not stored."""
    from rivermill.access import KeyRing

    out.show_table(KeyRing.open(place.home / "access").list(), as_json)


@access.command("revoke")
@click.argument("name")
@json_option
@click.pass_obj
def access_revoke(place: Place, name: str, as_json: bool) -> None:
    """Let NAME's key open nothing any more; the service sees it at the next request."""
    from rivermill.access import KeyRing

    with _audited(place, "revoke_key", name):
        KeyRing.open(place.home / "access").revoke(name)
    out.show_mapping({"revoked": name}, as_json)


def _audited(place: Place, action: str, name: str) -> "AbstractContextManager[Attempt]":
    from rivermill.auditing import HOME_WIDE, Auditing
    from rivermill.wall import wall_now

    return Auditing(place.home, wall_now).attempt(HOME_WIDE, person=principal(), action=action, object=name)


def _name(place: Place, pipeline: str) -> str:
    return place.home_of(pipeline).pipeline


def _desk(place: Place, pipeline: str) -> "Desk":
    from rivermill.desk import Desk
    from rivermill.pipeline import load_pipeline

    home = place.existing(pipeline)
    return Desk({home.pipeline: (load_pipeline(place.folder(pipeline)), home)})


def _jobs(place: Place, pipeline: str) -> "JobDesk":
    from rivermill.desk import JobDesk

    home = place.existing(pipeline)
    return JobDesk({home.pipeline: home})


def register(group: click.Group) -> None:
    """Add these verbs to the command line."""
    commands: list[Any] = [up, registry, train, access]
    for command in commands:
        group.add_command(command)
