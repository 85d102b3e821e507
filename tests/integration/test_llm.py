"""Any OpenAI-compatible endpoint, over real HTTP: it streams, calls tools, and fails aloud."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import AsyncOpenAI
from pipecat.frames.frames import (
    ErrorFrame,
    InterruptionFrame,
    LLMFullResponseEndFrame,
    LLMTextFrame,
    MetricsFrame,
    TTSSpeakFrame,
)
from pipecat.metrics.metrics import LLMUsageMetricsData
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.services.llm_service import FunctionCallParams
from pipecat.utils.errors import ErrorCategory

from bot.agent import end_call, roll_dice
from services.llm import ollama
from services.llm.ollama import find_ollama, ollama_base_url
from services.llm.openai import LLMRefusedError, openai_llm
from services.openai_endpoint import OPENAI_URL, openai_client
from tests.fakes.openai_server import Drop, FakeOpenAI, Refusal, Silence, Text, ToolCall
from tests.fakes.text_call import APOLOGY, GOODBYE, OUT_OF_ORDER, TextCall

PATIENCE = 30.0
"""Seconds of silence that no test waits for: what takes as long has hung."""


@asynccontextmanager
async def calling(
    server: FakeOpenAI,
    tools: Sequence[Any] = (),
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    **limits: float,
) -> AsyncIterator[TextCall]:
    """A call whose model is the server's."""
    client = openai_client(api_key or server.api_key, base_url or server.base_url)
    limits = {"silence_secs": PATIENCE, "total_secs": PATIENCE} | limits
    llm = openai_llm(client, model="fake-1", system_instruction="Be brief.", **limits)
    async with client, TextCall(llm, tools) as call:
        yield call


def spoken(call: TextCall) -> list[str]:
    """The fixed lines that the agent was made to say."""
    return [frame.text for frame in call.seen(TTSSpeakFrame)]


async def test_streams_an_answer() -> None:
    """Tokens come as they are sent; the request carries the prompt, the words and the model."""
    async with FakeOpenAI(Text("Paris is the capital.")) as server, calling(server) as call:
        assert await call.ask("what is the capital of France") == "Paris is the capital."
        assert [frame.text for frame in call.seen(LLMTextFrame)] == [
            "Paris",
            " is",
            " the",
            " capital.",
        ]
        (request,) = server.requests
        assert request["model"] == "fake-1"
        assert request["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "what is the capital of France"},
        ]
        used = [d for f in call.seen(MetricsFrame) for d in f.data]
        assert [d.value.total_tokens for d in used if isinstance(d, LLMUsageMetricsData)] == [11]


async def test_answers_in_one_piece_outside_a_call() -> None:
    """What is asked for as JSON of a schema comes as that; a refusal names the setting alone."""
    question = LLMContext([{"role": "user", "content": "Is it one?"}])
    schema = {
        "type": "object",
        "properties": {"one": {"type": "boolean"}},
        "required": ["one"],
        "additionalProperties": False,
    }
    async with FakeOpenAI() as server:
        server.judge = lambda asked: {"one": asked == "Is it one?"}
        for key in (server.api_key, "sk-wrong-and-secret"):
            async with openai_client(key, server.base_url) as client:
                llm = openai_llm(client, model="fake-1", system_instruction="", silence_secs=9)
                answer = llm.run_inference(question, response_schema=schema)
                if key == server.api_key:
                    assert await answer == '{"one": true}'
                    continue
                with pytest.raises(LLMRefusedError, match="OPENAI_API_KEY") as refused:
                    await answer
                assert "secret" not in str(refused.value)


async def test_a_tool_goes_there_and_back() -> None:
    """The model's call reaches the function with its arguments; the result reaches the model."""
    server = FakeOpenAI(ToolCall("roll_dice", {"sides": 2, "count": 9}), Text("You rolled nine."))
    async with server, calling(server, [roll_dice]) as call:
        assert await call.ask("roll nine coins") == "You rolled nine."
        asked, answered = server.requests
        assert [tool["function"]["name"] for tool in asked["tools"]] == ["roll_dice"]
        assert answered["messages"][-1]["role"] == "tool"
        assert '"total"' in answered["messages"][-1]["content"]


async def test_an_unknown_tool_is_survived() -> None:
    """A model that invents a tool is told so, and may answer."""
    async with (
        FakeOpenAI(ToolCall("fly"), Text("I cannot fly.")) as server,
        calling(server, [roll_dice]) as call,
    ):
        assert await call.ask("fly") == "I cannot fly."
        assert "not currently available" in server.requests[1]["messages"][-1]["content"]


async def test_a_failing_tool_is_no_reason_to_apologise() -> None:
    """The model is told of a tool's failure and answers for it; nothing else is said."""

    async def weather(params: FunctionCallParams) -> None:
        """Tell the weather."""
        raise RuntimeError("no barometer")

    async with (
        FakeOpenAI(ToolCall("weather"), Text("I can't see the sky.")) as server,
        calling(server, [weather]) as call,
    ):
        assert await call.ask("is it raining") == "I can't see the sky."
        assert spoken(call) == []


@pytest.mark.parametrize(
    ("silence", "limits", "said"),
    [
        (Silence(None), {"silence_secs": 1.0}, "silent for 1 s"),
        (Silence(""), {"silence_secs": 1.0}, "silent for 1 s"),
        (Silence("Well, the"), {"silence_secs": 1.0}, "silent for 1 s"),
        (Silence("Well, the"), {"total_secs": 1.0}, "not finished after 1 s"),
    ],
)
async def test_a_model_that_hangs_is_apologised_for(
    silence: Silence, limits: dict[str, float], said: str
) -> None:
    """Wherever it falls silent: an apology, the request dropped, and the next turn knows both."""
    async with FakeOpenAI(silence, Text("Here I am.")) as server, calling(server, **limits) as call:
        timeouts = asyncio.Event()

        @call.llm.event_handler("on_completion_timeout")
        async def _timeout(*_: object) -> None:
            timeouts.set()

        await call.tell("are you there")
        (apology,) = await call.until_seen(TTSSpeakFrame)
        assert apology.text == APOLOGY
        await asyncio.gather(timeouts.wait(), server.client_left.wait())
        (error,) = call.seen(ErrorFrame)
        assert said in str(error.exception)
        assert (silence.text or "").startswith(call.text())
        call.llm.silence_secs = call.llm.total_secs = PATIENCE  # type: ignore[attr-defined]
        await call.tell("hello?")
        await call.until(lambda _: call.text().endswith("Here I am."))
        contents = [message["content"] for message in server.requests[1]["messages"]]
        assert contents[1] == "are you there"
        assert contents[-1] == "hello?"
        assert spoken(call) == [APOLOGY]


async def test_an_answer_that_breaks_off() -> None:
    """What came before the connection dropped is said, then the apology; the next turn works."""
    async with FakeOpenAI(Drop("The answer is"), Text("Again.")) as server, calling(server) as call:
        await call.tell("what is it")
        (apology,) = await call.until_seen(TTSSpeakFrame)
        assert (call.text(), apology.text) == ("The answer is", APOLOGY)
        assert await call.ask("sorry?") == "Again."


async def test_a_refused_key_names_the_setting() -> None:
    """A wrong key is reported by the setting's name, never its value; the caller hears so too."""
    async with (
        FakeOpenAI(Text("unheard")) as server,
        calling(server, api_key="sk-wrong-and-secret") as call,
    ):
        await call.tell("hello")
        (line,) = await call.until_seen(TTSSpeakFrame)
        assert line.text == OUT_OF_ORDER
        (error,) = call.seen(ErrorFrame)
        assert "OPENAI_API_KEY" in error.error
        assert "secret" not in error.error
        assert error.category is ErrorCategory.AUTHENTICATION
        await call.tell("hello again")
        await call.until_seen(TTSSpeakFrame, 2)
        assert spoken(call) == [OUT_OF_ORDER] * 2


@pytest.mark.parametrize(
    ("status", "part", "line"),
    [
        (403, "OPENAI_API_KEY may not use fake-1", OUT_OF_ORDER),
        (404, "knows no model fake-1", OUT_OF_ORDER),
        (500, "500", APOLOGY),
    ],
)
async def test_what_the_endpoint_refuses(status: int, part: str, line: str) -> None:
    """Each refusal is told apart, and each of them is heard once, after at most one more try."""
    async with FakeOpenAI(*[Refusal(status)] * 2, Text("Back.")) as server, calling(server) as call:
        await call.tell("hello")
        (heard,) = await call.until_seen(TTSSpeakFrame)
        assert heard.text == line
        assert part in call.errors()[0]
        assert len(server.requests) == (2 if status == 500 else 1)


async def test_a_refusal_that_quotes_the_key_does_not_pass_it_on() -> None:
    """What an endpoint says in its own words, the request's key included, is not repeated."""
    quoting = Refusal(400, message="bad header: Bearer sk-fake")
    async with FakeOpenAI(quoting) as server, calling(server) as call:
        await call.tell("hello")
        await call.until_seen(TTSSpeakFrame)
        assert "400" in call.errors()[0]
        assert not any("sk-fake" in error for error in call.errors())


async def test_an_empty_answer_is_apologised_for() -> None:
    """A stream without words or calls is no silence for the caller, and names what may be wrong."""
    async with FakeOpenAI(Text(""), Text("Back.")) as server, calling(server) as call:
        await call.tell("hello")
        (heard,) = await call.until_seen(TTSSpeakFrame)
        assert heard.text == APOLOGY
        assert "OPENAI_BASE_URL" in call.errors()[0]
        assert await call.ask("sorry?") == "Back."


async def test_an_endpoint_that_is_not_there() -> None:
    """A refused connection names `OPENAI_BASE_URL`, and the caller hears the apology."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with calling(FakeOpenAI(), base_url=f"http://127.0.0.1:{port}/v1") as call:
            await call.tell("hello")
            (heard,) = await call.until_seen(TTSSpeakFrame)
            assert heard.text == APOLOGY
            assert "OPENAI_BASE_URL" in call.errors()[0]
            assert call.seen(ErrorFrame)[0].category is ErrorCategory.CONNECTIVITY


async def test_an_interruption_drops_the_request() -> None:
    """Interrupted while the model hangs, the request is closed and nothing is said of it."""
    async with FakeOpenAI(Silence("One moment"), Text("Yes?")) as server, calling(server) as call:
        await call.tell("think hard")
        await server.fell_silent.wait()
        await call.until_seen(LLMTextFrame, 2)
        await call.worker.queue_frame(InterruptionFrame())
        await server.client_left.wait()
        await call.until_seen(LLMFullResponseEndFrame)
        await call.tell("never mind")
        await call.until(lambda _: call.text().endswith("Yes?"))
        assert spoken(call) == []
        assert call.errors() == []


async def test_the_model_hangs_up() -> None:
    """The model's own goodbye is heard, or the agent's in its place; then the pipeline ends."""
    for text, lines in (("Bye, then!", []), ("", [GOODBYE])):
        async with (
            FakeOpenAI(ToolCall("end_call", text=text)) as server,
            calling(server, [end_call]) as call,
        ):
            await call.tell("bye")
            await call.ended()
            assert call.text() == text
            assert spoken(call) == lines
            assert len(server.requests) == 1


async def test_calls_share_connections() -> None:
    """Two calls on one client use one connection, one after the other."""
    async with FakeOpenAI() as server, openai_client(server.api_key, server.base_url) as client:
        for _ in range(2):
            llm = openai_llm(client, model="fake-1", system_instruction="", silence_secs=PATIENCE)
            async with TextCall(llm) as call:
                assert await call.ask("hello") == "You said: hello"
        assert len(server.connections) == 1


async def test_only_openai_itself_gets_developer_messages() -> None:
    """Elsewhere an instruction in mid-call goes as the user's, which every endpoint knows."""
    async with FakeOpenAI() as server, calling(server) as call:
        assert await call.ask("The user is silent.", role="developer")
        assert server.requests[0]["messages"][-1]["role"] == "user"
    async with AsyncOpenAI(api_key="x", base_url=OPENAI_URL) as client:
        llm = openai_llm(client, model="m", system_instruction="", silence_secs=PATIENCE)
        assert llm.supports_developer_role


async def test_the_temperature_reaches_the_endpoint() -> None:
    """What is set is sent."""
    async with FakeOpenAI() as server, openai_client("sk-fake", server.base_url) as client:
        llm = openai_llm(
            client, model="m", system_instruction="", silence_secs=PATIENCE, temperature=0.2
        )
        async with TextCall(llm) as call:
            await call.ask("hello")
    assert server.requests[0]["temperature"] == 0.2


async def find(url: str, model: str | None = None) -> str | None:
    """`find_ollama`, from the thread that it wants."""
    return await asyncio.to_thread(find_ollama, url, model)


async def test_ollama_is_found_with_its_first_chat_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that can chat is taken, or the one that is asked for, if it is there."""
    monkeypatch.setattr(ollama, "LOOK_SECS", PATIENCE)
    async with FakeOpenAI() as server:
        server.tags = [
            {"name": "nomic-embed-text:latest", "details": {"family": "nomic-bert"}},
            {"name": "llama3.2:latest", "details": {"family": "llama"}, "size": 1},
            {"name": "qwen3:4b"},
        ]
        assert await find(server.url) == "llama3.2:latest"
        assert await find(f"{server.url}/", "qwen3:4b") == "qwen3:4b"
        assert await find(server.url, "llama3.2") == "llama3.2:latest"
        assert await find(server.url, "mistral") is None
        server.tags = []
        assert await find(server.url) is None
        assert ollama_base_url(server.url) == server.base_url


async def test_no_ollama_is_no_trouble() -> None:
    """Nothing there, something else there, or something too slow: no model, and no error."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert await find(f"http://127.0.0.1:{unused.getsockname()[1]}") is None
    assert await find("not a url") is None
    async with FakeOpenAI() as server:
        assert await find(f"{server.url}/nowhere") is None
        server.tags = None
        assert await find(server.url) is None
        await server.client_left.wait()
