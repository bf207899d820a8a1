"""Which worker should answer. Pure: neither asyncio nor the bus; the clock is passed in.

`filters` say which workers can be asked, `stand_ins` which ones step back, `grades` whose turn it is, `forecast` what
is to be expected of each, `scorers` how good that is; `ranking` picks.
"""
