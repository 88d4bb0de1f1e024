"""Did anything change? Two commits do the same things, and what comes out is compared: `python -m benchmarks.same_behaviour OTHER DATA`.

OTHER is a checkout of the commit before, set up by `make setup`; DATA is ml-latest-small. Each side runs in processes of its own,
from its own `.venv`, and is known by its commands, its files and its endpoint alone, so that names in the code may change at will.

`facts` says what is compared and how it is shown, `checkout` runs one side, `disk` reads what it left, `surface` reads what it
offers (commands, settings, metrics, RPCs), `asked` holds the calls, `runs` the things that both do, and `speed` takes their time by turns.
"""
