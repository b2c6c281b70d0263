"""LlamaIndex's OpenAILike and OpenAILikeEmbedding."""

from harness import ENCODER, MODEL, PROMPT, TEXTS, URL, check, check_vectors, feature, run
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

GIVEN = {"model": MODEL, "api_base": f"{URL}/v1", "api_key": "none", "max_tokens": 20}
chat_model = OpenAILike(**GIVEN, is_chat_model=True, is_function_calling_model=True)
HELLO = [ChatMessage(role="user", content="Say hello.")]


@feature("completions")
def completions() -> None:
    answer = OpenAILike(**GIVEN, temperature=0).complete(PROMPT)
    check("Paris" in answer.text, answer)


@feature("chat")
def chat() -> None:
    check(chat_model.chat(HELLO).message.content, "nothing")


@feature("chat streamed")
def streamed() -> None:
    check("".join(part.delta or "" for part in chat_model.stream_chat(HELLO)), "nothing")


@feature("embeddings", needs=ENCODER)
def embeddings() -> None:
    model = OpenAILikeEmbedding(model_name=ENCODER, api_base=f"{URL}/v1", api_key="none")
    check_vectors(model.get_text_embedding_batch(TEXTS))


run()
