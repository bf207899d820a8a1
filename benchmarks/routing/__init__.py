"""Who should answer? Bullpen's ranking against what gateways do, in a simulation that drives the real code.

`world` says what happens, `simulation` lets it happen, `strategies` decide, `judge` adds up. Time in the
simulation is its own: an hour takes seconds, and a seed always gives the same hour.
"""
