"""One HTML file that says how models of the field do on a history: pictures, the numbers behind them, and one user's page.

`figures` draws, and alone knows matplotlib; it comes with the extra `offline`.
"""
