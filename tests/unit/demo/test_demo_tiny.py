"""The lab's own forward is the Hugging Face model's, token for token: trials would mean nothing otherwise."""

import pytest
import torch
from demo.lab.tiny import Tiny, new_model, pad

PROMPTS = [[5, 6, 7, 8, 9, 10], [11, 12, 13]]
COMPLETIONS = [[20, 21, 22], [23], [24, 25, 26, 27], [28, 29]]


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    torch.set_num_threads(1)
    return Tiny(new_model(64, layers=2, seed=3).eval())


def reference(tiny: Tiny, prompt: list[int], completion: list[int]) -> torch.Tensor:
    """[completion] log probabilities from Hugging Face's own forward on the whole sequence."""
    ids = torch.tensor([[*prompt, *completion]])
    logs = tiny.model(input_ids=ids).logits.log_softmax(-1)[0]
    at = torch.arange(len(prompt) - 1, len(prompt) + len(completion) - 1)
    return logs[at, ids[0, at + 1]]


def test_shared_prompts_give_the_model_s_log_probabilities(tiny: Tiny) -> None:
    logprobs, entropy, mask = tiny.logprobs(PROMPTS, COMPLETIONS)
    assert mask.sum(1).tolist() == [3, 1, 4, 2]
    for i, completion in enumerate(COMPLETIONS):
        want = reference(tiny, PROMPTS[i // 2], completion)
        torch.testing.assert_close(logprobs[i, : len(completion)], want, atol=1e-5, rtol=0)
    assert (entropy[mask] > 0).all()


def test_the_gradient_flows_through_the_shared_prompt(tiny: Tiny) -> None:
    tiny.model.zero_grad()
    logprobs, _, mask = tiny.logprobs(PROMPTS, COMPLETIONS)
    logprobs[mask].sum().backward()
    shared = {name: p.grad.clone() for name, p in tiny.model.named_parameters()}
    tiny.model.zero_grad()
    torch.cat([reference(tiny, PROMPTS[i // 2], c) for i, c in enumerate(COMPLETIONS)]).sum().backward()
    for name, p in tiny.model.named_parameters():
        torch.testing.assert_close(shared[name], p.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_greedy_generation_is_the_model_s(tiny: Tiny) -> None:
    said = tiny.generate(PROMPTS, siblings=2, limit=6, stop=63, greedy=True)
    for i, tokens in enumerate(said):
        ids = torch.tensor([PROMPTS[i // 2]])
        for token in tokens:
            assert tiny.model(input_ids=ids).logits[0, -1].argmax() == token
            ids = torch.cat([ids, torch.tensor([[token]])], 1)


def test_generation_ends_at_the_stop_token(tiny: Tiny) -> None:
    first = tiny.generate(PROMPTS[:1], siblings=1, limit=4, stop=-1, greedy=True)[0]
    ended = tiny.generate(PROMPTS[:1], siblings=1, limit=4, stop=first[1], greedy=True)[0]
    assert ended == first[: first.index(first[1]) + 1]


def test_padding_is_on_the_right() -> None:
    assert pad([[1, 2, 3], [4]]).tolist() == [[1, 2, 3], [4, 0, 0]]
