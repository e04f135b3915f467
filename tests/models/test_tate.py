"""Task-adaptive text enhancement: which branch answers, what padding may do, where gradients go."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from terraprompt.models.unigeoseg.config import TateConfig
from terraprompt.models.unigeoseg.tate import AttentionPool, TextEnhancement

D, L = 16, 5
Form = Literal["paper", "official"]
FORMS: tuple[Form, ...] = ("paper", "official")
INTERACTIVE, REFERRING, REASONING = range(3)


def build(form: Form, *, residual: bool = False) -> tuple[TextEnhancement, AttentionPool]:
    torch.manual_seed(0)
    tate = TextEnhancement(D, TateConfig(form=form, residual=residual)).eval()
    pool = AttentionPool(D)
    with torch.no_grad():
        for parameter in (*tate.parameters(), *pool.parameters()):
            parameter.copy_(torch.randn_like(parameter))
    return tate, pool


def inputs(task: int, *, seed: int = 1, length: int = L) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    return (
        torch.randn(1, length, D),
        torch.ones(1, length, dtype=torch.bool),
        torch.tensor([task]),
        torch.rand(1, 3, 4),
    )


def softmax_pool(query: Tensor, tokens: Tensor) -> Tensor:
    return ((tokens @ query) / math.sqrt(D)).softmax(0) @ tokens


@torch.no_grad()
def test_paper_equations() -> None:
    tate, pool = build("paper")
    tokens, mask, _, rows = inputs(0)
    e = tokens[0]

    def run(task: int) -> Tensor:
        return tate(tokens, mask, torch.tensor([task]), rows, pool)[0]

    projected = tate.coordinates(rows.flatten())
    want = torch.stack([tate.fuse(torch.cat([token, projected])) for token in e])
    torch.testing.assert_close(run(INTERACTIVE), want)
    pooled = softmax_pool(pool.query[0], e)
    torch.testing.assert_close(run(REFERRING), pooled.expand(L, D))
    mean = torch.stack([softmax_pool(q, e) for q in tate.queries.query]).mean(0)
    torch.testing.assert_close(run(REASONING), tate.norm(mean + tate.functional(e)))


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("branch", "answers"), [("referring", REFERRING), ("reasoning", REASONING)])
def test_one_branch_for_all_tasks(form: Form, branch: Literal["referring", "reasoning"], answers: int) -> None:
    """Table 7: every task gets what that branch gives."""
    own, pool = build(form)
    shared = TextEnhancement(D, TateConfig(form=form, branch=branch)).eval()
    shared.load_state_dict(own.state_dict())
    tokens, mask, _, rows = inputs(0)
    wanted = own(tokens, mask, torch.tensor([answers]), rows, pool)
    for task in (INTERACTIVE, REFERRING, REASONING):
        torch.testing.assert_close(shared(tokens, mask, torch.tensor([task]), rows, pool), wanted)
    assert not torch.allclose(own(tokens, mask, torch.tensor([INTERACTIVE]), rows, pool), wanted)


@torch.no_grad()
def test_official_forms() -> None:
    tate, pool = build("official")
    tokens, mask, _, rows = inputs(0)
    rows[0, 2] = 0  # two points: the third row is absent and leaves its position empty
    e = tokens[0]

    def run(task: int) -> Tensor:
        return tate(tokens, mask, torch.tensor([task]), rows, pool)[0]

    where = torch.zeros(L, D)
    where[:2] = tate.coordinates(rows[0, :2])
    torch.testing.assert_close(run(INTERACTIVE), tate.fuse(torch.cat([e, where], 1)))
    weights = (e @ pool.query[0] / math.sqrt(D)).softmax(0)
    torch.testing.assert_close(run(REFERRING), e * weights[:, None])
    mean = torch.stack([softmax_pool(q, e) for q in tate.queries.query]).mean(0)
    assert tate.fusion is not None
    one = tate.norm(tate.fusion(torch.cat([mean, tate.functional(e).mean(0)])))
    torch.testing.assert_close(run(REASONING), one.expand(L, D))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_official_coordinates_fit_fewer_tokens(form: Form) -> None:
    tate, pool = build(form)
    tokens, mask, task, rows = inputs(INTERACTIVE, length=2)
    assert tate(tokens, mask, task, rows, pool).shape == (1, 2, D)


@pytest.mark.parametrize("task", range(3))
@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_padding_changes_nothing(form: Form, task: int) -> None:
    tate, pool = build(form)
    tokens, mask, tasks, rows = inputs(task)
    alone = tate(tokens, mask, tasks, rows, pool)
    longer = torch.cat([tokens, torch.full((1, 4, D), 1e3)], 1)
    longer_mask = torch.cat([mask, torch.zeros(1, 4, dtype=torch.bool)], 1)
    padded = tate(longer, longer_mask, tasks, rows, pool)
    torch.testing.assert_close(padded[:, :L], alone, atol=1e-5, rtol=1e-5)
    assert padded.isfinite().all()
    torch.testing.assert_close(pool(longer, longer_mask), pool(tokens, mask))


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_a_mixed_batch_is_its_samples_one_by_one(form: Form) -> None:
    tate, pool = build(form)
    singles = [inputs(task, seed=10 + i) for i, task in enumerate((2, 0, 1, 0, 2))]
    batch = [torch.cat(column) for column in zip(*singles, strict=True)]
    together = tate(*batch, pool)
    for i, single in enumerate(singles):
        torch.testing.assert_close(together[i : i + 1], tate(*single, pool), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_reach_the_branch_of_the_task_alone(form: Form) -> None:
    reached = {}
    for task in range(3):
        tate, pool = build(form)
        tate(*inputs(task), pool).square().sum().backward()
        parameters = {**dict(tate.named_parameters()), "pool": pool.query}
        reached[task] = {
            n.split(".")[0] for n, p in parameters.items() if p.grad is not None and bool((p.grad != 0).any())
        }
    assert reached[INTERACTIVE] == {"coordinates", "fuse"}
    assert reached[REFERRING] == {"pool"}
    fusion = {"fusion"} if form == "official" else set()
    # a LayerNorm's squared sum hardly depends on what is inside, but its own parameters always do
    assert {"norm"} <= reached[REASONING] <= {"queries", "functional", "norm"} | fusion
    assert {"functional", "queries"} <= reached[REASONING]


@torch.no_grad()
def test_residual_adds_the_tokens() -> None:
    for task in range(3):
        (bare, pool), (residual, _) = build("paper"), build("paper", residual=True)
        tokens, *rest = inputs(task)
        torch.testing.assert_close(residual(tokens, *rest, pool), tokens + bare(tokens, *rest, pool))


@torch.no_grad()
def test_coordinates_matter_to_interactive_alone() -> None:
    tate, pool = build("paper")
    for task in range(3):
        tokens, mask, tasks, rows = inputs(task)
        same = torch.equal(tate(tokens, mask, tasks, rows, pool), tate(tokens, mask, tasks, rows * 0, pool))
        assert same == (task != INTERACTIVE)
