"""One HTML file on how well models of the field do on a history: pictures, the numbers behind them, and one user's page.

`streamer report` calls it. `contenders` fits the models on one split; `errors_by`, `topten`, `misses` and `user_page` compute the
numbers, and `belief` what the online learner knows after the same training part. `sections` puts them into words, `figures` draws
(matplotlib is known here only) and `page` fills `report.html.j2` (jinja2 is known here only). Both come with the extra `offline`.
"""
