"""Workload files are checked before anything is measured, and errors name what would be right."""

from pathlib import Path

import pytest
from unimq_bench import workloads
from unimq_bench.workloads import PROFILES, BadWorkload

SHEET = {
    "calibrate", "publish_max", "consume_max", "e2e_low", "rate_sweep", "max_sustainable", "size_sweep", "window_sweep",
    "fan", "backlog", "stall", "fault", "redeliver", "overhead", "peers", "article_table", "cost",
}  # fmt: skip


def test_every_workload_is_there_and_sound() -> None:
    assert set(workloads.names()) == SHEET
    for name in workloads.names():
        workload = workloads.load(name)
        assert workload.title
        for backend in ("memory", "rabbitmq", "kafka", "sqs", "other"):
            for profile in PROFILES:
                workload.parameters_for(backend, profile)


def test_what_is_nearer_overrides_what_is_farther() -> None:
    workload = workloads.parsed(
        "mine",
        'kind = "stream"\ntitle = "t"\n[parameters]\nrate = 1\nsize = 100\nseconds = 9\nwindow = 5\n'
        "[on.sqs]\nrate = 2\nsize = 200\nseconds = 8\n[profiles.smoke]\nrate = 3\nseconds = 7\n",
    )
    found = workload.parameters_for("sqs", "smoke", {"rate": 4.0})
    assert (found.rate, found.seconds, found.size, found.window) == (4.0, 7, 200, 5)
    assert workload.parameters_for("kafka", "standard").rate == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind = ", "no TOML"),
        ('kind = "stream"', "title"),
        ('kind = "steam"\ntitle = "t"', "steam"),
        ('kind = "stream"\ntitel = "t"', "unknown key 'titel'; did you mean 'title'"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nraet = 5', "unknown key 'raet'; did you mean 'rate'"),
        ('kind = "stream"\ntitle = "t"\n[on.sqs]\nwindwo = 5', "unknown key 'windwo'; did you mean 'window'"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nsize = 0', "size"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nsize = 33', "size"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nrate = -1', "rate"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nseconds = 1e9', "seconds"),
        ('kind = "stream"\ntitle = "t"\n[parameters]\nwindow = 1.5', "window"),
        ('kind = "stream"\ntitle = "t"\n[profiles.smokey]\nwindow = 1', "did you mean 'smoke'"),
        ('kind = "stream"\ntitle = "t"\n[profiles.smoke]\nwindow = 0', "window"),
    ],
)
def test_a_wrong_file_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(BadWorkload, match=reason):
        workloads.parsed("mine", text)


def test_an_unknown_workload_is_told_the_nearest() -> None:
    with pytest.raises(BadWorkload, match="did you mean 'publish_max'"):
        workloads.load("publsh_max")
    with pytest.raises(BadWorkload, match="there are: calibrate"):
        workloads.load("zzz")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('kind = "stream"\ntitle = "mine"\n')
    assert workloads.load(str(file)).name == "mine"
    with pytest.raises(BadWorkload, match="cannot be read"):
        workloads.load(str(tmp_path / "other.toml"))


def test_settings_from_the_command_line() -> None:
    found = workloads.settings_of(("rate=5", "sizes=[100, 200]", "content=compressible", 'contents=["random"]'))
    assert found == {"rate": 5, "sizes": [100, 200], "content": "compressible", "contents": ["random"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("rate", "expected KEY=VALUE"), ("raet=5", "did you mean 'rate'"), ("rate=fast", "no TOML value")],
)
def test_wrong_settings(text: str, reason: str) -> None:
    with pytest.raises(BadWorkload, match=reason):
        workloads.settings_of((text,))
