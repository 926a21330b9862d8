"""Wrong use and wrong input: one line that says what would be right, the exit code, and never a password."""

import sys

import pytest

import unimq

from .conftest import Command

QUOTED = "s3cret%2Fp%20w"

CASES = [
    # arguments, exit code, what the error says
    (["stats", "orders", "--url", "rabbit://localhost"], 1, "no adapter for scheme 'rabbit'; "),
    (["stats", "orders", "--url", "memry://"], 1, "did you mean 'memory'?"),
    (["stats", "orders", "--url", "memory://?privte=true"], 1, "unknown option 'privte' for memory://; did you mean"),
    (["stats", "orders", "--url", "memory://?private=maybe"], 1, "option 'private' of memory://"),
    (["stats", "orders", "--url", "amqp://localhost:http/"], 1, "the port of host 'localhost' in the URL is no number"),
    (["stats", "orders", "--url", "amqp://localhost:70000/"], 1, "expected 1 to 65535"),
    (["stats", "orders", "--url", "localhost:5672"], 1, "a broker URL looks like scheme://host:port"),
    (["capabilities", "localhost"], 1, "a broker URL looks like scheme://host:port"),
    (["verify", "rabbit://localhost"], 1, "no adapter for scheme 'rabbit'"),
    (["seek", "orders", "--to", "earliest", "--yes"], 1, "seek on memory: "),
    (["seek", "orders", "--to", "2026-01-31T08:00", "--yes"], 1, "needs a time zone"),
    (["seek", "orders", "--to", "yesterday", "--yes"], 2, "neither earliest nor now, nor a time"),
    (["seek", "orders", "--to", "now"], 2, "give --yes"),
    (["bench", "publsh_max"], 2, "unknown workload 'publsh_max'; did you mean 'publish_max'?"),
    (["bench", "e2e_low", "--set", "raet=5"], 2, "unknown key 'raet'; did you mean 'rate'?"),
    (["bench", "e2e_low", "--set", "size=0"], 2, "workload e2e_low: Expected `int` >= 34 - at `$.size`"),
    (["bench", "e2e_low", "--on", "rabbit"], 2, "a broker is a URL, or one of memory, rabbitmq, kafka, sqs"),
    (["bench", "e2e_low", "--on", "memory", "--rows", "pika-selct"], 2, "did you mean 'pika-select'?"),
    (["bench", "e2e_low", "--on", "memory", "--rows", "pika-select"], 2, "speaks to none of memory"),
    (["bench", "cost", "--on", "memory"], 2, "cost is made of what other workloads count"),
    (["bench", "plan", "--rate", "0", "--size", "100", "--backend", "kafka"], 2, "a rate is more than 0"),
    (
        ["bench", "plan", "--rate", "1e6", "--size", "0", "--backend", "kafka"],
        2,
        "a message for kafka has 1 to 1048576",
    ),
    (["bench", "plan", "--rate", "1e6", "--size", "9", "--backend", "redis"], 2, "a plan is for kafka, rabbitmq, sqs"),
    (["cost", "--rate", "-1", "--size", "100"], 1, "a rate is at least 0 messages per second, not -1"),
    (["cost", "--rate", "many", "--size", "100"], 2, "many"),
    (["cost", "--rate", "1", "--size", "9000000"], 1, "SQS takes 1048576 bytes"),
    (["cost", "--rate", "1", "--size", "9", "--consumers", "0"], 1, "there is at least one of consumers, not 0"),
    (["cost", "--rate", "1", "--size", "9", "--backend", "memory"], 2, "memory:// bills no requests; what machines"),
    (["cost", "--rate", "1", "--size", "9", "--backend", "sqqs"], 1, "did you mean 'sqs'?"),
    (["cost", "--rate", "1", "--size", "9", "--url", "sqs://?wait=60"], 1, "option 'wait' of sqs://"),
    (["cost", "--rate", "1", "--size", "9", "--prices", "/no/such/prices.toml"], 2, "cannot be read"),
    (["bench", "article_table", "--on", "memory"], 2, "is for rabbitmq, kafka, sqs, not for memory"),
    (["bench", "e2e_low", "--on", "rabbit://localhost"], 1, "no adapter for scheme 'rabbit'"),
    (["bench", "e2e_low", "--out", "/no/such/folder/result.json"], 2, "the result cannot be written to"),
    (["bench", "e2e_low", "--html", "/no/such/folder/page.html"], 2, "--html: /no/such/folder/page.html cannot be"),
    (["bench", "e2e_low", "--foreign", "0"], 2, "must be more than 0 cores"),
    (["send", "my orders", "x"], 1, "queue name 'my orders': only letters, digits, '-' and '_'"),
    (["send", "a--b", "x", "--topic"], 1, "'--' is reserved between topic and subscription"),
    (["send", "a--b", "x"], 1, "is the queue of a subscription"),
    (["receive", "q" * 81], 1, "has 81 characters; at most 80"),
    (["receive", "events", "--subscription", "a b"], 1, "subscription name 'a b'"),
    (["receive", "orders", "--timeout", "-1"], 1, "--timeout must be at least 0 seconds, not -1.0"),
    (["receive", "orders", "--timeout", "nan"], 1, "--timeout must be at least 0 seconds, not nan"),
    (["receive", "orders", "--max", "0"], 1, "--max must be a whole number of at least 1, not 0"),
    (["send", "orders", "x", "--timeout", "0"], 1, "--timeout must be more than 0 seconds"),
    (["send", "orders", "x", "--ttl", "-1"], 1, "ttl must be more than 0 seconds, not -1.0"),
    (["send", "orders", "x", "--delay", "-1"], 1, "delay must be at least 0 seconds, not -1.0"),
    (["send", "orders", "x", "--header", "unimq-id=1"], 1, "names that begin with 'unimq-' are reserved"),
    (["declare", "orders", "--ttl", "0"], 1, "ttl must be more than 0 seconds"),
    (["declare", "orders", "--max-length", "0"], 1, "max_length must be a whole number of at least 1"),
    (["stats", "orders"], 1, "queue 'orders' does not exist on memory://"),
    (["check", "--broker", "here", "--on", "memory://"], 2, "give one of them"),
    (["redrive", "orders", "--limit", "0"], 1, "limit must be a whole number of at least 1, not 0"),
    (["top", "orders", "--interval", "0"], 1, "--interval must be more than 0 seconds, not 0.0"),
    (["top", "orders", "--times", "0"], 1, "--times must be a whole number of at least 1, not 0"),
    (["top", "orders", "--metrics", "ftp://there", "--times", "1"], 1, "--metrics is the address of an exporter"),
    (["plan", "/no/such/file"], 1, "/no/such/file: cannot be read: No such file or directory"),
    (["apply", "/no/such/file"], 1, "/no/such/file: cannot be read: No such file or directory"),
    (["send", "orders", "x", "--header", "colour"], 2, "--header 'colour': expected NAME=VALUE"),
    (["send", "orders", "x", "--header", "a=1", "--header", "a=2"], 2, "--header 'a' is given twice"),
    (["send", "orders", "x", "--file", "y"], 2, "a BODY is one message"),
    (["send", "orders", "x", "--lines"], 2, "a BODY is one message"),
    (["send", "orders", "--file", "/no/such/file"], 2, "--file '/no/such/file': No such file or directory"),
    (["send", "orders", "--file", "/"], 2, "--file '/': Is a directory"),
    (["send", "orders", "--lines", "--file", "/"], 2, "--file '/': Is a directory"),
    (["declare", "events", "--topic", "--ttl", "3"], 2, "--ttl is a policy of queues and subscriptions, not of topics"),
    (["declare", "orders", "--ordering", "fifo"], 2, 'Choose from: "none", "key"'),
    (["receive", "orders", "--timeout", "soon"], 2, 'unable to convert "soon" into float'),
    (["receive", "orders", "--timeout"], 2, "--timeout requires an argument"),
    (["receive"], 2, "SOURCE"),
    (["stats"], 2, "name at least one"),
    (["send", "orders", "x", "y"], 2, "Unused Tokens: ['y']"),
    (["send", "orders", "x", "--hedaer", "a=b"], 2, "Did you mean --header?"),
    (["sned", "orders", "x"], 2, 'Did you mean "send"?'),
    (["up", "activemq"], 2, 'Choose from: "rabbitmq", "kafka", "sqs"'),
    (["up", "kafka", "--flavour", "elasticmq"], 2, "kafka has no flavour 'elasticmq'; it has: mock"),
    (["up", "rabbitmq", "--flavour", "mock"], 2, "flavour is an option of kafka and sqs, not of rabbitmq"),
    (["up", "sqs", "--flavour", "moto"], 2, "ministack"),
    (["up", "rabbitmq", "--generation", "2"], 2, "newest"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), CASES, ids=[" ".join(case[0])[:60] for case in CASES])
def test_wrong_use_is_told_in_one_line(command: Command, arguments: list[str], code: int, text: str) -> None:
    result = command(*arguments)
    assert (result.code, result.out) == (code, b"")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert text in result.err


@pytest.mark.parametrize("name", ["send", "receive", "stats", "purge", "declare", "delete", "capabilities", "verify"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_url_is_asked_for(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    monkeypatch.delenv("UNIMQ_URL")
    if value is not None:
        monkeypatch.setenv("UNIMQ_URL", value)
    given = {"send": ["orders", "x"], "purge": ["orders", "--yes"], "delete": ["orders", "--yes"]}
    result = command(name, *given.get(name, [] if name in {"capabilities", "verify"} else ["orders"]))
    assert result.code == 1
    assert result.err.startswith("error: no broker URL: ")
    assert "set UNIMQ_URL" in result.err


LEAKS = [
    # The URL where it belongs, with every kind of fault; {} is the password.
    ["stats", "orders", "--url", "amqp://user:{}@localhost:http/"],
    ["stats", "orders", "--url", "amqp://user:{}@localhost:0/"],
    ["stats", "orders", "--url", "amqp://user:{}@:5672/"],
    ["stats", "orders", "--url", "amqp://user:{}/"],
    ["stats", "orders", "--url", "rabbit://user:{}@localhost/"],
    ["stats", "orders", "--url", "memory://user:{}@name"],
    ["stats", "orders", "--url", "memory://name?password={}"],
    ["stats", "orders", "--url", "memory://name?private={}"],
    ["capabilities", "memory://user:{}@name"],
    ["verify", "memory://user:{}@name"],
    ["bench", "e2e_low", "--on", "amqp://user:{}@localhost:http/"],
    ["bench", "e2e_low", "--on", "user:{}@localhost"],
    # The URL where it does not belong.
    ["send", "orders", "x", "amqp://user:{}@localhost/"],
    ["send", "orders", "x", "--ulr", "amqp://user:{}@localhost/"],
    ["send", "orders", "x", "--ulr=amqp://user:{}@localhost/"],
    ["receive", "orders", "--max", "amqp://user:{}@localhost/"],
    ["receive", "orders", "--timeout=amqp://user:{}@localhost/"],
    ["up", "amqp://user:{}@localhost/"],
    ["amqp://user:{}@localhost/", "send"],
    ["declare", "orders", "--ordering", "amqp://user:{}@localhost/"],
]


@pytest.mark.parametrize("arguments", LEAKS, ids=" ".join)
@pytest.mark.parametrize("password", [QUOTED, "s3cret", "s3cret'\"p", "s3cret w", "s3cret@x"])
def test_a_password_is_never_shown(command: Command, arguments: list[str], password: str) -> None:
    result = command(*(argument.format(password) for argument in arguments))
    assert result.code in {1, 2}
    assert result.err.startswith("error: ")
    assert "s3cret" not in result.err + result.out.decode()


def test_a_url_in_the_environment_is_no_less_secret(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("amqp://user:{}@h:p/", "memory://user:{}@name", "memory://?x={}"):
        monkeypatch.setenv("UNIMQ_URL", broken.format(QUOTED))
        result = command("stats", "orders")
        assert result.code == 1
        assert "s3cret" not in result.err


def test_a_message_that_is_too_large_is_refused(command: Command, url: str) -> None:
    result = command("send", "orders", "0123456789", "--url", f"{url}?max_message_bytes=9")
    assert (result.code, result.out) == (1, b"")
    assert result.err == "error: 10 bytes with key and headers; memory:// takes 9\n"


def test_what_is_wrong_with_a_message_is_told_before_a_queue_is_made(command: Command, broker: unimq.Broker) -> None:
    assert command("send", "orders", "x", "--ttl", "-1").code == 1
    assert command("send", "orders", "--file", "/no/such/file").code == 2
    assert command("receive", "orders", "--max", "0").code == 1
    with pytest.raises(unimq.NotFound):
        broker.stats("orders")


def test_the_pip_line_where_the_extra_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith(("unimq._cli.", "cyclopts"))]:
        if module != "unimq._cli._output":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "cyclopts", None)
    result = command("send", "orders", "x")
    assert result.code == 1
    assert result.err == ("error: the command line needs cyclopts, which is not installed: pip install 'unimq[cli]'\n")


@pytest.mark.parametrize("name", ["stats", "capabilities"])
def test_the_same_where_only_tables_need_it(
    command: Command, broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    broker.declare("orders")
    for module in [module for module in sys.modules if module.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "rich", None)
    result = command(name, *(["orders"] if name == "stats" else []))
    assert result.code == 1
    assert "pip install 'unimq[cli]'" in result.err


def test_the_pip_line_where_the_suite_cannot_run(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pytest", None)
        result = command("verify", "memory://")
    assert result.code == 1
    assert result.err.endswith("needs pytest, which is not installed: pip install 'unimq[cli,test]'\n")


def test_errors_of_our_own_are_not_hidden(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug must show where it is: only what unimq and the broker say is told in one line."""

    def stats(*_: object) -> float:
        return 1 / 0

    monkeypatch.setattr(unimq.Broker, "stats", stats)
    with pytest.raises(ZeroDivisionError):
        command("stats", "orders")


def test_the_reason_of_a_failed_close_is_told_as_well(
    command: Command, broker: unimq.Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def close(*_: object) -> None:
        raise unimq.ConnectionLost("the broker went away")

    with monkeypatch.context() as broken:
        broken.setattr(unimq.Broker, "close", close)
        result = command("stats", "orders")
    assert result.err.startswith("error: queue 'orders' does not exist")
    assert result.err.endswith("; while closing: ConnectionLost: the broker went away\n")


def test_the_table_covers_every_command() -> None:
    from unimq._cli._commands import app

    commands = {name for name in app if not name.startswith("-")}
    assert commands - {case[0][0] for case in CASES} - {"purge", "delete"} == set()
