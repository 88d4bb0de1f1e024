"""Models of what is clicked next, and item vectors.

`popularity` and `transitions` (what the others must beat), `gru4rec`, `youtube_dnn`; `next_item` is how they are fitted;
`gru_trainer`, `click_factors` and `word2vec` refit online learners; `vector_file` reads and writes word2vec's formats.
"""
