"""Who should answer. Pure: neither asyncio nor the bus; the clock is passed in.

`filters` say who can be asked, `scorers` how good each would be, `ranking` picks.
"""
