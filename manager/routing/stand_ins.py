"""When a stand-in steps back: the last filter, for which every other candidate has its verdict already. Pure.

A stand-in answers only while no other model is ready, so that a mesh answers from its first minute. Another model is
ready when it is free or full and would answer before the deadline: a moment in the queue is better than the answer of a
toy. One that rests for longer than a moment, fails, or cannot do what is asked is not ready, and the stand-in answers.
"""

from collections.abc import Callable, Mapping

from manager.routing.filters import CAN_BE_ASKED, RejectReason, Situation, Verdict, rest_s
from manager.routing.query import Choice, RoutingQuery

MOMENT = 5.0
"""Seconds that a model may ask to be left alone for, and is ready all the same: its stand-in does not answer."""
STEPS_BACK = Verdict(RejectReason.STAND_IN, "stands in only until another model is ready")


def step_back(
    at: Situation, verdicts: Mapping[Choice, Verdict], in_time: Callable[[Choice], bool]
) -> Mapping[Choice, Verdict]:
    """The verdicts, with those of stand-ins that step back. `in_time`: whether one would answer before the deadline."""
    stand_ins = [choice for choice in verdicts if choice.card.stand_in and verdicts[choice].reason in CAN_BE_ASKED]
    if not stand_ins or at.query.names_its_model:
        return verdicts
    others = ((choice, one) for choice, one in verdicts.items() if not choice.card.stand_in)
    if at.query.other_model_at_it or any(_is_ready(at, choice, one, in_time) for choice, one in others):
        return {**verdicts, **dict.fromkeys(stand_ins, STEPS_BACK)}
    return verdicts


def is_stand_in(query: RoutingQuery, choice: Choice) -> bool:
    """Whether it only stands in: not when the caller asked for its model or backend by name."""
    return choice.card.stand_in and not query.names_its_model


def _is_ready(at: Situation, choice: Choice, told: Verdict, in_time: Callable[[Choice], bool]) -> bool:
    """Whether this model is to answer rather than a stand-in."""
    match told.reason:
        case RejectReason.NONE | RejectReason.FULL:
            return in_time(choice)
        case RejectReason.PAUSED:
            return rest_s(at, choice) <= MOMENT
        case RejectReason.EXHAUSTED:
            return not at.query.include_full  # it may only have been full: the second look says so
        case _:
            return False
