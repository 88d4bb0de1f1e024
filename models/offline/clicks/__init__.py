"""Models that predict the next click, and item vectors.

`popularity` and `transitions` (the baselines), `gru4rec`, `youtube_dnn`; `next_item` has what their fits share;
`gru_trainer`, `click_factors` and `word2vec` refit online learners; `vector_file` reads and writes word2vec's formats.
"""
