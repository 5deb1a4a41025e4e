"""The repetition penalty that leaves out the states, as a server's logits processor applies it."""

import torch

from sage_core.engines.state_penalty import Penalised, count_closing_braces, penalise

BRACES = count_closing_braces(["{", "}", "}}", "a", "b", "c"], 8)


def test_closing_braces_of_a_vocabulary() -> None:
    assert BRACES == [0, 1, 2, 0, 0, 0, 0, 0]


def test_the_penalty_starts_where_the_states_end() -> None:
    """Penalty 2: a seen token's logit 3 becomes 1.5, -3 becomes -6; others stay."""
    reply: list[int] = []
    row = Penalised(2.0, open_groups=2, prompt=[5], reply=reply)
    logits = torch.tensor([[3.0, 3.0, 3.0, -3.0, 3.0, 3.0, -3.0, 3.0]])

    def after(*tokens: int) -> list[float]:
        reply.extend(tokens)
        penalised = logits.clone()
        penalise(penalised, {0: row}, BRACES)
        assert bool((penalised[0] == logits[0]).all()) == (row.open_groups > 0)
        return [float(score) for score in penalised[0]]

    after()
    after(0, 3, 1)  # { a }
    after(0, 4)  # { b
    assert after(1) == [1.5, 1.5, 3.0, -6.0, 1.5, 1.5, -3.0, 3.0]
    # Groups that are opened later are text.
    assert after(0, 2) == [1.5, 1.5, 1.5, -6.0, 1.5, 1.5, -3.0, 3.0]


def test_a_token_may_close_both_groups() -> None:
    row = Penalised(2.0, open_groups=2, prompt=[], reply=[2])
    logits = torch.ones(1, 8)
    penalise(logits, {0: row}, BRACES)
    assert logits[0].tolist() == [1, 1, 0.5, 1, 1, 1, 1, 1]


def test_only_the_rows_that_ask_for_it_change() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 8)
    before = logits.clone()
    rows = {
        1: Penalised(1.5, open_groups=0, prompt=[1, 2], reply=[3]),
        2: Penalised(1.5, open_groups=1, prompt=[1, 2], reply=[3]),
        3: Penalised(3.0, open_groups=0, prompt=[6], reply=[]),
    }
    penalise(logits, rows, BRACES)
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    for row, seen, penalty in ((1, [1, 2, 3], 1.5), (3, [6], 3.0)):
        for token in range(8):
            score = float(before[row, token])
            expected = score / penalty if score > 0 else score * penalty
            assert float(logits[row, token]) == torch.tensor(expected if token in seen else score)


def test_a_token_that_a_grammar_forbids_stays_forbidden() -> None:
    logits = torch.full((1, 8), float("-inf"))
    penalise(logits, {0: Penalised(1.1, 0, [1], [])}, BRACES)
    assert bool(torch.isinf(logits).all())
