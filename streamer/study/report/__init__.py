"""One HTML file that says how models of the field do on a history: pictures, the numbers behind them, and one user's page.

`contenders` fits the models on one split; `errors_by`, `topten`, `misses` and `user_page` work out the numbers, `belief` what the online
learner knows of the same part; `sections` puts them into words, `figures` draws (and alone knows matplotlib), `page` fills
`report.html.j2` (and alone knows jinja2). Both libraries come with the extra `offline`.
"""
