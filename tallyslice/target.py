"""Which cluster a command means, and how its nodes are called: the options that all commands share, read in one place.

::

    --cluster FILE      the cluster file: every node of it
    --url URL           API nodes, where the file is not at hand
    --token-file FILE   what to show API nodes that ask for a token
    --ca FILE           whom to believe that a node is who it says; without it the cluster file's CA, and the system's

Without any, the cluster is the one that ``tallyslice up`` starts without any: that of ``etc/cluster.json``, or where
there is none that of the example which comes with Tallyslice.

A token is never an argument: other users of the machine see those.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from common.certificates import calling_context, trusting_context
from common.config import ClusterConfig, is_https, load_config, load_token
from common.errors import ConfigRefused

if TYPE_CHECKING:
    import aiohttp

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_FILE = Path("etc/cluster.json")
# What an installed Tallyslice brings along, for folders that have none: in the tree a link to that file, in a wheel a
# copy.
OWN_FILE = Path(__file__).with_name("cluster.json")
TOKEN_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The cluster that a command means.

    Attributes:
        api_nodes: name -> scheme, host and port. At least one.
        config: the cluster file; None if only URLs were given.
        file: where that is.
        token: to be shown to API nodes.
        tls: how certificates are checked, and what workers are shown that ask for one; None: as the system does.
        hint: what to say where nobody answers.
    """

    api_nodes: Mapping[str, str]
    config: ClusterConfig | None = None
    file: Path | None = None
    token: str | None = None
    tls: ssl.SSLContext | None = None
    hint: str = ""

    @property
    def headers(self) -> dict[str, str]:
        """What goes along with each call to an API node."""
        return token_headers(self.token)

    @property
    def internal_token(self) -> str | None:
        """What nodes show each other, and we show workers.

        Raises:
            ConfigRefused: it cannot be read.
        """
        return None if self.config is None else load_token(self.config)

    def session(self) -> aiohttp.ClientSession:
        """What carries the calls; each has its own deadline."""
        import aiohttp  # noqa: PLC0415 - slow to import: whoever asks for help should not wait for it

        connector = aiohttp.TCPConnector(ssl=self.tls or True)
        return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))


def token_headers(token: str | None) -> dict[str, str]:
    """What shows a token to an API node."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def origin(url: str) -> str:
    """Scheme, host and port of a node's URL: what its other paths are appended to.

    Raises:
        ValueError: it is no http or https URL with a host.
    """
    message = "must be the URL of an API node, such as http://localhost:8000"
    parts = urlsplit(url)
    # Nor one with a password in it: it would be shown wherever the node is named.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or "@" in parts.netloc:
        raise ValueError(message)
    return f"{parts.scheme}://{parts.netloc}"


_CLUSTER = click.option(
    "--cluster",
    "-c",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The cluster file.  [default: {DEFAULT_FILE}]",
)
_URL = click.option(
    "--url",
    "-u",
    "urls",
    metavar="URL",
    multiple=True,
    help="An API node, such as http://localhost:8000, instead of --cluster; may be given several times.",
)
token_option = click.option(
    "--token-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Holds the token to be shown to API nodes, if they ask for one.",
)
ca_option = click.option(
    "--ca",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Certificates (PEM) that those of the nodes are checked against, instead of the system's.",
)


cluster_option = _CLUSTER


def target_options(*, by_url: bool = True) -> Callable[[F], F]:
    """Give a command the options that say which cluster it means; it calls ``find_target`` with them.

    Args:
        by_url: whether URLs of API nodes will do; else the command needs the whole file.
    """

    def add(command: F) -> F:
        # click collects decorators from the last one to the first.
        for option in (ca_option, token_option, *([_URL] if by_url else []), _CLUSTER):
            command = option(command)
        return command

    return add


def find_target(
    *, cluster: Path | None, token_file: Path | None, ca: Path | None, urls: tuple[str, ...] = ()
) -> Target:
    """The cluster that the options mean.

    Raises:
        click.UsageError: they contradict each other, or mean none.
        ConfigRefused: a file that they name cannot be used.
    """
    if urls and cluster is not None:
        raise click.UsageError("--cluster and --url both say which cluster: give one of them")
    token = read_token(token_file)
    if urls:
        try:
            nodes = {found: found for found in map(origin, urls)}
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from error
        return Target(api_nodes=nodes, token=token, tls=node_tls(None, ca=ca))
    file = cluster or default_file()
    config = load_config(file)
    nodes = {f"api-{name}": origin(url) for name, url in config.api_nodes.items()}
    tls = node_tls(config, ca=ca)
    return Target(api_nodes=nodes, config=config, file=file, token=token, tls=tls, hint=_hint(file, cluster))


def node_tls(config: ClusterConfig | None, *, ca: Path | None = None) -> ssl.SSLContext | None:
    """How nodes are connected to; None: as the system does.

    Workers that ask for a certificate are shown that of an API node, where one can be read here.

    Args:
        config: the cluster file, if it is at hand.
        ca: whose certificates to believe, instead of those of the cluster file's CA, and of the system's.

    Raises:
        ConfigRefused: a file cannot be used.
    """
    files = None if config is None else config.tls
    if (
        config is None
        or files is None
        or not any(map(is_https, (*config.api_nodes.values(), *config.worker_nodes.values())))
    ):
        return None if ca is None else trusting_context(ca, key="--ca")
    own = [files.of(f"api-{name}") for name in config.api_nodes]
    shown = next((one for one in own if os.access(one.certificate, os.R_OK) and os.access(one.key, os.R_OK)), None)
    if shown is None:
        shown = replace(own[0], client_ca=None)
    context = calling_context(shown if ca is None else replace(shown, ca=ca))
    if ca is None:
        # The public may reach API nodes by a certificate that everybody knows, and workers have one of an own CA.
        context.load_default_certs()
    return context


def _hint(file: Path, asked_for: Path | None) -> str:
    if asked_for is not None:
        return f"Does the cluster of {file} run?"
    shown = "the example cluster" if file == OWN_FILE else file
    return f"Does the cluster run? This was {shown}; --cluster FILE names another. `tallyslice up` starts one."


def default_file() -> Path:
    """The cluster file of a command that was not told of one."""
    return DEFAULT_FILE if DEFAULT_FILE.exists() else OWN_FILE


def read_token(path: Path | None) -> str | None:
    """The token in a file; None if none is named.

    Raises:
        ConfigRefused: it cannot be read, or holds none.
    """
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            text = file.read(TOKEN_BYTES_MAX + 1).decode(errors="replace").strip()
    except OSError as error:
        raise ConfigRefused([f"--token-file {path} cannot be read: {error.strerror}"]) from error
    if not text or len(text) > TOKEN_BYTES_MAX or not text.isascii() or not text.isprintable() or " " in text:
        raise ConfigRefused([f"--token-file {path} must hold one token: visible ASCII characters without a space"])
    return text
