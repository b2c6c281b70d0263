"""/v1/score_choices and /v1/perplexity: how likely given texts are; nothing is generated."""
