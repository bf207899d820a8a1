"""Who should answer. Pure: neither asyncio nor the bus; the clock is passed in.

`filters` say who can be asked, `stand_ins` who steps back, `grades` whose turn it is, `forecast` what is to be expected
of each, `scorers` how good that is; `ranking` picks.
"""
