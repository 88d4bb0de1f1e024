"""Does a change keep the behaviour? Runs two commits on the same input and compares the results.

    python -m benchmarks.same_behaviour OTHER DATA

OTHER is a checkout of the commit before, set up by `make setup`; DATA is ml-latest-small. Each side runs in processes of its own,
from its own `.venv`, and is observed only through its commands, its files and its endpoint, so that names in the code may change freely.

`runs` (what each side does), `checkout` (runs the commands of one side), `asked` (the calls to its endpoint), `disk` (reads the files
that it left), `surface` (its commands, settings, metrics and RPCs), `facts` (what is compared, and how differences are shown), `speed`
(times both sides by turns).
"""
