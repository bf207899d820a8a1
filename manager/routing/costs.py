"""Tokens and US dollars that a request will probably use at a model. Pure: estimates for limits and scores, never for
bills.
"""

from decimal import Decimal

from contracts import ModelCard, Price
from manager.routing.estimates import Estimates
from manager.routing.query import RoutingQuery

ELECTRICITY = Price.model_validate({"input_per_mtok": 0.018, "cached_input_per_mtok": 0, "output_per_mtok": 0.054})
"""The assumed price of a local model whose card has none: it sends no bill, but uses electricity
(docs/decisions/0004).
"""


def usual_price(card: ModelCard) -> Price | None:
    """The card's price, or a local model's electricity. None: the price is unknown and may be high."""
    return ELECTRICITY if card.price is None and card.local else card.price


def output_tokens(query: RoutingQuery, model_id: str, estimates: Estimates) -> float:
    """Tokens of the answer that this model will probably give."""
    tokens = estimates.look(model_id).output_tokens(query.tokens_in)
    most = query.request.max_tokens
    return tokens if most is None else min(tokens, most)


def limit_tokens(query: RoutingQuery, card: ModelCard, estimates: Estimates) -> float:
    """Tokens that a request may use of a worker's limit per minute: the prompt, and the longest answer that the caller
    allows or else the usual one.
    """
    most = query.request.max_tokens
    return query.tokens_in + (output_tokens(query, card.model_id, estimates) if most is None else most)


def expected_cost(query: RoutingQuery, card: ModelCard, estimates: Estimates) -> Decimal | None:
    """US dollars for the prompt and an answer of this model's usual length. None: the price is unknown."""
    price = usual_price(card)
    return None if price is None else price.cost(query.tokens_in, output_tokens(query, card.model_id, estimates))


def likely_cost(query: RoutingQuery, card: ModelCard, estimates: Estimates) -> Decimal | None:
    """US dollars to reserve in a budget, for as many tokens as the caller allows. None: the card has no price."""
    if card.price is None:
        return None
    most = query.request.max_tokens
    return expected_cost(query, card, estimates) if most is None else card.price.cost(query.tokens_in, most)
