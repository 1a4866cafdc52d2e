"""Routers that learn online: mean reward beside other libraries and the best fixed arm, batches, drift, time
of a decision, intervals of estimates, votes that stop early, and cascades of models.

An arm is a class or a model; the reward is 1 for the right class, or the quality of the model's answer minus
its price. All libraries have the same exploration for all sets. Means are of ten seeds, with 95 % intervals.
"""

import math
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import sklearn.datasets
from sklearn.preprocessing import StandardScaler

from benchmarks import report
from benchmarks.report import Figure
from mahsm.learn import FewEffectiveSamples, Router, cascade, confident, evaluate, thresholds
from mahsm.learn.logs import Logged
from mahsm.reducers import majority_vote

Rows = list[list[str]]
Data = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Features, the reward of each arm, and its mean."""
SETS = {"routing": 0.72, "digits": 0.69, "wine": 0.97, "cancer": 0.96}
_LOADERS: dict[str, Any] = {
    "digits": sklearn.datasets.load_digits,
    "wine": sklearn.datasets.load_wine,
    "cancer": sklearn.datasets.load_breast_cancer,
}


def routing(seed: int, rows: int) -> Data:
    """Four models of rising price and quality, whose answers are right with a logistic probability."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 16))
    skills = rng.normal(size=(4, 16)) * np.array([1.0, 0.8, 0.6, 0.3])[:, None]
    right = 1 / (1 + np.exp(-(x @ skills.T + np.array([-0.8, 0.0, 0.8, 2.0]))))
    prices = np.array([0.0, 0.05, 0.15, 0.35])
    return x, (rng.random((rows, 4)) < right) - prices, right - prices


def data(name: str, seed: int, rows: int) -> Data:
    if name == "routing":
        return routing(seed, rows)
    x, y = _loaded(name)
    rng = np.random.default_rng(seed)
    rows = min(rows, len(y)) if name == "digits" else rows
    picked = rng.integers(0, len(y), rows) if len(y) < rows else rng.permutation(len(y))[:rows]
    rewards = np.eye(y.max() + 1)[y[picked]]
    return x[picked], rewards, rewards


@cache
def _loaded(name: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = _LOADERS[name](return_X_y=True)
    return StandardScaler().fit_transform(x), y


Step = tuple[Callable[[np.ndarray], Any], Callable[[Any, float], int]]


def by_router(arms: int, dims: int, seed: int, **options: Any) -> Step:
    names = [str(arm) for arm in range(arms)]
    router = Router(names, dims=dims, seed=seed, **options)

    def learn(choice: Any, reward: float) -> int:
        router.reward(choice.id, reward)
        return int(choice.arm)

    return router.route, learn


def by_mabwiser(arms: int, dims: int, seed: int) -> Step:
    from mabwiser.mab import MAB, LearningPolicy

    bandit = MAB([*range(arms)], LearningPolicy.LinUCB(alpha=0.5), seed=seed)
    # It has to be fitted before its first decision.
    bandit.fit([*range(arms)], [0.0] * arms, np.zeros((arms, dims)))

    def learn(choice: Any, reward: float) -> int:
        arm, x = choice
        bandit.partial_fit([arm], [reward], x[None])
        return arm

    return lambda x: (bandit.predict(x[None]), x), learn


def by_vowpal(arms: int, dims: int, seed: int) -> Step:
    import vowpalwabbit

    space = vowpalwabbit.Workspace(f"--cb_explore {arms} --quiet --squarecb")
    rng = np.random.default_rng(seed)

    def choose(x: np.ndarray) -> tuple[int, float, str]:
        text = "| " + " ".join(f"f{place}:{value:.5g}" for place, value in enumerate(x) if value)
        shares = np.array(space.predict(text))
        arm = int(rng.choice(arms, p=shares / shares.sum()))
        return arm, shares[arm], text

    def learn(choice: Any, reward: float) -> int:
        arm, share, text = choice
        space.learn(f"{arm + 1}:{-reward:.5g}:{share:.5g} {text}")
        return arm

    return choose, learn


LIBRARIES: dict[str, tuple[Callable[..., Step], str]] = {
    "mabwiser, LinUCB": (by_mabwiser, "mabwiser"),
    "vowpalwabbit, SquareCB": (by_vowpal, "vowpalwabbit"),
}


def online(step: Step, found: Data) -> float:
    """The mean of the expected rewards, a reward after each choice."""
    (choose, learn), (x, rewards, means), total = step, found, 0.0
    for row in range(len(x)):
        choice = choose(x[row])
        arm = choice.arm if hasattr(choice, "arm") else choice[0]
        learn(choice, float(rewards[row, int(arm)]))
        total += means[row, int(arm)]
    return total / len(x)


def interval(values: list[float]) -> str:
    half = 1.96 * np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {half:.3f}"


def installed(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def rewards(seeds: int, rows: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    makers: dict[str, Callable[..., Step]] = {
        "Router, LinUCB": by_router,
        "Router, Thompson": lambda *given: by_router(*given, head="thompson"),
        **{name: make for name, (make, module) in LIBRARIES.items() if installed(module)},
    }
    found: dict[str, dict[str, list[float]]] = {name: {} for name in (*makers, "best fixed arm", "oracle")}
    for name in SETS:
        for seed in range(seeds):
            these = data(name, seed, rows)
            x, gains, means = these
            for maker, make in makers.items():
                mean = online(make(gains.shape[1], x.shape[1], seed), these)
                found[maker].setdefault(name, []).append(mean)
            found["best fixed arm"].setdefault(name, []).append(float(means.mean(axis=0).max()))
            found["oracle"].setdefault(name, []).append(float(means.max(axis=1).mean()))
    table = [["mean reward", *SETS]]
    table += [[name, *(interval(each[of]) for of in SETS)] for name, each in found.items()]
    own = found["Router, LinUCB"]
    figures = [
        Figure(f"mean reward, {name}", float(np.mean(own[name])), asked, "", at_least=True)
        for name, asked in SETS.items()
    ]
    return figures, table, found


def batches(seeds: int, rows: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Rewards that arrive after a whole batch of choices."""
    sizes = (1, 64, 512)
    found: dict[str, dict[str, list[float]]] = {}
    for head in ("linucb", "thompson"):
        for size in sizes:
            means = [_batched(seed, rows, size, head) for seed in range(seeds)]
            found.setdefault(head, {})[str(size)] = means
    table = [["routing, mean reward with batches of", *map(str, sizes)]]
    table += [[name, *(interval(values) for values in by_size.values())] for name, by_size in found.items()]
    mean = float(np.mean(found["thompson"]["512"]))
    return [Figure("mean reward, batches of 512, Thompson", mean, 0.69, "", at_least=True)], table, found


def _batched(seed: int, rows: int, size: int, head: Any) -> float:
    x, gains, means = routing(seed, rows)
    router, total = Router(list("0123"), dims=16, seed=seed, head=head), 0.0
    for at in range(0, rows, size):
        for row, choice in enumerate(router.route_all(x[at : at + size]), at):
            total += means[row, int(choice.arm)]
            router.reward(choice.id, gains[row, int(choice.arm)])
    return total / rows


def drift(seeds: int, rows: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """The models change places half-way."""
    swapped = [3, 2, 1, 0]
    after = min(1000, rows)
    found: dict[str, dict[str, list[float]]] = {}
    for forget in (1.0, 0.998):
        here = found.setdefault(f"forget={forget:g}", {"next": [], "last": []})
        for seed in range(seeds):
            x, gains, means = routing(seed, 2 * rows)
            gains[rows:], means[rows:] = gains[rows:, swapped], means[rows:, swapped]
            router, got = Router(list("0123"), dims=16, seed=seed, forget=forget), []
            for row in range(2 * rows):
                choice = router.route(x[row])
                got.append(means[row, int(choice.arm)])
                router.reward(choice.id, gains[row, int(choice.arm)])
            here["next"].append(float(np.mean(got[rows : rows + after])))
            here["last"].append(float(np.mean(got[-min(500, rows) :])))
    table = [["routing, mean reward after the change", f"next {after:,}", "last 500"]]
    table += [[name, interval(each["next"]), interval(each["last"])] for name, each in found.items()]
    mean = float(np.mean(found["forget=0.998"]["next"]))
    return [Figure("mean reward, next 1,000 after a change", mean, 0.60, "", at_least=True)], table, found


def times(calls: int) -> tuple[list[Figure], Rows, dict[str, float]]:
    """CPU of a decision and an update, the best of nine rounds."""
    x = np.random.default_rng(0).normal(size=(calls, 16))
    made: dict[str, Step] = {
        "LinUCB": by_router(4, 16, 0),
        "LinUCB, forget=0.998": by_router(4, 16, 0, forget=0.998),
        "Thompson": by_router(4, 16, 0, head="thompson"),
        **{name: make(4, 16, 0) for name, (make, module) in LIBRARIES.items() if installed(module)},
    }
    found = dict.fromkeys(made, math.inf)
    for _ in range(9):
        for name, (choose, learn) in made.items():
            began = time.process_time()
            for each in x:
                learn(choose(each), 0.5)
            found[name] = min(found[name], (time.process_time() - began) / calls * 1e6)
    rows = [["a decision and an update, 4 arms, 16 features", "CPU us"]]
    rows += [[name, f"{us:.1f}"] for name, us in found.items()]
    figures = [Figure(f"decision and update, {name}", found[name], 60, "us") for name in [*made][:3]]
    return figures, rows, found


def coverage(draws: int, rows: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """How often the interval of an estimate has the true mean reward of a policy."""
    x, gains, means = routing(0, 40_000)
    shares = np.exp(0.7 * x[:, :4])
    shares = 0.8 * shares / shares.sum(axis=1, keepdims=True) + 0.05
    router = Router(list("0123"), dims=16, seed=0)
    for row in range(2000):
        choice = router.route(x[row])
        router.reward(choice.id, gains[row, int(choice.arm)])
    best = np.array([int(router.best(each)) for each in x])
    truth = float(means[np.arange(2000, len(x)), best[2000:]].mean())
    methods = ("doubly_robust", "ips", "snips", "direct")
    hits, widths = dict.fromkeys(methods, 0), dict.fromkeys(methods, 0.0)
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        log = []
        for row in rng.integers(2000, len(x), rows):
            arm = int(rng.choice(4, p=shares[row]))
            log.append(Logged(x[row], str(arm), float(shares[row, arm]), float(gains[row, arm])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewEffectiveSamples)
            found = evaluate(log, router.best)
        for method in methods:
            estimate = getattr(found, method)
            hits[method] += estimate.low <= truth <= estimate.high
            widths[method] += (estimate.high - estimate.low) / 2 / draws
    covered = {method: hits[method] / draws for method in methods}
    table = [[f"95 % intervals of {rows:,} rows, {draws} draws", "cover the truth", "half width"]]
    table += [[name.replace("_", " "), f"{covered[name]:.3f}", f"{widths[name]:.3f}"] for name in methods]
    robust = covered["doubly_robust"]
    figures = [
        Figure("share of doubly robust intervals with the truth", robust, 0.90, "", at_least=True),
        Figure("share of doubly robust intervals with the truth, at most", robust, 0.98, ""),
    ]
    return figures, table, {"covered": covered, "half widths": widths}


def halting(votes: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """Votes of up to 15 samples with four answers, of which one is right with probability p."""
    reducers: dict[str, Any] = {
        "all": None,
        "lead that cannot be overtaken": confident(1 - 1e-12),
        "confident(0.95)": confident(0.95),
        "confident(0.99)": confident(0.99),
    }
    found: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in reducers}
    for p in (0.5, 0.7, 0.9):
        rng = np.random.default_rng(0)
        samples = rng.choice(4, p=[p, *[(1 - p) / 3] * 3], size=(votes, 15))
        for name, reducer in reducers.items():
            ended = [_vote(reducer, row) for row in samples.tolist()]
            right = sum(answer == 0 for answer, _ in ended) / votes
            found[name][f"{p:g}"] = right, sum(used for _, used in ended) / votes
    table = [["votes of 15, right and samples, at p =", "0.5", "0.7", "0.9"]]
    table += [
        [name, *(f"{right:.3f}, {used:.1f}" for right, used in each.values())] for name, each in found.items()
    ]
    right, used = found["confident(0.95)"]["0.9"]
    by_lead = found["lead that cannot be overtaken"]["0.9"][0]
    figures = [
        Figure("samples of a vote at p = 0.9, confident(0.95)", used, 5.8, "samples"),
        Figure("its share of right votes, less that of the lead", right - by_lead, -0.002, "", at_least=True),
    ]
    return figures, table, found


def _vote(reducer: Any, samples: list[int]) -> tuple[int, int]:
    if reducer is None:
        return majority_vote(samples), len(samples)
    state = reducer.init(len(samples))
    for used, sample in enumerate(samples, 1):
        state = reducer.add(state, sample)
        if reducer.decided(state):
            return reducer.result(state), used
    return reducer.result(state), len(samples)


PRICES = {"cheap": 1.0, "strong": 10.0}


def cascades(seeds: int, rows: int) -> tuple[list[Figure], Rows, dict[str, Any]]:
    """A cheap model that is good at easy questions, a score that says roughly which these are, and a strong
    one that is right in 0.95 of all.

    The thresholds are found in a log of as many questions, for the accuracy of the strong model times an aim;
    costs and accuracies are those on other questions.
    """
    found: dict[str, dict[str, list[float]]] = {}
    prices = np.array(list(PRICES.values()))
    for aim in (0.98, 0.99, 1.0):
        each = found.setdefault(f"cascade, tuned for {aim:g} of the accuracy", {"cost": [], "right": []})
        for seed in range(seeds):
            (scores, right), held_out = (_asked(2 * seed + part, rows) for part in (0, 1))
            tuned = thresholds(scores, right, prices.tolist(), quality=aim * float(right[:, 1].mean()))
            cost, good = _of_cascade(tuned.thresholds, *held_out)
            each["cost"].append(cost / float(prices[1]))
            each["right"].append(good / float(held_out[1][:, 1].mean()))
    table = [["of the strong model's, on held-out questions", "cost", "accuracy"]]
    table += [[name, interval(each["cost"]), interval(each["right"])] for name, each in found.items()]
    means = {of: float(np.mean(values)) for of, values in list(found.values())[1].items()}
    figures = [
        Figure("cost of a cascade tuned for 0.99, of the strong model's", means["cost"], 0.5),
        Figure("its accuracy, of the strong model's", means["right"], 0.98, at_least=True),
    ]
    return figures, table, found


def _asked(seed: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the cheap answers, and which answers are right, of shapes (rows, 1) and (rows, 2)."""
    rng = np.random.default_rng(seed)
    hard = rng.random(rows)
    cheap = rng.random(rows) < np.where(hard < 0.65, 0.98, 0.3)
    right = np.column_stack([cheap, rng.random(rows) < 0.95])
    return (1 - hard + 0.05 * rng.standard_normal(rows))[:, None], right


def _of_cascade(least: list[float], scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """The mean price and the share of right answers. The edge itself, which takes longer, is asked some."""
    is_last = scores[:, 0] < least[0]
    cost = np.where(is_last, sum(PRICES.values()), PRICES["cheap"])
    good = np.where(is_last, right[:, 1], right[:, 0])
    edge = cascade(
        {name: _answers(place, right) for place, name in enumerate(PRICES)},
        accept=lambda state: float(scores[state["question"], 0]),
        threshold=least,
    )
    for number in range(min(50, len(scores))):
        run = edge.invoke({"question": number})
        asked = sum(PRICES[name] for name in run["choice"]["asked"])
        assert (asked, run["right"]) == (cost[number], good[number])
    return float(cost.mean()), float(good.mean())


def _answers(place: int, right: np.ndarray) -> Callable[[Any], Any]:
    return lambda state: {"right": bool(right[state["question"], place])}


def main(*, quick: bool, part: str | None = None) -> int:
    seeds, rows = (1, 60) if quick else (10, 3000)
    parts: dict[str, report.Part] = {
        "rewards": lambda: rewards(seeds, rows),
        "batches": lambda: batches(seeds, rows),
        "drift": lambda: drift(seeds, rows),
        "times": lambda: times(50 if quick else 3000),
        "coverage": lambda: coverage(*((2, 40) if quick else (200, 1000))),
        "halting": lambda: halting(20 if quick else 4000),
        "cascades": lambda: cascades(seeds, 60 if quick else 2000),
    }
    if part is not None:
        return report.show_part(parts, part)
    return report.run("learn", parts, quick=quick)
