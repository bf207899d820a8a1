"""When a stand-in steps back: the last filter, applied when every other candidate has its verdict. Pure.

A stand-in answers only while no other model is ready, so that a mesh answers from its first minute. Another model is
ready when it is free or full and would answer before the deadline: a short wait in the queue is better than a toy's
answer. A model that rests for more than `MOMENT`, fails, or cannot do what is asked is not ready, and the stand-in
answers.
"""

from collections.abc import Callable, Mapping

from manager.routing.filters import CAN_BE_ASKED, RejectReason, Situation, Verdict, rest_s
from manager.routing.query import Choice, RoutingQuery

MOMENT = 5.0
"""Seconds for which a resting model still counts as ready, so that its stand-in does not answer."""
STEPS_BACK = Verdict(RejectReason.STAND_IN, "stands in only until another model is ready")


def step_back(
    at: Situation, verdicts: Mapping[Choice, Verdict], in_time: Callable[[Choice], bool]
) -> Mapping[Choice, Verdict]:
    """The verdicts, changed for the stand-ins that step back. `in_time`: whether a candidate would answer before the
    deadline.
    """
    stand_ins = [choice for choice in verdicts if choice.card.stand_in and verdicts[choice].reason in CAN_BE_ASKED]
    if not stand_ins or at.query.names_its_model:
        return verdicts
    others = ((choice, one) for choice, one in verdicts.items() if not choice.card.stand_in)
    if at.query.other_model_at_it or any(_is_ready(at, choice, one, in_time) for choice, one in others):
        return {**verdicts, **dict.fromkeys(stand_ins, STEPS_BACK)}
    return verdicts


def is_stand_in(query: RoutingQuery, choice: Choice) -> bool:
    """Whether the candidate only stands in: not when the caller named its model or backend."""
    return choice.card.stand_in and not query.names_its_model


def _is_ready(at: Situation, choice: Choice, told: Verdict, in_time: Callable[[Choice], bool]) -> bool:
    """Whether this model is ready to answer, so that stand-ins step back."""
    match told.reason:
        case RejectReason.NONE | RejectReason.FULL:
            return in_time(choice)
        case RejectReason.PAUSED:
            return rest_s(at, choice) <= MOMENT
        case RejectReason.EXHAUSTED:
            return not at.query.include_full  # it may only have been full: the second look says so
        case _:
            return False
