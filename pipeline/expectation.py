"""How many tokens a request will use, prompt and answer together: learnt from the answers of the run itself.

The gate reserves this before the answer is known. It starts from the bytes of the prompt and a guess for the answer, and
follows what the provider bills.
"""

FIRST_ANSWER_TOKENS = 128.0
_WEIGHT = 0.05  # of each new answer; about the last 40 count


class Expectation:
    """Moving means of billed prompt tokens per estimated one, and of answer tokens."""

    def __init__(self, answer_tokens: float | None = None) -> None:
        self._answer_tokens = FIRST_ANSWER_TOKENS if answer_tokens is None else answer_tokens
        self._prompt_ratio = 1.0

    def tokens(self, prompt_estimate: int) -> int:
        """The tokens to reserve for a request whose prompt is estimated at so many."""
        return max(1, round(prompt_estimate * self._prompt_ratio + self._answer_tokens))

    def learn(self, prompt_estimate: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Take in what one answer was billed."""
        if prompt_estimate > 0:
            self._prompt_ratio += _WEIGHT * (prompt_tokens / prompt_estimate - self._prompt_ratio)
        self._answer_tokens += _WEIGHT * (completion_tokens - self._answer_tokens)
