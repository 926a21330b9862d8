"""A private RabbitMQ: one node or a cluster, own cookie, own port mapper, on loopback, in a folder of its own.

It runs from Debian's installed package or from packages unpacked into the cache folder (then in a mount namespace and a
chroot, as root or as any user where user namespaces are allowed). The installed package's service is left alone.
"""

import os
import re
import secrets
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .debian import unpack
from .home import brokers_home, install_folder, read_mark
from .process import Node, PrivateBroker, WorkFolder, find_program, free_ports, minimal_environment
from .rabbitmq_security import Security
from .tap import BrokerUnavailable, RunningTap, Tap
from .versions import RABBITMQ_DEFAULT_GENERATION, RABBITMQ_SUITES
from .wire import amqp_version, tcp_answers

TIMEOUT = 90.0
PLUGINS = ("rabbitmq_consistent_hash_exchange",)
# Where the installed package is looked for.
_SYSTEM = Path("/")
_SERVER = "usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"
# Where the unpacked tree sees the broker's folder. exec all the way down: the pid that was started is the broker's.
_INSIDE = "/tap"
_CHROOT = (
    'mount --bind "$1" "$0/tap" && mount --rbind /dev "$0/dev" && mount --rbind /proc "$0/proc" '
    '&& shift && exec chroot "$0" "$@"'
)
# No loopback_users: the guest account stays confined to loopback, where all clients of a private node are.
_SETTINGS = {"log.console": "true", "log.file": "false", "disk_free_limit.absolute": "50MB"}
# Without the first, the distribution port listens on all interfaces; the others keep an idle node from spinning.
_ERLANG = "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"


@dataclass(frozen=True, slots=True)
class Installation:
    """A RabbitMQ on this machine. ``root`` is the unpacked tree, None for the installed package."""

    version: str
    server: str
    root: Path | None

    @property
    def how(self) -> str:
        return "installed package" if self.root is None else f"unpacked in {self.root.name}"


def tree(generation: str) -> Path:
    """Where a generation is unpacked."""
    if generation not in RABBITMQ_SUITES:
        raise ValueError(f"unknown RabbitMQ generation {generation!r}; known: {', '.join(RABBITMQ_SUITES)}")
    return brokers_home() / f"rabbitmq-{RABBITMQ_SUITES[generation]}"


def find(generation: str | None = None) -> Installation:
    """The installation to use: of that generation, or the first of: default generation, installed package, any."""
    option = f" --generation {generation}" if generation else ""
    how = f"Run: make brokers, or: python -m unimq_contract.brokers install rabbitmq{option}"
    order = [generation] if generation else [RABBITMQ_DEFAULT_GENERATION, None, *RABBITMQ_SUITES]
    why = f"neither an installed package nor an unpacked one in {brokers_home()}"
    for wanted in [*order, None]:
        root = tree(wanted) if wanted else None
        if root is not None and read_mark(root) is None:
            continue
        for server in sorted((root or _SYSTEM).glob(_SERVER), reverse=True):
            version = _version_of(server)
            if generation and root is None and not version.startswith(f"{generation}."):
                continue
            obstacle = None if root is None else _namespace_obstacle()
            if obstacle is None:
                return Installation(version, str(server).removeprefix(str(root or "")), root)
            why = obstacle
            how = "Install the package instead (as root: apt-get install rabbitmq-server), or allow user namespaces."
    raise BrokerUnavailable(f"RabbitMQ {generation}" if generation else "RabbitMQ", why, how)


def _version_of(server: Path) -> str:
    return re.sub(r".*rabbitmq_server-([^/]*)/.*", r"\1", str(server))


def _namespace_obstacle() -> str | None:
    """Why the unpacked tree cannot be entered, None when it can."""
    find_program("unshare", "an unpacked RabbitMQ is entered with it", "It is part of util-linux (Linux).")
    done = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else f"mount namespaces are refused here ({done.stderr.strip()})"


def _unshare() -> list[str]:
    return ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]


def install(generation: str | None = None) -> str:
    """Unpack a generation unless it is there; returns its version."""
    wanted = generation or RABBITMQ_DEFAULT_GENERATION
    suite = RABBITMQ_SUITES.get(wanted) or tree(wanted).name

    def fill(folder: Path) -> Mapping[str, str]:
        unpack(suite, ["rabbitmq-server"], folder)
        (server,) = folder.glob(_SERVER)
        return {"version": _version_of(server), "suite": suite}

    return install_folder(tree(wanted), fill)["version"]


def start(
    *,
    generation: str | None = None,
    nodes: int = 1,
    plugins: Iterable[str] = PLUGINS,
    settings: Mapping[str, str] | None = None,
    security: Security | None = None,
    timeout: float = TIMEOUT,
) -> RunningTap:
    """Start a private node, or a cluster of ``nodes``; returns when all speak AMQP.

    ``settings``: lines of rabbitmq.conf. ``security``: a listener with TLS and accounts, on a single node.
    """
    found = find(generation)
    broker = PrivateBroker(f"RabbitMQ {found.version}", timeout=timeout)
    with broker.starting():
        return _start(broker, found, nodes, tuple(plugins), settings or {}, security)


def node_name(address: str) -> str:
    """Return what the node at ``host:port`` is called, for ``tool("rabbitmqctl", "-n", name, …)``."""
    return f"tap{address.rpartition(':')[2]}@localhost"


def _start(
    broker: PrivateBroker,
    found: Installation,
    nodes: int,
    plugins: Sequence[str],
    settings: Mapping[str, str],
    security: Security | None,
) -> RunningTap:
    folder = broker.folder
    home = _INSIDE if found.root else str(folder.path)

    def provide(name: str, text: str) -> str:
        folder.write(f"security/{name}", text)
        return f"{home}/security/{name}"

    if security is not None:
        if nodes > 1:
            raise ValueError("security is for a single node: the nodes of a cluster would share its port")
        settings = {**security.settings(provide), **settings}
    epmd_port, *ports = free_ports(1 + 2 * nodes)
    amqp, distribution = ports[:nodes], ports[nodes:]
    names = [node_name(f"127.0.0.1:{port}") for port in amqp]
    folder.write(".erlang.cookie", secrets.token_hex(16), 0o400)
    common = {
        **minimal_environment(home),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP_BYTES": "0",
    }

    def node(index: int) -> Node:
        place = f"{home}/node{index}"
        lines = {**_SETTINGS, **_joining(names[0] if index else None), **settings}
        folder.write(f"node{index}/rabbitmq.conf", "".join(f"{k} = {v}\n" for k, v in lines.items()))
        folder.write(f"node{index}/enabled_plugins", f"[{','.join(plugins)}].\n")
        own = {
            "NODENAME": names[index],
            "NODE_PORT": str(amqp[index]),
            "NODE_IP_ADDRESS": "127.0.0.1",
            "DIST_PORT": str(distribution[index]),
            "CONFIG_FILE": f"{place}/rabbitmq",
            "ADVANCED_CONFIG_FILE": f"{place}/advanced",
            "CONF_ENV_FILE": f"{place}/environment",
            "GENERATED_CONFIG_DIR": f"{place}/generated",
            "ENABLED_PLUGINS_FILE": f"{place}/enabled_plugins",
            "FEATURE_FLAGS_FILE": f"{place}/feature_flags",
            "MNESIA_BASE": f"{place}/data",
            "LOG_BASE": f"{place}/log",
            "PID_FILE": f"{place}/pid",
            "SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
        }
        return Node(
            name=f"RabbitMQ node {index}",
            argv=_enter(found, folder, [found.server]),
            # "detached" makes the start script exec the broker instead of staying its parent.
            env={
                **common,
                "detached": "1",
                **{f"RABBITMQ_{k}": v for k, v in own.items()},
            },
            log=folder.path / f"node{index}" / "output.log",
            # The listener with TLS is opened after the plain one.
            ready=lambda: (
                amqp_version("127.0.0.1", amqp[index]) is not None
                and (security is None or tcp_answers("127.0.0.1", security.port))
            ),
            # The management plugins delay a clean stop by five seconds and gain nothing by it.
            grace=2.0 if any("management" in plugin for plugin in plugins) else 10.0,
        )

    def command(name: str, arguments: Sequence[str]) -> tuple[Sequence[str], Mapping[str, str]]:
        program = found.server.replace("/rabbitmq-server", f"/{name}")
        return _enter(found, folder, [program, *arguments]), {**common, "RABBITMQ_NODENAME": names[0]}

    # A port mapper of our own, in the foreground: one that Erlang starts by itself would stay behind.
    broker.launch_companion(
        Node(
            name="epmd",
            argv=_enter(found, folder, ["epmd", "-port", str(epmd_port), "-address", "127.0.0.1"]),
            env=common,
            log=folder.path / "epmd.log",
            ready=lambda: tcp_answers("127.0.0.1", epmd_port),
        )
    )
    # The first node alone, the others together: starting all at once costs many seconds of lock retries.
    broker.launch(node(0))
    broker.launch(*(node(index) for index in range(1, nodes)))
    broker.provide_tool(command)
    return RunningTap(
        Tap(
            backend="rabbitmq",
            url=f"amqp://guest:guest@127.0.0.1:{amqp[0]}/",
            product="RabbitMQ",
            version=found.version,
            how=f"native, {found.how}" + (f", cluster of {nodes}" if nodes > 1 else ""),
            label="real",
            rung="native",
            pid=broker.pids[0],
            nodes=tuple(f"127.0.0.1:{port}" for port in amqp),
        ),
        broker,
    )


def _joining(first: str | None) -> dict[str, str]:
    """A node that joins names only the first one; one list for all makes them wait for each other."""
    if first is None:
        return {}
    return {
        "cluster_formation.peer_discovery_backend": "classic_config",
        "cluster_formation.classic_config.nodes.1": first,
    }


def _enter(found: Installation, folder: WorkFolder, argv: Sequence[str]) -> list[str]:
    if found.root is None:
        return list(argv)
    return [*_unshare(), "sh", "-c", _CHROOT, str(found.root), str(folder.path), *argv]
