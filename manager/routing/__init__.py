"""Which worker should answer. Pure: neither asyncio nor the bus; the clock is passed in.

`filters` say which workers can be asked, `scorers` how good each would be, `ranking` picks.
"""
