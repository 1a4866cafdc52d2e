"""The provider that judges; here in this process, where it can be looked at."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import httpx
import pytest

from mahsm.testing import Provider
from mahsm.testing._loopback_provider import _Judge
from mahsm.testing._loopback_provider import judge as judge_process


def judge_of(**options: Any) -> _Judge:
    return _Judge({name: value for name, value in asdict(Provider(**options)).items() if name != "base_url"})


def post(judge: _Judge) -> httpx.Response:
    return httpx.post(
        f"{judge.server.base_url}/chat/completions", json={"model": "m", "messages": [{"content": "x" * 400}]}
    )


def test_a_provider_refuses_what_is_beyond_its_rate() -> None:
    judge = judge_of(rps=0.001, burst=2)
    with judge.server:
        answers = [post(judge) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert float(answers[-1].headers["retry-after"]) == pytest.approx(1000, rel=0.01)
    report = judge.report()
    assert (report["calls"], report["statuses"], report["most_at_once"]) == (3, {200: 2, 429: 1}, 1)
    assert next(began for began, _ in report["admitted"]) == 0


def test_a_provider_counts_tokens() -> None:
    judge = judge_of(tpm=0.06, token_burst=250, retry_after=False)
    with judge.server:
        answers = [post(judge) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "retry-after" not in answers[-1].headers
    usage = answers[0].json()["usage"]
    assert judge.report()["tokens"] == 2 * usage["total_tokens"] > 200


def test_a_provider_takes_so_many_at_once() -> None:
    def statuses(latency: float) -> list[int]:
        judge = judge_of(at_once=1, latency=latency)
        with judge.server, ThreadPoolExecutor(2) as pool:
            return sorted(answer.status_code for answer in pool.map(lambda _: post(judge), range(2)))

    # On a busy machine the second one may come after the first one's answer.
    assert any(statuses(latency) == [200, 429] for latency in (0.2, 2, 20))


def test_a_provider_fails_and_refuses_its_shares() -> None:
    judge = judge_of(failures=0.5, refusals=0.5)
    with judge.server:
        statuses = [post(judge).status_code for _ in range(20)]
    assert set(statuses) == {429, 503}
    assert judge.report()["tokens"] == 0


def test_a_provider_talks_over_its_pipes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {name: value for name, value in asdict(Provider()).items() if name != "base_url"}
    monkeypatch.setattr("sys.stdin", io.StringIO("report\n"))
    judge_process(json.dumps(options))
    base_url, report = capsys.readouterr().out.splitlines()
    assert base_url.startswith("http://127.0.0.1:")
    assert json.loads(report)["calls"] == 0


@pytest.mark.parametrize(
    ("options", "message"), [({"rps": 0}, "rps=0; expected a number > 0"), ({"failures": 2}, "failures=2")]
)
def test_a_provider_that_cannot_be(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Provider(**options)
