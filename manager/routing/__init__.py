"""Which worker should answer a request. Pure: no asyncio, no bus; the caller of a function passes the time in.

`filters` say which workers can be asked, `stand_ins` which of them step back, and `grades` whose turn it is. `forecast`
estimates time, quality and price for each worker, `scorers` turn these into a score, and `ranking` picks the best.
"""
