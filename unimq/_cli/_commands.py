"""The commands, as the parser sees them. Importing this needs the extra ``cli``; it loads no client library."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from unimq._capabilities import Capabilities, Feature
from unimq._cli import _bench, _messages, _redrive, _tap, _verify
from unimq._cli._output import UsageError, fail, warn, write_json, write_line, write_table
from unimq._destinations import Queue, QueuePolicy, Subscription, Topic, count, seconds
from unimq._errors import ConfigError
from unimq._load import Load
from unimq._message import Message, prepare
from unimq._sync import Broker, connect

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
URL = Annotated[
    str | None, Parameter(help="Broker: a URL, or a name from unimq.toml; else UNIMQ_URL, UNIMQ_BROKER, its default.")
]
JSON = Annotated[bool, Parameter(negative=(), show_default=False, help="Print JSON, one document per line.")]
OfTopic = Annotated[str | None, Parameter(help="The subscription of this name; then SOURCE is the topic.")]


def _version() -> str:
    from importlib.metadata import version

    return version("unimq")


app = App(
    name="unimq",
    help="One interface for Amazon SQS, Apache Kafka, RabbitMQ and memory.",
    help_epilogue="Exit codes: 0 done, 1 error of unimq or the broker, 2 wrong use, 128 + number for a signal.",
    help_format="plaintext",
    version=_version,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
    print_error=False,
    exit_on_error=False,
)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        result: object = app(arguments)
    except CycloptsError as error:
        return fail(_without_urls(str(error), arguments), code=2)
    return result if isinstance(result, int) else 0


def _without_urls(text: str, arguments: Sequence[str]) -> str:
    """Hide what follows the scheme of any URL among the arguments: an argument in the wrong place is shown."""
    for argument in arguments:
        _, separator, rest = argument.partition("://")
        if separator and rest:
            # The parser quotes some arguments as they are and some as Python would.
            for shown in (rest, repr(rest)[1:-1]):
                text = text.replace(f"://{shown}", "://***")
    return text


def _connect(url: str | None, config: Path | None = None) -> Broker:
    return connect(url or None, config=config)


def _source(name: str, subscription: str | None = None) -> Queue | Subscription:
    """Return the source of this name; ``events--audit`` is subscription ``audit`` of topic ``events``."""
    if subscription is not None:
        return Topic(name).subscription(subscription)
    queue = Queue(name)
    if queue.is_of_subscription:
        topic, _, subscription = name.partition("--")
        return Topic(topic).subscription(subscription)
    return queue


def _confirm(what: str, *, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what} cannot be undone, and there is nobody to ask: give --yes")
    print(f"{what} cannot be undone. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise KeyboardInterrupt


@app.command
def up(
    backend: Literal["rabbitmq", "kafka", "sqs"],
    /,
    *command: str,
    flavour: str | None = None,
    generation: str | None = None,
    install: Flag = False,
    json: JSON = False,
) -> int:
    """Start a private broker for a command, or until Ctrl-C.

    With -- COMMAND: runs it with UNIMQ_URL set, stops the broker, exits with the command's code. A broker that runs
    already is used when UNIMQ_TEST_RABBITMQ_URL, UNIMQ_TEST_KAFKA_URL or UNIMQ_TEST_SQS_URL names it.

    Args:
        backend: Which broker.
        command: Program and arguments, after --.
        flavour: SQS: ministack or elasticmq.
        generation: RabbitMQ: 3, 4 or newest.
        install: First fetch what is missing.
        json: Print the description of the broker as JSON.
    """
    return _tap.up(backend, command, flavour=flavour, generation=generation, install=install, json=json)


@app.command
def send(
    destination: str,
    body: str | None = None,
    /,
    *,
    # The parser takes a lone hyphen for an option otherwise.
    file: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None,
    lines: Flag = False,
    topic: Flag = False,
    key: str | None = None,
    header: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, metavar="NAME=VALUE")] = (),
    content_type: str | None = None,
    delay: float = 0.0,
    ttl: float | None = None,
    timeout: float = 30.0,
    url: URL = None,
    json: JSON = False,
) -> int:
    """Send BODY, a file, or the lines of standard input, and print the receipts.

    A receipt is the message id, and the broker's own position if it has one; it means that the message is stored.

    Args:
        destination: Queue (or topic, with --topic).
        body: The message. Without it, and without --file, each line of standard input is one.
        file: The content of this file is the message; - is standard input.
        lines: With --file: each line is one message.
        topic: The destination is a topic.
        key: Messages of one key keep their order where the destination has ordering by key.
        header: A header; repeatable.
        content_type: Content type of the body.
        delay: Seconds before which it is not delivered.
        ttl: Seconds after which it is not delivered any more.
        timeout: Seconds within which each send is confirmed or fails.
    """
    # Checked before any broker is asked; every message is checked again with its body.
    template = Message(b"", key, _messages.headers_of(header), "", content_type, delay=delay, ttl=ttl)
    prepare(template)
    seconds(timeout, "--timeout")
    given = _messages.Input(body, file, lines=lines)
    target = Topic(destination) if topic else Queue(destination)
    try:
        with _connect(url) as broker:
            return _messages.send(broker, target, given, template, timeout=timeout, json=json)
    finally:
        given.close()


@app.command
def receive(
    source: str,
    /,
    *,
    subscription: OfTopic = None,
    limit: Annotated[int | None, Parameter(name="--max")] = None,
    timeout: float | None = None,
    peek: Flag = False,
    url: URL = None,
    json: JSON = False,
) -> None:
    """Print messages, one per line, and ack each after it was printed.

    What was fetched and not printed, because the reader of the output or this command ended, returns to the queue.

    Args:
        source: Queue; TOPIC--NAME is a subscription.
        limit: End after this many messages; with --peek at most 100 by default.
        timeout: End when no message came for so many seconds; with --peek 5 by default, else never.
        peek: Ack nothing: all messages return when the command ends. Brokers may count that as a delivery.
    """
    wanted = _source(source, subscription)
    if limit is not None:
        count(limit, "--max")
    if timeout is not None:
        seconds(timeout, "--timeout", zero=True)
    with _connect(url) as broker:
        _messages.receive(broker, wanted, limit=limit, timeout=timeout, peek=peek, json=json)


@app.command
def stats(*sources: str, subscription: OfTopic = None, url: URL = None, json: JSON = False) -> None:
    """Print how many messages wait, are in flight, delayed or dead.

    Args:
        sources: Queues; TOPIC--NAME is a subscription.
    """
    wanted = [_source(name, subscription) for name in _some(sources)]
    with _connect(url) as broker:
        found = [broker.stats(source) for source in wanted]
    names = [field.name for field in fields(found[0]) if json or field.name != "trouble"]
    named = [(_messages.name_of(source), stats) for source, stats in zip(wanted, found, strict=True)]
    if json:
        for name, stats in named:
            write_json({"source": name, **{field: getattr(stats, field) for field in names}})
    else:
        write_table(
            ("source", *names), [(name, *(_cell(getattr(stats, field)) for field in names)) for name, stats in named]
        )
        for trouble in sorted({stats.trouble for stats in found if stats.trouble}):
            warn(trouble)


@app.command
def top(
    *sources: str,
    subscription: OfTopic = None,
    metrics: str | None = None,
    interval: float = 2.0,
    times: int | None = None,
    config: Path | None = None,
    url: URL = None,
    json: JSON = False,
) -> None:
    """Show queues live, until Ctrl-C: what waits, grows, is in flight, delayed or dead, and how old the oldest is.

    With --metrics also what workers do that export metrics for Prometheus: rates, latency, handlers, reconnects.

    Args:
        sources: Queues; TOPIC--NAME is a subscription. Without any, all queues and subscriptions of the configuration.
        metrics: Where the workers export: a URL such as http://localhost:9464/metrics.
        interval: Seconds between two looks.
        times: End after so many looks.
        config: The configuration; else UNIMQ_CONFIG, or the nearest one from here upwards.
    """
    from unimq._cli import _top

    seconds(interval, "--interval")
    if times is not None:
        count(times, "--times")
    with _connect(url, config) as broker:
        wanted = [_source(name, subscription) for name in sources] or [
            found for found in broker._core.configuration.destinations.values() if not isinstance(found, Topic)
        ]
        if not wanted:
            raise UsageError("name at least one queue: there is none in a configuration")
        _top.top(broker, wanted, metrics=metrics, interval=interval, times=times, json=json)


@app.command
def redrive(
    source: str,
    /,
    *,
    subscription: OfTopic = None,
    limit: int | None = None,
    reason: str | None = None,
    rate: float | None = None,
    dry_run: Flag = False,
    timeout: float = 30.0,
    url: URL = None,
    json: JSON = False,
) -> int:
    """Return dead letters to the queue, or to the subscription alone, that they come from.

    None is lost when it is interrupted; start it again to go on. Exits with 1 if some could not be sent.

    Args:
        source: Queue whose dead letters return; TOPIC--NAME is a subscription.
        limit: Move at most so many.
        reason: Move only what died of this reason.
        rate: Messages per second at most.
        dry_run: Move nothing; count what would move, and all by reason.
        timeout: Seconds to wait for dead letters that somebody else holds.
    """
    wanted = _source(source, subscription)
    with _connect(url) as broker:
        return _redrive.redrive(
            broker,
            wanted,
            limit=limit,
            reason=reason,
            rate=rate,
            dry_run=dry_run,
            timeout=timeout,
            json=json,
        )


@app.command
def purge(*sources: str, subscription: OfTopic = None, yes: Flag = False, url: URL = None, json: JSON = False) -> None:
    """Drop all waiting messages.

    Args:
        sources: Queues; TOPIC--NAME is a subscription.
        yes: Do not ask.
    """
    wanted = [_source(name, subscription) for name in _some(sources)]
    _confirm(f"dropping all messages of {', '.join(map(_messages.name_of, wanted))}", yes=yes)
    with _connect(url) as broker:
        for source in wanted:
            dropped, name = broker.purge(source), _messages.name_of(source)
            if json:
                write_json({"source": name, "dropped": dropped})
            else:
                write_line(f"{name}: {'all' if dropped is None else dropped} messages dropped".encode())


@app.command
def seek(source: str, /, *, to: str, subscription: OfTopic = None, yes: Flag = False, url: URL = None) -> None:
    """Read a source again, or on, from another position; it must have no consumers.

    Args:
        source: Queue; TOPIC--NAME is a subscription.
        to: A time such as 2026-01-31T08:00+01:00, earliest or now.
        yes: Do not ask.
    """
    wanted = _source(source, subscription)
    position: datetime | Literal["earliest", "now"] = "earliest" if to == "earliest" else "now"
    if to not in {"earliest", "now"}:
        try:
            position = datetime.fromisoformat(to)
        except ValueError:
            raise UsageError(f"--to {to}: neither earliest nor now, nor a time as 2026-01-31T08:00+01:00") from None
    _confirm(f"moving {_messages.name_of(wanted)} to {to}", yes=yes)
    with _connect(url) as broker:
        broker.seek(wanted, position)


@app.command
def declare(
    name: str,
    /,
    *,
    topic: Flag = False,
    subscription: OfTopic = None,
    ordering: Literal["none", "key"] = "none",
    ttl: float | None = None,
    lease: float | None = None,
    max_length: int | None = None,
    overflow: Literal["reject", "drop_oldest"] = "reject",
    max_deliveries: int | None = None,
    dead_letter: bool = True,
    url: URL = None,
) -> None:
    """Create a queue, topic or subscription with its policies; an existing one must have the same.

    Args:
        name: Queue (or topic, with --topic or --subscription).
        topic: Declare a topic.
        ordering: key delivers the messages of one key in the order in which they were sent.
        ttl: Seconds after which an undelivered message expires.
        lease: Seconds after which an unsettled delivery returns.
        max_length: Messages that it holds.
        overflow: What happens beyond: the sender gets an error, or the oldest message is dropped.
        max_deliveries: The failure of this delivery dead-letters the message.
        dead_letter: Rejected and exhausted messages go to NAME-dead; otherwise they are dropped.
    """
    destination: Queue | Topic | Subscription
    policy: QueuePolicy = {
        "ttl": ttl,
        "lease": lease,
        "max_length": max_length,
        "overflow": overflow,
        "max_deliveries": max_deliveries,
        # A queue that ends in -dead has no dead letters of its own unless somebody insists.
        "dead_letter": None if dead_letter else False,
    }
    if topic and subscription is None:
        policies = {"--ttl": ttl, "--lease": lease, "--max-length": max_length, "--max-deliveries": max_deliveries}
        given = [option for option, value in policies.items() if value is not None]
        if given:
            raise UsageError(f"{given[0]} is a policy of queues and subscriptions, not of topics")
        destination = Topic(name, ordering=ordering)
    elif subscription is not None:
        destination = Topic(name, ordering=ordering).subscription(subscription, **policy)
    else:
        destination = Queue(name, ordering=ordering, **policy)
    with _connect(url) as broker:
        broker.declare(destination)


@app.command
def delete(*names: str, topic: Flag = False, yes: Flag = False, url: URL = None) -> None:
    """Delete queues, topics or subscriptions with their messages, but not their dead-letter queues.

    Args:
        names: Queues (or topics, with --topic); TOPIC--NAME is a subscription.
        topic: The names are of topics.
        yes: Do not ask.
    """
    destinations = [Topic(name) if topic else _source(name) for name in _some(names)]
    _confirm(f"deleting {', '.join(names)}", yes=yes)
    with _connect(url) as broker:
        broker.delete(*destinations)


@app.command
def capabilities(url: URL = None, /, *, json: JSON = False) -> None:
    """Print what a broker can do, with reasons and limits.

    Args:
        url: Broker: a URL, or a name from unimq.toml; else UNIMQ_URL, UNIMQ_BROKER, its default.
    """
    with _connect(url) as broker:
        found = broker.capabilities
    if json:
        write_json(found)
        return
    features = list(found.features())
    write_table(
        ("feature", "support", "note", "use instead"),
        [(name, feature.support.value, feature.note, feature.alternative) for name, feature in features],
        title=_title(found),
    )
    others = [field.name for field in fields(found) if not isinstance(getattr(found, field.name), Feature)]
    write_table(
        ("limit", "value"),
        [(name, _cell(getattr(found, name)) or "none") for name in others if name not in _IN_TITLE],
    )


_IN_TITLE = {"backend", "broker_version", "client_version", "emulator"}


def _title(found: Capabilities) -> str:
    client = f"client {found.client_version}" if found.client_version else ""
    emulator = f"emulator {found.emulator}" if found.emulator else ""
    return " · ".join(filter(None, (f"{found.backend} {found.broker_version}".strip(), client, emulator)))


@app.command
def check(file: Path | None = None, /, *, broker: str | None = None, on: str | None = None, json: JSON = False) -> int:
    """Check unimq.toml, and whether a broker can do what it asks for, without connecting.

    Exits with 0 if all destinations can be declared, with 1 if not.

    Args:
        file: The configuration; else UNIMQ_CONFIG, or the nearest one from here upwards.
        broker: A broker of the file, by name; else UNIMQ_URL, UNIMQ_BROKER, its default.
        on: Any broker, by URL.
    """
    from unimq._broker import address_of
    from unimq._cli import _plans

    if broker is not None and on is not None:
        raise UsageError("--broker names one of the file, --on is any URL: give one of them")
    found = _plans.read(file)
    url, place = found.named(broker) if broker is not None else address_of(on, lambda: found)
    return _plans.check(found, url, place, json=json)


@app.command
def plan(file: Path | None = None, /, *, url: URL = None, json: JSON = False) -> int:
    """Show what of unimq.toml is on a broker, what is missing, and what is there with other policies.

    Changes nothing. Exits with 1 if a destination cannot be as configured.

    Args:
        file: The configuration; else UNIMQ_CONFIG, or the nearest one from here upwards.
    """
    from unimq._cli import _plans

    found = _plans.read(file)
    with _connect(url, found.path) as broker:
        steps = _plans.plan(broker, found.destinations.values())
        title = f"{found.path} on {broker._core.url}"
    return _plans.tell(steps, title, json=json)


@app.command
def apply(file: Path | None = None, /, *, url: URL = None, json: JSON = False) -> int:
    """Declare what unimq.toml says: all of it, or nothing if a destination cannot be as configured.

    Exits with 1 then. What is there already stays as it is.

    Args:
        file: The configuration; else UNIMQ_CONFIG, or the nearest one from here upwards.
    """
    from unimq._cli import _plans

    found = _plans.read(file)
    with _connect(url, found.path) as broker:
        steps = _plans.plan(broker, found.destinations.values())
        _plans.apply(broker, steps)
        title = f"{found.path} on {broker._core.url}"
    return _plans.tell(steps, title, json=json)


@app.command
def verify(
    *urls: Annotated[str, Parameter(allow_leading_hyphen=True)], html: Path | None = None, json: Flag = False
) -> int:
    """Run the contract suite against brokers: is every guarantee kept?

    What follows -- is for pytest. Exits with 0 if all that was tested holds, with 1 if not, else with pytest's code.

    Args:
        urls: Brokers; else UNIMQ_URL.
        html: Write the result to this file, too, as one page that needs nothing else.
        json: Print the result as one JSON document; pytest's own output goes to standard error.
    """
    # The parser drops the "--" itself, but options of pytest begin with a hyphen and URLs do not.
    first = next((index for index, word in enumerate(urls) if word.startswith("-")), len(urls))
    wanted = list(dict.fromkeys(urls[:first])) or [os.environ.get("UNIMQ_URL", "")]
    if not wanted[0]:
        raise ConfigError("no broker URL: name at least one or set UNIMQ_URL, for example amqp://localhost/")
    for url in wanted:
        # A wrong URL is told by one line, not by the failure of every test.
        connect(url).close()
    return _verify.verify(wanted, urls[first:], json=json, html=html)


bench = App(
    name="bench",
    help="Measure brokers, and unimq against raw clients and other libraries on them.",
    help_format="plaintext",
)
app.command(bench)


@bench.default
def bench_run(
    *workloads: str,
    on: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, metavar="URL[,URL]")] = (),
    rows: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, metavar="ROW[,ROW]")] = (),
    profile: Literal["smoke", "standard", "full"] = "standard",
    set: Annotated[tuple[str, ...], Parameter(negative=(), show_default=False, metavar="KEY=VALUE")] = (),
    seed: int | None = None,
    foreign: float | None = None,
    out: Path | None = None,
    html: Path | None = None,
    json: JSON = False,
) -> int:
    """Measure WORKLOADS, or list them if none is named; "all" is every one.

    Exits with 0 if no row lost, changed or invented anything, with 1 if one did, with 130 after Ctrl-C, which keeps
    what was found until then. A run that others on the machine disturbed is marked and not ranked.

    Args:
        workloads: Names, files that end in .toml, or all.
        on: Brokers: URLs, memory, or rabbitmq, kafka, sqs, which are started. Else UNIMQ_URL, else all four.
        rows: Libraries: unimq, raw (the raw client of each backend), or their names. Else those of the workload.
        profile: smoke takes seconds and says nothing about speed; full takes an hour.
        set: A parameter of the workloads that is to differ; repeatable.
        seed: Of the random order, to repeat it.
        foreign: Cores that others on the machine may use before a run is invalid.
        out: Write the result to this file as JSON.
        html: Write the result to this file as one page that needs nothing else.
        json: Print the result as one JSON document instead of tables.
    """
    if not workloads:
        return _bench.list_workloads()
    return _bench.bench(
        workloads,
        on=on,
        rows=rows,
        profile=profile,
        settings=set,
        seed=seed,
        foreign=foreign,
        out=out,
        html=html,
        json=json,
    )


@bench.command(name="compare")
def bench_compare(before: Path, after: Path, *, html: Path | None = None, fail_if_worse: bool = False) -> int:
    """Tell what changed between two results, with intervals, and a verdict only outside the noise.

    Refused with exit code 2 if they are of other workloads, rows, brokers or durability.

    Args:
        before: File of `--out`, or the page of `--html`.
        after: The same of the other result.
        html: Write the comparison to this file as one page that needs nothing else.
        fail_if_worse: Exit with 1 if a ratio of two clients got worse, or a row loses messages that did not before.
    """
    return _bench.compare(before, after, html=html, fail_if_worse=fail_if_worse)


@bench.command(name="plan")
def bench_plan(
    *, rate: float, size: int, backend: str, result: Path | None = None, prices: Path | None = None, row: str = "unimq"
) -> int:
    """Tell how many machines, partitions, processes and dollars a rate takes, what is assumed, and how the model holds.

    Args:
        rate: Messages per second.
        size: Bytes of a message.
        backend: kafka, rabbitmq or sqs.
        result: File of `--out` with publish_max and consume_max of this backend; else one that comes with unimq.
        prices: A price file of your own, in place of the one that comes with unimq.
        row: Library whose CPU counts.
    """
    return _bench.plan(rate=rate, size=size, backend=backend, result=result, prices=prices, row=row)


@bench.command(name="page")
def bench_page(result: Path, html: Path, /) -> int:
    """Write RESULT, a file of `--out`, to HTML as one page that needs nothing else."""
    return _bench.page(result, html)


@app.command
def cost(
    *,
    rate: float,
    size: int,
    backend: str = "sqs",
    url: URL = None,
    producers: int = 1,
    consumers: int = 1,
    ordering: Literal["none", "key"] = "none",
    awaited: Flag = False,
    prices: Path | None = None,
    json: JSON = False,
) -> int:
    """Estimate what a rate costs a month on a service that bills requests; connects to nothing.

    Args:
        rate: Messages per second, day and night; 0 for an idle queue.
        size: Bytes of body and headers.
        backend: The service: sqs.
        producers: Producers that share the rate.
        consumers: Consumers that share the rate.
        ordering: key for FIFO, which has another price and other batches.
        awaited: Producers wait for each message (send), instead of enqueuing it.
        prices: A price file of your own, in place of the one that comes with unimq.
    """
    from unimq._broker import address_of
    from unimq._cli import _cost
    from unimq._configuration import find_configuration

    # Not from the environment: that is where one is, and not what one thinks about.
    address, _ = address_of(f"{backend}://" if url is None else url, find_configuration)
    load = Load(rate, size, producers, consumers, is_ordered=ordering == "key", is_awaited=awaited)
    return _cost.cost(load, address, prices, json=json)


def _some(names: Sequence[str]) -> Sequence[str]:
    if not names:
        raise UsageError("name at least one")
    return names


def _cell(value: object) -> str:
    """Return a figure for a table; empty means that the backend does not say or has no limit."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
