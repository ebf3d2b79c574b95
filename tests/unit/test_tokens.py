"""Token counts against figures that the provider printed with its own examples.

Texts and figures: the examples of the DashScope API pages (July to October 2024) and of the page on batch
files (35, 7, 26); spaces that the page's extract put between Chinese and Latin letters are taken out again.
"""

import subprocess
import sys

import pytest

from pipeline.tokens import count_messages, count_text, cut_text, estimate_from_bytes

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}

COMPLETIONS = {
    "我是通义千问,由阿里云开发的AI助手。我被设计用来回答各种问题、提供信息和与用户进行对话。有什么我可以帮助你的吗?": 36,
    "我是来自阿里云的超大规模语言模型,我叫通义千问。": 17,
    "中国队在2024年巴黎奥运会中获得了40枚金牌,这个成绩让中国队与美国队并列金牌榜的第一位。此外,中国体育代表团还获得了27枚"
    "银牌和24枚铜牌。这一成就不仅追平了美国队的金牌数,还创造了中国参加境外奥运会所获得金牌数最多的纪录。": 74,
    "中国队在2024年巴黎奥运会中获得了40枚金牌。这个成绩帮助中国体育代表团创造了在境外参加奥运会所获得金牌数最多的纪录。"
    "除此之外,中国运动员们还赢得了27枚银牌和24枚铜牌。": 53,
    "你好！当然可以。无论是需要信息查询、学习资料、解决问题的方法，还是其他任何帮助，我都在这里为你提供支持。"
    "请告诉我你需要什么方面的帮助？": 35,
    "2+2 equals 4.": 7,
}


@pytest.mark.parametrize(("text", "billed"), COMPLETIONS.items())
def test_completions_count_as_billed(text: str, billed: int) -> None:
    assert count_text(text) == billed


@pytest.mark.parametrize(
    ("messages", "billed"),
    [
        ([SYSTEM, {"role": "user", "content": "你是谁?"}], 22),
        ([{"role": "user", "content": "你是谁"}], 10),
        ([SYSTEM, {"role": "user", "content": "你好！有什么可以帮助你的吗？"}], 26),
        ([SYSTEM, {"role": "user", "content": "What is 2+2?"}], 26),
    ],
)
def test_prompts_count_as_billed(messages: list[dict[str, str]], billed: int) -> None:
    assert count_messages(messages) == billed


def test_tail_tokens_are_added_once() -> None:
    assert count_messages([SYSTEM, {"role": "user", "content": "你是谁？"}], tail_tokens=4) == 26


def test_only_the_text_parts_of_a_content_count() -> None:
    parts = [
        {"type": "text", "text": "你是谁"},
        {"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}},
        "stray",
        {"type": "text", "text": None},
    ]
    assert count_messages([{"role": "user", "content": parts}]) == 10
    assert count_messages([{"role": "assistant", "content": None}, {"role": "user"}]) == 5 + 5 + 3


@pytest.mark.parametrize("name", ["<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_the_name_of_a_special_token_is_plain_text(name: str) -> None:
    assert count_text(name) > 1
    assert count_text(f"a{name}b") > 3


def test_composed_and_decomposed_letters_count_alike() -> None:
    assert (
        count_text("caf\u0065\u0301 ga\u0308rten")
        == count_text("cafe\u0301 gärten")
        == count_text("café gärten")
    )


def test_half_a_surrogate_pair_counts_like_a_replacement() -> None:
    assert count_text("ok \ud83d") == count_text("ok ?")


def test_a_cut_text_keeps_at_most_so_many_tokens_and_whole_characters() -> None:
    text = "我是通义千问, 🧵🪡 made of threads."
    for tokens in range(count_text(text) + 1):
        kept = cut_text(text, tokens)
        assert text.startswith(kept)
        assert count_text(kept) <= tokens
    assert cut_text(text, 1_000) == text


def test_the_estimate_from_bytes_is_not_below_the_count_of_prose() -> None:
    for text in COMPLETIONS:
        messages = [SYSTEM, {"role": "user", "content": text}]
        body = f'{{"model":"qwen-plus","messages":{messages}}}'.encode()
        assert count_messages(messages) <= estimate_from_bytes(len(body)) <= 3 * count_messages(messages)
    assert estimate_from_bytes(0) == 0


def test_importing_does_not_load_the_vocabulary() -> None:
    code = "import pipeline.tokens as t; print(t._vocabulary.cache_info().currsize)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
