"""One container after the other: never fewer than before, and a new one that fails changes nothing."""

from collections.abc import Sequence

import pytest

from bullpen.containers import Container, ContainersError, Made
from bullpen.dotenv import value_of, with_value
from bullpen.upgrading import Pace, UpgradeFailed, in_order, replace_all, stop_inactive

OLD, NEW = Made("sha256:old", "1"), Made("sha256:new", "1")
AT_ONCE = Pace(ready_within=0.05, look_every=0.001, settles=0.0)


class Engine:
    """Containers that are only remembered. `comes`: how the new ones fare."""

    def __init__(self, count: int, comes: str = "ready", made: Made = OLD) -> None:
        self.there = [Container(f"old-{number}", made, ready=True, failed=False) for number in range(count)]
        self.comes = comes
        self._started = 0
        self.fewest = count
        self.most = count

    def containers(self, service: str) -> Sequence[Container]:
        return list(self.there)

    def start_one_more(self, service: str) -> None:
        if self.comes == "breaks":
            raise ContainersError("no space left on device")
        self._started += 1
        state = {"ready": (True, False), "fails": (False, True), "hangs": (False, False)}[self.comes]
        self.there.append(Container(f"new-{self._started}", NEW, *state))
        self.most = max(self.most, len(self.there))

    def remove(self, container_id: str) -> None:
        self.there = [one for one in self.there if one.id != container_id]
        self.fewest = min(self.fewest, sum(one.ready for one in self.there))

    def last_words(self, container_id: str) -> str:
        return f"{container_id}: cannot read /config/config.yaml"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_there_are_never_fewer_than_before_and_at_most_one_more(count: int) -> None:
    engine, told = Engine(count), list[str]()
    assert replace_all(engine, "manager", NEW, told.append, AT_ONCE) == count
    assert (engine.fewest, engine.most) == (count, count + 1)
    assert {one.made for one in engine.there} == {NEW}
    assert told[-1] == f"manager: {count} of {count} replaced"


@pytest.mark.parametrize(
    ("comes", "why"), [("fails", "it said: new-1: cannot read"), ("hangs", r"not within 0\.05 s; it said: new-1")]
)
def test_a_new_one_that_does_not_serve_is_removed_and_the_old_ones_stay(comes: str, why: str) -> None:
    engine = Engine(2, comes)
    with pytest.raises(UpgradeFailed, match=why):
        replace_all(engine, "manager", NEW, print, AT_ONCE)
    assert [one.id for one in engine.there] == ["old-0", "old-1"]


def test_an_engine_that_breaks_leaves_the_old_ones() -> None:
    engine = Engine(2, "breaks")
    with pytest.raises(ContainersError):
        replace_all(engine, "manager", NEW, print, AT_ONCE)
    assert [one.id for one in engine.there] == ["old-0", "old-1"]


def test_an_upgrade_that_was_broken_off_goes_on_where_it_was() -> None:
    engine = Engine(3)
    engine.there[0] = Container("new-0", NEW, ready=True, failed=False)
    assert replace_all(engine, "worker", NEW, print, AT_ONCE) == 2
    assert replace_all(engine, "worker", NEW, print, AT_ONCE) == 0, "nothing is left to do"


def test_another_configuration_is_another_make() -> None:
    engine = Engine(1)
    assert replace_all(engine, "openai_worker", Made(OLD.image, "2"), print, AT_ONCE) == 1


def test_the_accountant_comes_first_and_the_managers_last() -> None:
    services = ["manager", "openai_worker", "telemetry", "local_worker"]
    assert in_order(services) == ["telemetry", "local_worker", "openai_worker", "manager"]


def test_what_is_chosen_no_more_is_stopped_and_nothing_else() -> None:
    running = {"manager": ["a"], "openai_worker": ["b", "c"], "nats": ["d"], "somebodys_own": ["e"]}
    ours = {"manager", "openai_worker", "gemini_worker"}
    assert stop_inactive(running, ours, active={"manager"}) == {"openai_worker": ["b", "c"]}
    assert stop_inactive(running, ours, active=ours) == {}


ENV = "# ours\nA=1\n#BULLPEN_VERSION=no\nexport BULLPEN_VERSION='0.1.0'\nB=2"


def test_a_value_in_a_dotenv_file_is_replaced_in_its_place() -> None:
    assert value_of(ENV, "BULLPEN_VERSION") == "0.1.0"
    assert (
        with_value(ENV, "BULLPEN_VERSION", "2")
        == ENV.replace("export BULLPEN_VERSION='0.1.0'", "BULLPEN_VERSION=2") + "\n"
    )
    assert with_value(ENV, "C", "3") == ENV + "\nC=3\n"
    assert value_of(ENV, "C") is None
    assert with_value("", "C", "3") == "C=3\n"
