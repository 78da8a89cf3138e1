from ssd.training import profile
from ssd.training.profile import SKIPPED, Profile


def steps(count: int, wanted: int, folder) -> Profile:
    tracing = Profile(folder, wanted)
    for _ in range(count):
        tracing.before_step()
        tracing.after_step(lambda: None)
    return tracing


def test_a_trace_of_steps_is_written(tmp_path):
    steps(SKIPPED + 2, 2, tmp_path / "profile").check()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_exactly_the_wanted_steps_are_traced(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(profile, "_start", lambda folder: events.append("start"))
    monkeypatch.setattr(profile, "_stop", lambda: events.append("stop"))
    tracing = Profile(tmp_path, 3)
    for number in range(SKIPPED + 6):
        tracing.before_step()
        events.append(number)
        tracing.after_step(lambda: None)
    first = events.index("start")
    assert events[first : first + 5] == ["start", SKIPPED, SKIPPED + 1, SKIPPED + 2, "stop"]
    assert events.count("start") == events.count("stop") == 1


def test_a_run_that_is_too_short_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ssd.console.log.propagate", True)
    tracing = steps(SKIPPED - 1, 2, tmp_path / "profile")
    tracing.close()
    tracing.check()
    assert "ended within its first" in caplog.text
    assert not (tmp_path / "profile").exists()
    caplog.clear()
    Profile(tmp_path, 0).check()
    assert not caplog.text
