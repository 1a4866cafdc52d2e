"""Contexts: what a block sets, who sees it, and what a handle holds."""

import asyncio
import copy
import threading
from contextvars import copy_context
from typing import Any

import pytest

from mahsm.context import Context, create_context, get_config, get_context, set_config, with_context
from mahsm.errors import ContextError


def in_thread(function: Any) -> Any:
    """Run a function in a thread of its own, which inherits nothing."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_a_child_context_wins_in_its_block() -> None:
    with create_context(models={"default": "gpt-4"}) as child:
        assert child.get_config("models.default") == "gpt-4"
        assert get_config("models.default") == "gpt-4"
        assert get_context() == child
    assert get_config("models.default", "none") == "none"


def test_blocks_are_laid_over_each_other() -> None:
    with create_context(models={"default": "gpt-4", "temperature": 0.1}):
        with with_context(models={"temperature": 0.9}) as inner:
            assert inner.get_config("models") == {"default": "gpt-4", "temperature": 0.9}
        assert get_config("models.temperature") == 0.1


def test_set_config_holds_for_the_current_context() -> None:
    context = get_context()
    assert context.get_config("models.default", "x") == "x"
    context.set_config("models.temperature", 0.7)
    assert get_config("models.temperature") == 0.7
    with with_context():
        set_config("models.temperature", 0.2)
        assert get_config("models.temperature") == 0.2
    assert get_config("models.temperature") == 0.7


@pytest.mark.parametrize("key", ["", None, ".", "a..b", "a.", 3])
def test_keys_that_are_empty_give_the_default(key: Any) -> None:
    with create_context(a={"b": 1}):
        assert get_config(key, "default") == "default"
        with pytest.raises(ContextError, match=r"expected a dotted name, such as 'models\.default'"):
            set_config(key, 1)


def test_none_hides_what_is_further_out() -> None:
    outer = create_context(models={"default": "gpt-4"}, search={"depth": 2})
    with outer, with_context(models={"default": None}, search=None):
        assert get_config("models.default", "none") == "none"
        assert get_config("models") == {}
        assert get_config("search.depth", "none") == "none"


def test_a_key_below_a_value_is_not_set() -> None:
    with create_context(search=3):
        assert get_config("search.depth", "none") == "none"


def test_containers_are_copied_at_the_border() -> None:
    lists = [1, {"a": [2]}]
    with create_context(mine={"lists": lists, "pair": (1, [2]), "set": {3}}) as parent:
        lists.append("later")
        got = get_config("mine")
        got["lists"][1]["a"].append(3)
        got["pair"][1].append(3)
        got["set"].add(4)
        assert get_config("mine") == {"lists": [1, {"a": [2]}], "pair": (1, [2]), "set": {3}}
        assert get_config("mine.lists") is not get_config("mine.lists")
        with create_context() as child:
            child.get_config("mine.lists").append(9)
            child.set_config("mine.lists", [])
        assert parent.get_config("mine.lists") == [1, {"a": [2]}]


def test_other_objects_are_kept_as_they_are() -> None:
    lock = threading.Lock()
    with create_context(mine={"lock": lock}):
        assert get_config("mine.lock") is lock


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(ContextError, match="deeper than 32 levels, or contains itself"):
        create_context(mine=loop)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"models": "gpt-4"}, r"models has a value of type 'str'; expected a mapping, such as {'default'"),
        ({"credentials": ["sk-secret-1"]}, "credentials has a value of type 'list'; expected a string"),
        ({"credentials": {"openai_api_key": 1234567}}, "openai_api_key has a value of type 'int'; expected"),
        ({"providers": {"openai": "sk-secret-1"}}, r"providers\.openai has a value of type 'str'"),
    ],
)
def test_what_mahsm_reads_is_checked_and_not_shown(overrides: Any, message: str) -> None:
    with pytest.raises(ContextError, match=message) as raised:
        create_context(**overrides)
    assert "sk-secret" not in str(raised.value)
    assert "1234567" not in str(raised.value)


def test_tasks_that_share_a_context_do_not_see_each_others_changes() -> None:
    async def task(context: Context, number: int) -> tuple[Any, Any]:
        context.set_config("mine.number", number)
        await asyncio.sleep(0)
        return context.get_config("mine.number"), get_config("mine.number")

    async def run(context: Context) -> list[tuple[Any, Any]]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(task(context, number)) for number in range(20)]
        return [each.result() for each in tasks]

    with create_context() as context:
        assert asyncio.run(run(context)) == [(number, number) for number in range(20)]
        assert get_config("mine.number") is None


def test_tasks_in_blocks_of_their_own_read_their_own_after_an_await() -> None:
    async def ask(model: str) -> str:
        with create_context(models={"other": model}):
            await asyncio.sleep(0.001)
            return get_context().get_config("models.other")

    async def run() -> list[str]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(model)) for model in "abc"]
        return [each.result() for each in tasks]

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_a_thread_of_your_own_begins_with_environment_and_files() -> None:
    with create_context(mine=1) as context:
        assert in_thread(lambda: get_config("mine", "none")) == "none"
        assert in_thread(lambda: copy_context().run(get_config, "mine", "none")) == "none"
        here = copy_context()
        assert in_thread(lambda: here.run(get_config, "mine")) == 1
        assert in_thread(lambda: context.get_config("mine")) == 1


def test_a_handle_that_is_not_open_changes_only_itself() -> None:
    context = create_context(mine=1)
    context.set_config("mine", 2)
    assert (context.get_config("mine"), get_config("mine")) == (2, None)
    with context:
        assert get_config("mine") == 2


def test_a_handle_that_threads_share_loses_no_change() -> None:
    context = create_context()

    def change(first: int) -> None:
        for number in range(first, first + 200):
            context.set_config(f"mine.n{number}", number)

    threads = [threading.Thread(target=change, args=(first,)) for first in range(0, 1600, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(context.get_config("mine")) == 1600


def test_a_handle_has_after_its_block_what_was_set_in_it() -> None:
    with create_context() as context:
        set_config("mine.a", 1)
        copy_context().run(context.set_config, "mine.b", 2)
        in_thread(lambda: context.set_config("mine.c", 3))
        assert context.get_config("mine") == {"a": 1}
    assert context.get_config("mine") == {"a": 1, "b": 2, "c": 3}
    with context:
        assert get_config("mine.b") == 2


def test_a_change_of_an_outer_context_stays_when_the_inner_block_ends() -> None:
    with create_context() as outer:
        with create_context() as inner:
            outer.set_config("mine", 1)
            assert (inner.get_config("mine"), get_config("mine")) == (None, None)
            assert outer.get_config("mine") == 1
        assert get_config("mine") == 1


def test_a_handle_may_be_entered_again_inside_itself_and_in_other_threads() -> None:
    with create_context(mine=1) as context:
        with context:
            set_config("mine", 2)

            def other() -> Any:
                with context:
                    return get_config("mine")

            assert in_thread(other) == 1
        assert get_config("mine") == 1
    assert context.get_config("mine") == 1


def test_blocks_that_end_out_of_order_leave_nothing_behind() -> None:
    first, second = create_context(mine=1), create_context(mine=2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert get_config("mine") is None
    second.__exit__(None, None, None)
    assert get_config("mine") is None


def test_a_child_keeps_what_its_parent_had() -> None:
    parent = create_context(mine={"a": 1, "b": 1})
    child = parent.create_child(mine={"b": 2})
    parent.set_config("mine.a", 9)
    assert child.get_config("mine") == {"a": 1, "b": 2}
    assert parent.get_config("mine") == {"a": 9, "b": 1}


def test_with_context_decorates_functions() -> None:
    @with_context(mine=1)
    def read() -> Any:
        return get_config("mine")

    assert (read(), read(), get_config("mine")) == (1, 1, None)


def test_handles_are_equal_by_their_layer() -> None:
    assert get_context() == get_context()
    with create_context() as context:
        assert get_context() == context != create_context()
        assert copy.copy(context) == copy.deepcopy(context) == context
    assert context != 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(context)


def test_64_threads_of_64_tasks_see_only_their_own() -> None:
    wrong: list[Any] = []

    async def task(context: Context, mine: tuple[int, int]) -> None:
        with create_context(mine={"who": mine}):
            for turn in range(3):
                set_config("mine.turn", (*mine, turn))
                context.set_config("shared.who", mine)
                await asyncio.sleep(0)
                seen = get_config("mine"), context.get_config("shared.who")
                if seen != ({"who": mine, "turn": (*mine, turn)}, mine):
                    wrong.append((mine, seen))

    async def tasks(thread: int) -> None:
        with create_context(thread=thread) as context:
            async with asyncio.TaskGroup() as group:
                for number in range(64):
                    group.create_task(task(context, (thread, number)))
            if (get_config("thread"), get_config("mine")) != (thread, None):
                wrong.append(thread)

    threads = [threading.Thread(target=asyncio.run, args=(tasks(number),)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("models", [["gpt-4", "gpt-3.5-turbo", "claude-3"]])
def test_tasks_and_threads_have_models_of_their_own(models: list[str]) -> None:
    async def task(model: str) -> str:
        with create_context(models={"default": model}) as context:
            await asyncio.sleep(0)
            return context.get_config("models.default") + get_config("models.default")

    async def tasks() -> list[str]:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(task(model)) for model in models]
        return [each.result() for each in started]

    both = threading.Barrier(len(models))
    found: dict[str, str] = {}

    def thread(model: str) -> None:
        with create_context(models={"default": model}):
            both.wait()
            found[model] = get_config("models.default")

    assert asyncio.run(tasks()) == [model * 2 for model in models]
    threads = [threading.Thread(target=thread, args=(model,)) for model in models]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert found == dict(zip(models, models, strict=True))


def test_overrides_may_have_dotted_names() -> None:
    with create_context(**{"mine.a": 1, "mine.b": {"c": 2}}):
        assert get_config("mine") == {"a": 1, "b": {"c": 2}}
    with pytest.raises(ContextError, match=r"key 'a\.\.b'; expected a dotted name"):
        create_context(**{"a..b": 1})


def test_a_repr_shows_options_of_models_and_names_of_all_else() -> None:
    headers = {"Authorization": "Bearer abc"}
    models = {"default": "m", "api_key": "hush", "headers": headers}
    context = create_context(models=models, mine={"a": "private"})
    assert repr(context) == (
        "Context(models.default='m', models.api_key, models.headers.Authorization, mine.a)"
    )
